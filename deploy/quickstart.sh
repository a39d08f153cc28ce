#!/usr/bin/env bash
# From a bare Debian 12 to a streamed answer: installs packages, builds the `reprise` binary, starts a
# cluster on loopback with the demo model, asks it a question and keeps serving until Ctrl-C.
#
#   deploy/quickstart.sh [--once] [--listen HOST:PORT] [PROMPT]
#
#   --once    stop the cluster after the answer
set -euo pipefail
cd "$(dirname "$0")/.."

once= listen=127.0.0.1:50051 prompt="Once upon a time there was a king who had three daughters, and the youngest was so fair that the sun himself, who had seen so much, was astonished whenever he looked into her face. One day she went"
while [ $# -gt 0 ]; do
  case "$1" in
    --once) once=1 ;;
    --listen) listen=$2; shift ;;
    -h|--help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "quickstart: unknown option $1 (see --help)" >&2; exit 2 ;;
    *) prompt=$1 ;;
  esac
  shift
done

deploy/install.sh
bazel/precompile.sh
echo "building the reprise binary (the first time takes some minutes)"
bazel build //cli:reprise
reprise=$(bazel info bazel-bin 2>/dev/null)/cli/reprise

state=$(mktemp -d "${TMPDIR:-/tmp}/reprise-quickstart.XXXXXX")
cleanup() {
  if [ -n "${up:-}" ]; then kill -TERM "$up" 2>/dev/null || true; wait "$up" 2>/dev/null || true; fi
  rm -rf "$state"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Small blocks, because the demo model's context is small: so that the prompt goes the long way round.
"$reprise" up models/demo --state-dir="$state" --listen="$listen" --block-tokens=16 \
  --remote-prefill-min-tokens=32 > "$state/up.out" 2>&1 &
up=$!
for _ in $(seq 600); do
  grep -q '^serving ' "$state/up.out" && break
  kill -0 "$up" 2>/dev/null || { cat "$state/up.out" >&2; up=; exit 1; }
  sleep 0.1
done
cat "$state/up.out"
echo
"$reprise" generate --state-dir="$state" --stats --max-tokens=160 --seed=7 "$prompt"
"$reprise" status --state-dir="$state"
[ -z "$once" ] || exit 0
echo "serving until Ctrl-C; try: $reprise generate --state-dir=$state \"The king\""
wait "$up" || true
up=
