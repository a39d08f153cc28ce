#!/usr/bin/env bash
# Runs one benchmark: a short table, then one JSON line; exit status 1 when a bar is not met.
#
#   bench/run.sh NAME [--long] [--peer=DIR]     bench/run.sh --list
#   bench/run.sh determinism-device [--device=emulated|gpu] [--unproven-kernels] [--record] [--long]
set -euo pipefail
cd "$(dirname "$0")/.."

list() { sed -n 's/^ *name = "\(.*\)_bench",$/\1/p' bench/BUILD; }
case "${1:-}" in
  --list) list; exit 0 ;;
  ''|-h|--help) sed -n '2,5s/^# \{0,1\}//p' "$0"; echo "benchmarks:"; list | sed 's/^/  /'; exit 0 ;;
esac
name=${1//-/_}; shift
list | grep -qx "$name" || { echo "bench/run.sh: no benchmark \"$name\" (see --list)" >&2; exit 2; }

config=()
for arg in "$@"; do [ "$arg" != --device=gpu ] || config=(--config=cuda); done
deploy/install.sh >&2
bazel build "${config[@]}" "//bench:${name}_bench" //cli:reprise >&2
bin=$(bazel info "${config[@]}" bazel-bin 2>/dev/null)
data=${REPRISE_TEST_DATA:-$(cd ../shared/data 2>/dev/null && pwd || true)}
exec "$bin/bench/${name}_bench" --reprise="$bin/cli/reprise" --data="$data" --models="$PWD/models" \
  --golden="$PWD/bench/determinism_device.jsonl" "$@"
