#!/usr/bin/env bash
# Installs the Debian packages of deploy/packages.txt that are missing; does nothing when none is.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
while read -r package _; do
  case "$package" in ''|'#'*) continue ;; esac
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done < deploy/packages.txt
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -eq 0 ]; then sudo=(); elif command -v sudo >/dev/null; then sudo=(sudo); else
  echo "deploy/install.sh: root or sudo is needed to install: ${missing[*]}" >&2
  exit 1
fi
echo "installing ${#missing[@]} packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get -q update
"${sudo[@]}" apt-get -q install -y --no-install-recommends "${missing[@]}"
