#!/usr/bin/env bash
# A cluster on one card, end to end: gateway, a worker that prefills, two that decode, stores between
# them; then the same prompts again while a decoding worker is killed. The texts must be equal.
#
#   bench/gpu_e2e.sh [--device=gpu|emulated] [--unproven-kernels] [--reprise=FILE] [MODEL]
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
device=gpu flags=() reprise=$here/reprise model=
for arg in "$@"; do
  case $arg in
    --device=*) device=${arg#*=} ;;
    --unproven-kernels) flags+=(--worker-flag=--unproven-kernels) ;;
    --reprise=*) reprise=${arg#*=} ;;
    -h|--help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "gpu_e2e: unknown option $arg (see --help)" >&2; exit 2 ;;
    *) model=$arg ;;
  esac
done
[ -n "$model" ] || { model=$here/models/demo; [ -d "$model" ] || model=$here/../models/demo; }

state=$(mktemp -d "${TMPDIR:-/tmp}/reprise-gpu-e2e.XXXXXX")
cleanup() {
  if [ -n "${up:-}" ]; then kill -TERM "$up" 2>/dev/null || true; wait "$up" 2>/dev/null || true; fi
  rm -rf "$state"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

"$reprise" up "$model" --state-dir="$state" --listen=127.0.0.1:0 --prefill-workers=1 --decode-workers=2 \
  --stores=2 --remote-prefill-min-tokens=32 --pool-bytes=64MiB --worker-flag=--device="$device" \
  "${flags[@]}" > "$state/up.out" 2>&1 &
up=$!
for _ in $(seq 1200); do
  grep -q '^serving ' "$state/up.out" && break
  kill -0 "$up" 2>/dev/null || { cat "$state/up.out" >&2; up=; exit 1; }
  sleep 0.1
done
"$reprise" status --state-dir="$state"

prompts=(
  "Once upon a time there was a king who had three daughters, and the youngest was so fair that the sun himself, who had seen so much, was astonished"
  "The king"
  "There was once a poor woodcutter who lived with his wife and his two children on the edge of a great forest, and they had so little to eat that"
  "In the morning the old woman"
)
ask() {  # ask DIRECTORY: all prompts at once
  mkdir -p "$1"
  local asked=()
  for i in "${!prompts[@]}"; do
    "$reprise" generate --state-dir="$state" --max-tokens=150 --seed="$i" "${prompts[$i]}" > "$1/$i" 2> "$1/$i.err" &
    asked+=($!)
  done
  if [ -n "${2:-}" ]; then
    # In mid-answer: when some of the text is there.
    for _ in $(seq 600); do [ -s "$1/0" ] && [ -s "$1/1" ] && break; sleep 0.02; done
    pkill -9 -f "worker --name=$2 .*--coordinator" && echo "killed $2"
  fi
  for pid in "${asked[@]}"; do wait "$pid"; done
}

ask "$state/alone"
failed=0
for victim in decode-0 decode-1; do
  ask "$state/$victim" "$victim"
  for i in "${!prompts[@]}"; do
    cmp -s "$state/alone/$i" "$state/$victim/$i" || { failed=1; echo "text $i differs after $victim was killed"; }
  done
  sleep 3  # it comes back
done
"$reprise" status --state-dir="$state"
words=$(cat "$state"/alone/? | wc -w)
echo "${#prompts[@]} texts of $words words, equal with two kills: $([ $failed = 0 ] && echo yes || echo NO)"
exit $failed
