#!/usr/bin/env bash
# Proves that every fuzz target finds the bug planted for it within 30 s from its corpus; ends with
# `N passed, M failed`.
#
#   tests/fuzz/planted.sh [--check] [--work DIR] [--jobs N] [NAME...]
#
#   --check     only see that every target has a patch with its header that applies to this tree
#   --work DIR  keeps the scratch copy and its build there (default /tmp/reprise-planted)
#   --jobs N    for Bazel (default: one a core)
#   NAME...     these targets instead of all
set -uo pipefail
cd "$(dirname "$0")/../.."
source tests/mutants/scratch.sh
readonly kSeconds=30

check=0 work=/tmp/reprise-planted jobs=$(nproc) names=()
while [ $# -gt 0 ]; do
  case "$1" in
    --check) check=1 ;;
    --work) work=$2; shift ;;
    --jobs) jobs=$2; shift ;;
    -h|--help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "tests/fuzz/planted.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
    *) names+=("tests/fuzz/planted/${1%.patch}.patch") ;;
  esac
  shift
done
missing=0
if [ ${#names[@]} -eq 0 ]; then
  names=(tests/fuzz/planted/*.patch)
  for source in $(git ls-files '*_fuzz.cc'); do
    [ -f "tests/fuzz/planted/$(basename "$source" .cc).patch" ] && continue
    echo "$source has no planted bug"
    missing=$((missing + 1))
  done
fi

check_patches "found by" '//[a-z0-9_/]+:[a-z0-9_]+' "${names[@]}"
failed=$((failed + missing))
if [ "$check" = 1 ] || [ "$failed" -gt 0 ]; then
  echo "$passed passed, $failed failed"
  exit $((failed > 0))
fi

scratch_open "$PWD" "$work" "$jobs"
bin=$(scratch_bazel info --config=fuzz bazel-bin 2> /dev/null)

fuzz() {  # fuzz LABEL: what was found, in the log
  local name=${1##*:} path=$bin/${1#//} corpus=$PWD/tests/fuzz/corpus/${1##*:}
  rm -rf "$work/found" && mkdir -p "$work/found"
  [ -d "$corpus" ] || corpus=
  # shellcheck disable=SC2086
  "${path/://}" -max_total_time=$kSeconds -timeout=5 -rss_limit_mb=2048 -close_fd_mask=1 \
    -artifact_prefix="$work/found/" "$work/found" $corpus > "$log" 2>&1
  [ $? -ne 0 ] && grep -q "^SUMMARY: " "$log"
}

passed=0 failed=0 log=$work/log
try() {  # try PATCH
  local name label begin
  name=$(basename "$1" .patch) label=$(patch_says "$1" "found by")
  scratch_apply "$1" || return 1
  scratch_bazel build --config=fuzz "$label" > "$log" 2>&1 ||
    { tail -20 "$log"; echo "$name DOES NOT BUILD"; scratch_apply "$1" -R; return 1; }
  scratch_apply "$1" -R || exit 2
  begin=$(date +%s)
  if fuzz "$label"; then
    echo "$name found in $(($(date +%s) - begin)) s: $(grep -m1 '^SUMMARY: ' "$log" | cut -c10-90)"
  else
    tail -5 "$log"; echo "$name MISSED"; return 1
  fi
}
for file in "${names[@]}"; do
  if try "$file"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done
echo "$passed passed, $failed failed"
exit $((failed > 0))
