#!/usr/bin/env bash
# A cluster on one card, end to end.
#
#   bench/gpu_e2e.sh [--device=gpu|emulated] [--unproven-kernels] [--group=SHAPE] [--reprise=FILE] [MODEL]
#   bench/gpu_e2e.sh --shape=v2-lite [--part=all|speed|kills] [--made=DIR] [--device=...] [...]
#
# Kills: gateway, a worker that prefills, two that decode, stores between them; then the same prompts
# again while a decoding worker is killed. The texts must be equal. --group makes each worker a group
# of ranks that share the card (tp2, pp2, pp2,tp2); a rank and a driver are killed then.
#
# --shape makes a model of that shape with random weights (31 GB; --made=DIR keeps it there for the
# next call) and measures before that how fast one worker decodes: 1 and 128 prompts of 4,096 random
# tokens, no two alike, through the gateway; what counts is the time in which all of them decode. A
# table with what the card's memory would allow, then one JSON line. What host memory and disk must
# hold is added up and compared first: loading takes the weights once a worker, the pool is as large
# on the host as on the card. On the emulator the shape is a tiny one and the figures mean nothing.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
device=gpu kernels=plain group= worker_flags=() reprise=$here/reprise model= shape= part=all made=
for arg in "$@"; do
  case $arg in
    --device=gpu|--device=emulated) device=${arg#*=} ;;
    --unproven-kernels) kernels=unproven; worker_flags+=(--unproven-kernels) ;;
    --group=*) group=${arg#*=}; worker_flags+=("$arg") ;;
    --reprise=*) reprise=${arg#*=} ;;
    --shape=v2-lite) shape=v2-lite ;;
    --part=all|--part=speed|--part=kills) part=${arg#*=} ;;
    --made=*) made=${arg#*=} ;;
    -h|--help) sed -n '2,18s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "gpu_e2e: unknown option $arg (see --help)" >&2; exit 2 ;;
    *) model=$arg ;;
  esac
done
worker_flags+=(--device="$device")
if [ -n "$shape" ]; then
  [ -z "$model" ] || { echo "gpu_e2e: --shape makes its model, leave out $model" >&2; exit 2; }
else
  [ "$part" != speed ] || { echo "gpu_e2e: speed is measured of a --shape" >&2; exit 2; }
  part=kills
  [ -n "$model" ] || { model=$here/models/demo; [ -d "$model" ] || model=$here/../models/demo; }
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/reprise-gpu-e2e.XXXXXX")
state=$work/state up=
stop() {
  [ -z "$up" ] || { kill -TERM "$up" 2>/dev/null || true; wait "$up" 2>/dev/null || true; }
  up=
}
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
say() { echo "[$SECONDS s] $*"; }
fail() { echo "gpu_e2e: $*" >&2; exit 1; }
mib() { echo $(($1 >> 20)); }

start() {  # start FLAG...: a cluster of the model, until it serves
  state=$(mktemp -d "$work/state.XXXXXX")
  "$reprise" up "$model" --state-dir="$state" --listen=127.0.0.1:0 --ready-timeout=10m "$@" "${worker_flags[@]}" > "$state/up.out" 2>&1 &
  up=$!
  until grep -qs '^serving ' "$state/up.out"; do
    kill -0 "$up" 2>/dev/null || { cat "$state/up.out" "$state"/*.log >&2 2> /dev/null || true; up=; exit 1; }
    [ $SECONDS -lt 580 ] || { tail -n 3 "$state"/*.log >&2; fail "the cluster is not ready after $SECONDS s"; }
    sleep 0.1
  done
  say "serving"
}

demand_memory() {  # demand_memory WORKERS POOL_BYTES WHAT: false where the host has less
  # While it loads, a worker holds the weights; its pool stays. The emulator's card is the host, too.
  local each=$((weight_bytes + $2)) available
  [ "$device" = gpu ] || each=$((2 * each))
  local needed=$(($1 * each + (2 << 30)))
  available=$(($(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo) << 10))
  [ $needed -le $available ] && return
  echo "$3 needs $(mib $needed) MiB of host memory ($1 x (weights $(mib "$weight_bytes") + pool $(mib "$2")) + 2048)," \
    "$(mib $available) MiB are available"
  return 1
}

# ---- kills ----

prompts=(
  "Once upon a time there was a king who had three daughters, and the youngest was so fair that the sun himself, who had seen so much, was astonished"
  "The king"
  "There was once a poor woodcutter who lived with his wife and his two children on the edge of a great forest, and they had so little to eat that"
  "In the morning the old woman"
)
new_tokens=150
pid_of() { sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$state/$1.ready" 2>/dev/null || true; }

ask() {  # ask DIRECTORY [VICTIM]: all prompts at once
  mkdir -p "$1"
  local asked=() victim
  for i in "${!prompts[@]}"; do
    "$reprise" generate --state-dir="$state" --max-tokens="$new_tokens" --seed="$i" "${prompts[$i]}" \
      > "$1/$i" 2> "$1/$i.err" &
    asked+=($!)
  done
  if [ -n "${2:-}" ]; then
    # In mid-answer: when some of the text is there.
    for _ in $(seq 600); do [ -s "$1/0" ] && [ -s "$1/1" ] && break; sleep 0.02; done
    victim=$(pid_of "$2")
    kill -9 "$victim" && echo "killed $2"
  fi
  for pid in "${asked[@]}"; do wait "$pid" || { cat "$1"/*.err >&2; fail "an answer failed"; }; done
  [ -z "${2:-}" ] && return
  # It comes back, in as long as it takes to load.
  until [ -n "$(pid_of "$2")" ] && [ "$(pid_of "$2")" != "$victim" ]; do
    [ $SECONDS -lt 580 ] || fail "$2 is not back after $SECONDS s"
    sleep 0.1
  done
}

kills_ok=null
run_kills() {
  start --prefill-workers=1 --decode-workers=2 --stores=2 --remote-prefill-min-tokens=32 --pool-bytes="$1"
  "$reprise" status --state-dir="$state"
  ask "$state/alone"
  kills_ok=true
  local victims=(decode-0 decode-1)
  [ -z "$group" ] || victims=(decode-0-rank-1 decode-1-rank-1 decode-0)
  for victim in "${victims[@]}"; do
    ask "$state/$victim" "$victim"
    for i in "${!prompts[@]}"; do
      cmp -s "$state/alone/$i" "$state/$victim/$i" ||
        { kills_ok=false; echo "text $i differs after $victim was killed"; }
    done
    sleep 3  # until the coordinator knows it
  done
  "$reprise" status --state-dir="$state"
  echo "${#prompts[@]} texts of $(cat "$state"/alone/? | wc -w) words, equal with ${#victims[@]} kills:" \
    "$([ $kills_ok = true ] && echo yes || echo NO)"
  stop
}

if [ -z "$shape" ]; then
  run_kills 64MiB
  [ $kills_ok = true ]
  exit
fi

# ---- a made model ----

preset=deepseek-v2-lite layers=27 prompt=4096 batch=128 sizes=()
declare -A news=([1]=256 [batch]=640)  # of the batch, the first decode while the last read their prompts
if [ "$device" = emulated ]; then
  layers=2 prompt=80 batch=4 new_tokens=16 news=([1]=8 [batch]=24)
  # A layer of a larger chunk would take the emulator longer than a worker may be silent.
  worker_flags+=(--worker-flag=--chunk-tokens=16)
  sizes=(--layers=2 --hidden=64 --heads=2 --intermediate=64 --experts=4 --experts-per-token=2
         --expert-intermediate=32 --vocab=512 --context=512)
fi
vocab=$([ "$device" = emulated ] && echo 512 || echo 102400)
page_bytes=$((layers * 576 * 2 * 64))
speed_pool=$(((batch * ((prompt + news[batch]) / 64 + 2) + 16) * page_bytes))
kills_pool=$((128 * page_bytes))

model=${made:-$work/model}
if [ ! -f "$model/config.json" ]; then
  # More files than processors write at once.
  "$reprise" make-model --preset="$preset" --shards=16 --seed=1 "${sizes[@]}" "$model"
  say "model made in $model"
fi
weight_bytes=$(cat "$model"/*.safetensors | wc -c)

# ---- speed ----

field() { sed -n 's/.*"'"$1"'": *\([0-9.e+-]*\).*/\1/p' <<< "$2"; }
calc() { awk "BEGIN { printf \"%.4g\", ($1) }"; }
load() {  # load CONCURRENCY REQUESTS PROMPT NEW SEED
  "$reprise" bench --state-dir="$state" --concurrency="$1" --requests="$2" --prompt-tokens="$3" --max-tokens="$4" \
    --seed="$5" --vocab="$vocab" --json
}

rows=() cells=() met=true
measure() {  # measure BATCH REQUESTS NEW SEED TARGET AIM IDEAL
  local line rate prompts_rate share
  line=$(load "$1" "$2" "$prompt" "$3" "$4") || fail "the load of $1 failed"
  rate=$(field steady_tokens_per_s "$line")
  prompts_rate=$(calc "$1 * $prompt * 1000 / $(field ttft_p99_ms "$line")")
  share=$(calc "$rate / $7")
  [ "$(field cached_tokens "$line")" = 0 ] || fail "prompts were alike: $line"
  [ "$(calc "$(field steady_seconds "$line") > 0")" = 1 ] ||
    fail "never did all $1 decode at once, the first ended too soon: $line"
  [ "$(calc "$rate >= $5")" = 1 ] || met=false
  rows+=("$(printf '%6s %8s %12.1f %8s %8s %8s %9s %10.3g %9.3g' "$1" "$prompt" "$rate" "$5" "$6" "$7" "$share" \
    "$(field itl_p50_ms "$line")" "$prompts_rate")")
  cells+=("{\"batch\": $1, \"context\": $prompt, \"tokens_per_s\": $rate, \"target\": $5, \"aim\": $6, \"ideal\": $7, \
\"of_ideal\": $share, \"prompt_tokens_per_s\": $prompts_rate, \"load\": $line}")
  say "batch $1 measured"
}

run_speed() {
  start --prefill-workers=0 --decode-workers=1 --stores=0 --replica-stores=0 --pool-bytes="$speed_pool" \
    --worker-flag=--running-max=$((batch + 8))
  load 1 1 $((prompt / 8)) 8 99 > "$state/warm.out"
  measure 1 3 "${news[1]}" 1 400 700 855
  measure "$batch" "$batch" "${news[batch]}" 2 6000 9500 11500
  stop
}

if [ "$part" != kills ]; then
  demand_memory 1 "$speed_pool" "measuring speed" >&2 || exit 1
  run_speed
fi
if [ "$part" != speed ]; then
  if demand_memory 3 "$kills_pool" "the run with kills"; then run_kills "$kills_pool"; else kills_ok='"no room"'; fi
fi

if [ ${#rows[@]} -gt 0 ]; then
  echo
  echo "$shape on $device, $kernels kernels$([ "$device" = gpu ] || echo ", a tiny model: the figures mean nothing")"
  printf '%6s %8s %12s %8s %8s %8s %9s %10s %9s\n' batch context tokens/s "at least" aim ideal "of ideal" "ITL ms" \
    "prompt/s"
  printf '%s\n' "${rows[@]}"
fi
[ ${#cells[@]} = 0 ] && met=null
[ "$device" = gpu ] || met=null
echo "{\"bench\": \"gpu_e2e\", \"shape\": \"$shape\", \"device\": \"$device\", \"kernels\": \"$kernels\"," \
  "\"weight_bytes\": $weight_bytes, \"cells\": [$(IFS=,; echo "${cells[*]:-}")], \"targets_met\": $met," \
  "\"equal_with_kills\": $kills_ok}"
[ "$met" != false ] && [ "$kills_ok" != false ] && [ "$kills_ok" != '"no room"' ]
