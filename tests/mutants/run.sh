#!/usr/bin/env bash
# Proves that every mutant is killed by the test it names; ends with `N passed, M failed`.
#
#   tests/mutants/run.sh [--check] [--work DIR] [--jobs N] [NAME...]
#
#   --check     only see that every patch has its header and applies to this tree (seconds)
#   --work DIR  keeps the scratch copy and its build there (default /tmp/reprise-mutants)
#   --jobs N    for Bazel (default: one a core)
#   NAME...     these mutants instead of all
set -uo pipefail
cd "$(dirname "$0")/../.."
source tests/mutants/scratch.sh

check=0 work=/tmp/reprise-mutants jobs=$(nproc) names=()
while [ $# -gt 0 ]; do
  case "$1" in
    --check) check=1 ;;
    --work) work=$2; shift ;;
    --jobs) jobs=$2; shift ;;
    -h|--help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "tests/mutants/run.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
    *) names+=("tests/mutants/${1%.patch}.patch") ;;
  esac
  shift
done
[ ${#names[@]} -gt 0 ] || names=(tests/mutants/*.patch)

label_of() { patch_says "$1" "killed by" | cut -d' ' -f1; }
case_of() { patch_says "$1" "killed by" | sed 's/.*(\(.*\))/\1/'; }

check_patches "killed by" '//[a-z0-9_/]+:[a-z0-9_]+ \([A-Za-z0-9_/]+\.[A-Za-z0-9_/]+\)' "${names[@]}"
if [ "$check" = 1 ] || [ "$failed" -gt 0 ]; then
  echo "$passed passed, $failed failed"
  exit $((failed > 0))
fi

scratch_open "$PWD" "$work" "$jobs"
log=$work/log
mapfile -t labels < <(for file in "${names[@]}"; do label_of "$file"; done | sort -u)
# A test that fails without any mutant would kill them all.
if ! scratch_bazel test "${labels[@]}" > "$log" 2>&1; then
  tail -40 "$log"
  echo "the tests do not pass without a mutant"
  echo "0 passed, ${#names[@]} failed"
  exit 1
fi

passed=0 failed=0
try() {  # try PATCH
  local name label rc
  name=$(basename "$1" .patch) label=$(label_of "$1")
  scratch_apply "$1" || return 1
  scratch_bazel test --test_filter="$(case_of "$1")" --test_timeout=120 "$label" > "$log" 2>&1
  rc=$?
  scratch_apply "$1" -R || exit 2
  case $rc in
    3) echo "$name killed by $label" ;;  # it was built and did not pass
    0) echo "$name SURVIVED"; return 1 ;;
    *) tail -20 "$log"; echo "$name DOES NOT BUILD"; return 1 ;;
  esac
}
for file in "${names[@]}"; do
  if try "$file"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done
echo "$passed passed, $failed failed"
exit $((failed > 0))
