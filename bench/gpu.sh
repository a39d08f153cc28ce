#!/usr/bin/env bash
# The kernels on a card: builds with nvcc and a C++ compiler alone, runs every kernel's tests (against
# double and the CPU's bits), then times them beside PyTorch's best. In one call, in under nine minutes.
# The table comes last; logs, JSON and the compiler's report of registers go to OUT.
#
#   bench/gpu.sh [--out=DIR] [--only=check|time] [--emulated]
#
#   --emulated   on the CPU, in sizes whose figures mean nothing: shows that this script works
set -uo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-}; only=; emulated=0
for arg in "$@"; do
  case $arg in
    --out=*) out=${arg#*=} ;;
    --only=check|--only=time) only=${arg#*=} ;;
    --emulated) emulated=1 ;;
    -h|--help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "bench/gpu.sh: $arg is not an option (see --help)" >&2; exit 2 ;;
  esac
done
[ -n "$out" ] || out=$(mktemp -d /tmp/reprise-gpu.XXXXXX)
mkdir -p "$out"
work=$(mktemp -d /tmp/reprise-gpu-build.XXXXXX) && trap 'rm -rf "$work"' EXIT
started=$SECONDS
cxx=${CXX:-$(command -v g++ || command -v clang++ || command -v clang++-14)}
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
say() { echo "[$((SECONDS - started)) s] $*"; }

# ---- build: one command a line, as many at a time as there are processors ----

commands=$work/commands; : > "$commands"
objects=$work/objects; mkdir -p "$objects"
common="-std=c++20 -O2 -I. -Ibench/gpu -Wno-psabi"
add() {  # add NAME COMMAND...: what it prints goes to a log of its own
  local log=$work/$1.log; shift
  echo "$* > $log 2>&1 || { cat $log; exit 255; }" >> "$commands"
}

kernels=$(ls kernels/cuda/*.cu bench/gpu/*.cu)
sources=$(ls kernels/cuda/*.cc | grep -v _test.cc; ls bench/gpu/*.cc; echo bench/gpu/gtest/gtest_main.cc)
tests=$(ls kernels/cuda/*_test.cc)
rm -f "$out"/checks.txt "$out"/checks.log "$out"/times.txt "$out"/peers.txt "$out"/peers.err
cpu="kernels/ref/ref.cc kernels/ops.cc kernels/packed_weights.cc kernels/rope_table.cc kernels/cpu/dispatch.cc
     kernels/cpu/thread_pool.cc kernels/cpu/ops_scalar.cc
     worker/engine/sampling.cc worker/engine/sort_logits.cc common/crc32c.cc"
name_of() { echo "$objects/$(echo "$1" | tr / _).o"; }
if [ $emulated = 1 ]; then
  for f in $kernels; do add "$(basename "$f")" "$cxx $common -ffp-contract=off -x c++ -c $f -o $(name_of "$f")"; done
  for f in kernels/cuda/emulator/*.cc; do
    case $f in *_test.cc) ;; *) add "$(basename "$f")" "$cxx $common -c $f -o $(name_of "$f")" ;; esac
  done
  link=-ldl cublaslt=
else
  [ -x "$nvcc" ] || { echo "bench/gpu.sh: no nvcc (set NVCC)" >&2; exit 2; }
  common="$common -DREPRISE_ON_CARD"
  flags="-std=c++20 -O3 -I. -fmad=false -ftz=true -prec-div=true -prec-sqrt=true -gencode=arch=compute_90a,code=sm_90a -Xptxas -v"
  for f in $kernels kernels/cuda/device/runtime.cu; do
    add "$(basename "$f")" "$nvcc $flags -c $f -o $(name_of "$f")"
  done
  cuda=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
  lib=$cuda/lib64; [ -d "$lib" ] || lib=$cuda/targets/x86_64-linux/lib
  link="-L$lib -lcudart_static -ldl -lrt"
  common="$common -I$cuda/include"  # cublasLt.h, to check what is declared by hand
  # Beside the compiler, or in the packages that PyTorch brings; else the loader looks.
  cublaslt=$(ls "$lib"/libcublasLt.so.* 2>/dev/null | head -1)
  [ -n "$cublaslt" ] || cublaslt=$(python3 -c 'import glob, site, sys
for folder in site.getsitepackages() + [site.getusersitepackages()] + sys.path:
    for file in glob.glob(folder + "/nvidia/*/lib/libcublasLt.so.*"): print(file)' 2>/dev/null | head -1)
fi
for f in $sources $tests $cpu; do add "$(basename "$f")" "$cxx $common -ffp-contract=off -fno-math-errno -c $f -o $(name_of "$f")"; done
add avx2 "$cxx $common -ffp-contract=off -fno-math-errno -mavx2 -mfma -mf16c -c kernels/cpu/ops_avx2.cc -o $(name_of kernels/cpu/ops_avx2.cc)"
add avx512 "$cxx $common -ffp-contract=off -fno-math-errno -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -c kernels/cpu/ops_avx512.cc -o $(name_of kernels/cpu/ops_avx512.cc)"
say "compiling $(wc -l < "$commands") files"
xargs -P "$(nproc)" -d '\n' -n 1 bash -c < "$commands" || { say "a file did not compile"; exit 1; }

[ $emulated = 1 ] || for f in $kernels; do echo "== $f"; cat "$work/$(basename "$f").log"; done > "$out/ptxas.txt"
library=$(for f in $kernels $cpu kernels/cpu/ops_avx2.cc kernels/cpu/ops_avx512.cc; do name_of "$f"; done
          ls kernels/cuda/*.cc | grep -v _test.cc | while read -r f; do name_of "$f"; done)
if [ $emulated = 1 ]; then
  for f in kernels/cuda/emulator/*.cc; do case $f in *_test.cc) ;; *) library="$library $(name_of "$f")" ;; esac; done
else
  library="$library $(name_of kernels/cuda/device/runtime.cu)"
fi
rm -f "$work/library.a"
# shellcheck disable=SC2086
ar rcs "$work/library.a" $library
failed=0

# ---- check ----

if [ "$only" != time ]; then
  for f in $tests; do
    bin=$work/$(basename "$f" .cc)
    # shellcheck disable=SC2086
    $cxx "$(name_of "$f")" "$(name_of bench/gpu/gtest/gtest_main.cc)" "$work/library.a" $link -lpthread -o "$bin" \
      || { failed=1; continue; }
    timeout 40 "$bin" > "$bin.log" 2>&1
    code=$?
    cat "$bin.log" >> "$out/checks.log"
    printf '%-28s %s%s\n' "$(basename "$bin")" "$(tail -1 "$bin.log")" \
      "$([ $code = 0 ] || echo "   exit $code")" >> "$out/checks.txt"
    [ $code = 0 ] || failed=1
  done
  say "checked"
fi

# ---- time ----

if [ "$only" != check ]; then
  # shellcheck disable=SC2086
  $cxx $(for f in bench/gpu/*.cc; do name_of "$f"; done) "$work/library.a" $link -lpthread -o "$work/gpu_bench" || exit 1
  tiny=; [ $emulated = 0 ] || tiny=--tiny
  # shellcheck disable=SC2086
  timeout 240 "$work/gpu_bench" $tiny ${cublaslt:+--cublaslt="$cublaslt"} --json="$out/ours.json" > "$out/times.txt" || failed=1
  say "timed"
  if [ $emulated = 0 ]; then
    python3 bench/gpu/peers.py "$out/ours.json" > "$out/peers.txt" 2> "$out/peers.err" \
      || echo "no peers: $(tail -1 "$out/peers.err")" >> "$out/times.txt"
    say "peers timed"
  fi
fi

# ---- table ----

[ "$only" = time ] || { echo; cat "$out/checks.txt"; grep -hE '^FAILED|failure:' "$out/checks.log" | head -20; }
[ "$only" = check ] || { echo; cat "$out/times.txt"; [ ! -s "$out/peers.txt" ] || { echo; cat "$out/peers.txt"; }; }
say "logs in $out"
exit $failed
