#!/usr/bin/env bash
# clang-tidy over C++ sources changed since REV (default: the last commit's parent), or --all.
# Usage: tests/tidy.sh [--all | REV]
set -uo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --all ]; then
  files=$(git ls-files '*.cc')
else
  rev=${1:-$(git rev-parse -q --verify HEAD~1 || git hash-object -t tree /dev/null)}
  files=$(git diff --name-only --diff-filter=d "$rev" -- '*.cc')
fi
files=$(grep -v '^kernels/cuda/' <<< "$files" || true)
[ -n "$files" ] || { echo "no changed C++ source"; exit 0; }
bazel build //proto:all >/dev/null 2>&1 || { echo "the protocols do not build"; exit 1; }
generated=$(bazel info bazel-bin 2>/dev/null)
# shellcheck disable=SC2086
echo $files | xargs -n 1 -P "$(nproc)" sh -c 'clang-tidy-14 --quiet "$0" -- -std=c++20 -I. \
  -I'"$generated"' -I'"$generated"'/proto -DRAPIDJSON_HAS_STDSTRING=1 2>/dev/null'
