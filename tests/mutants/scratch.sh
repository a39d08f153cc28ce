# Sourced by run.sh and ../fuzz/planted.sh: a scratch copy of the committed tree in which patches of
# product code are built. The copy and its Bazel output are kept between runs, so that only what a
# patch touches is built again.

scratch_open() {  # scratch_open ROOT WORK JOBS
  scratch_root=$1 scratch_work=$2
  mkdir -p "$scratch_work"
  exec 9> "$scratch_work/lock"
  flock -n 9 || { echo "another run uses $scratch_work (see --work)" >&2; exit 2; }
  rm -rf "$scratch_work/tree" && mkdir -p "$scratch_work/tree"
  git -C "$scratch_root" archive HEAD | tar -x -C "$scratch_work/tree"
  local data=${REPRISE_TEST_DATA:-$(cd "$scratch_root/../shared/data" 2>/dev/null && pwd || true)}
  {
    echo "build --jobs=$3 --disk_cache=$scratch_work/disk"
    echo "build --test_env=REPRISE_TEST_DATA=$data --experimental_convenience_symlinks=ignore"
    # A disk cache named there is shared instead.
    [ ! -f "$scratch_root/user.bazelrc" ] || cat "$scratch_root/user.bazelrc"
  } > "$scratch_work/tree/user.bazelrc"
  trap 'scratch_bazel shutdown > /dev/null 2>&1' EXIT
}

scratch_bazel() {
  (cd "$scratch_work/tree" && bazel --output_base="$scratch_work/output" "$@" 9>&-)
}

scratch_apply() {  # scratch_apply PATCH [-R]
  # The ceiling keeps git from taking the copy for a part of a repository around it.
  (cd "$scratch_work/tree" && GIT_CEILING_DIRECTORIES=$scratch_work git apply "${@:2}" "$scratch_root/$1")
}

# What the header line `# KEY: VALUE` of a patch says.
patch_says() { sed -n "s/^# $2: //p;/^---/q" "$1"; }

check_patches() {  # check_patches KEY PATTERN PATCH...: a pass or fail line each; counts
  local key=$1 pattern=$2 file problem
  shift 2
  passed=0 failed=0
  for file in "$@"; do
    problem=
    [ -n "$(patch_says "$file" what)" ] || problem="has no line '# what: ...'"
    grep -Eqx "$pattern" <<< "$(patch_says "$file" "$key")" || problem="has no line '# $key: ...'"
    [ "$(grep -c '^[-+][^-+]' "$file")" = 2 ] || problem="does not change exactly one line"
    git apply --check "$file" || problem="does not apply"
    if [ -z "$problem" ]; then passed=$((passed + 1)); continue; fi
    echo "$file $problem"
    failed=$((failed + 1))
  done
}
