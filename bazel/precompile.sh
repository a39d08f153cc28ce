#!/usr/bin/env bash
# Precompiles bazel/precompiled.h, so that a cold build takes about a third less: what nearly every
# source includes is then parsed a few times, not a thousand. Whatever Bazel builds from then on
# uses it (.cache/precompiled.bazelrc, which git ignores); what is built is the same.
# Without it, or where it does not work, all builds as well. deploy/quickstart.sh and tests/run.sh call it.
#
#   bazel/precompile.sh [--off]
set -euo pipefail
cd "$(dirname "$0")/.."

rc=.cache/precompiled.bazelrc
[ "${1:-}" != --off ] || { rm -f "$rc"; exit 0; }

compiler=clang-14
# What a precompiled header must have in common with its users: Bazel's own flags and .bazelrc's.
flags=(-std=c++20 -fPIC -DNDEBUG -U_FORTIFY_SOURCE -fstack-protector -fno-omit-frame-pointer -g0)
code=(-O2 -D_FORTIFY_SOURCE=1)
test=(-O0 -DREPRISE_PRECOMPILED_FOR_TESTS)
sanitizer=(-O1 -g1 -D_FORTIFY_SOURCE=1 -DREPRISE_SANITIZER=1)
asan=("${sanitizer[@]}" -fsanitize=address,undefined -fno-sanitize=vptr,pointer-overflow -fno-sanitize-recover=all)
tsan=("${sanitizer[@]}" -fsanitize=thread)
fuzz=("${sanitizer[@]}" -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize=vptr,pointer-overflow
      -fno-sanitize-recover=all)

# Another name for another compiler or library: Bazel knows the file by its name alone.
version=$({ "$compiler" --version; cat bazel/precompiled.h bazel/precompile.sh
            dpkg-query -W libabsl-dev libgtest-dev libgmock-dev libgrpc++-dev libprotobuf-dev libstdc++-12-dev 2> /dev/null || true; } | sha256sum | cut -c1-16)
folder=$PWD/.cache/precompiled/$version
[ -f "$folder/done" ] && [ -f "$rc" ] && exit 0
mkdir -p "$folder"
running=()
for kind in code test asan tsan fuzz; do
  declare -n own=$kind
  # From standard input, so that no source is said to depend on the header.
  "$compiler" "${flags[@]}" "${own[@]}" -x c++-header - -o "$folder/$kind.pch" < bazel/precompiled.h &
  running+=($!)
done
for pid in "${running[@]}"; do wait "$pid"; done

# By path or label. Kernels are compiled for other instruction sets, by rules of their own. Of several the last counts.
{
  echo "build --per_file_copt=.*\\.cc\$,-_test\\.cc\$,-(^|//)kernels/@-include-pch,$folder/code.pch"
  echo "build --per_file_copt=_test\\.cc\$,-(^|//)kernels/@-include-pch,$folder/test.pch"
  for kind in asan tsan fuzz; do
    echo "build:$kind --per_file_copt=.*\\.cc\$,-(^|//)kernels/@-include-pch,$folder/$kind.pch"
  done
} > "$rc"
if bazel build //common:bind_address_test > /dev/null 2>&1; then
  touch "$folder/done"
else
  rm -f "$rc"
  echo "note: precompiled headers do not work here; builds take longer" >&2
fi
