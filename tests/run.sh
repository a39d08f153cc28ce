#!/usr/bin/env bash
# Installs what is missing, builds everything, runs every test; ends with `N passed, M failed`.
#
#   tests/run.sh [--only PATTERN] [--asan | --tsan] [--seeds N] [--fuzz-seconds N] [--no-fuzz] [--no-tidy]
#
#   --only PATTERN     run only Bazel test targets whose label matches the regular expression
#   --asan, --tsan     the sanitizer configuration instead of the everyday one
#   --seeds N          simulator seeds (default 300)
#   --fuzz-seconds N   seconds per fuzz target after its corpus (default 3)
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD

only= config=() seeds=300 fuzz_seconds=3 fuzz=1 tidy=1
while [ $# -gt 0 ]; do
  case "$1" in
    --only) only=$2; fuzz=0; tidy=0; shift ;;
    --asan) config=(--config=asan); fuzz=0; tidy=0 ;;
    --tsan) config=(--config=tsan); fuzz=0; tidy=0 ;;
    --seeds) seeds=$2; shift ;;
    --fuzz-seconds) fuzz_seconds=$2; shift ;;
    --no-fuzz) fuzz=0 ;;
    --no-tidy) tidy=0 ;;
    -h|--help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "tests/run.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done

deploy/install.sh || { echo "0 passed, 1 failed"; exit 1; }

data=${REPRISE_TEST_DATA:-$(cd "$root/../shared/data" 2>/dev/null && pwd || true)}
export REPRISE_TEST_DATA=$data
[ -n "$data" ] || echo "note: no shared test data (../shared/data); the tests that need it are skipped"

results=$(mktemp) && trap 'rm -f "$results"' EXIT
step() {  # step NAME COMMAND...: one pass or fail line
  local name=$1; shift
  echo "== $name"
  if "$@"; then echo "pass $name" >> "$results"; else echo "fail $name" >> "$results"; fi
}

bazel/precompile.sh

# The CUDA tests have their own configuration, below.
targets=$(bazel query 'tests(//...) except attr(tags, "\bcuda\b", //...)' 2>/dev/null | grep -E "${only:-.}" || true)
if [ -z "$targets" ]; then
  echo "no test target matches ${only:-anything}"; echo "0 passed, 1 failed"; exit 1
fi
if [ -z "$only" ]; then
  step "build everything" bazel build --keep_going "${config[@]}" //...
fi
echo "== run $(wc -l <<< "$targets") test targets"
# shellcheck disable=SC2086
bazel test --keep_going "${config[@]}" --test_env=REPRISE_TEST_DATA="$data" \
  --test_env=REPRISE_SOURCE_ROOT="$root" --test_env=REPRISE_SIM_SEEDS="$seeds" \
  --test_summary=terse $targets
echo "$targets" >> "$results"

if [ -z "$only" ] && [ ${#config[@]} -eq 0 ] && [ -x /usr/local/cuda/bin/nvcc ]; then
  cuda=(//kernels/cuda/...)
  if [ -f /usr/local/cuda/include/nccl.h ]; then
    cuda+=(//worker/parallel/nccl:real_nccl_test)
  else
    echo "note: no NCCL beside the CUDA toolkit; its back end is not compiled"
  fi
  # Without a card the tests have run on the emulator, and their results stay.
  if [ -e /dev/nvidiactl ]; then
    step "the CUDA kernels' tests on the card" bazel test --config=cuda "${cuda[@]}"
  else
    step "CUDA compiles for sm_80, sm_90a and PTX" bazel build --config=cuda "${cuda[@]}"
  fi
fi
if [ -z "$only" ]; then
  step "mutants apply" tests/mutants/run.sh --check
  step "every fuzz target has a planted bug" tests/fuzz/planted.sh --check
fi

if [ "$tidy" = 1 ]; then
  step "clang-format" tests/format.sh
  step "clang-tidy on changed files" tests/tidy.sh
fi
if [ "$fuzz" = 1 ]; then
  while read -r name outcome; do echo "$outcome $name" >> "$results"; done \
    < <(tests/fuzz/run.sh "$fuzz_seconds" 3>&1 >&2)
fi

python3 tests/report.py "$(bazel info "${config[@]}" bazel-testlogs 2>/dev/null)" tests/ALLOWED_SKIPS "$results"
