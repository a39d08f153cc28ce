#!/usr/bin/env bash
# Replays every fuzz target's corpus, then fuzzes it for a number of seconds, one target a core.
# Usage: tests/fuzz/run.sh [SECONDS=5] [PATTERN]
# On descriptor 3 (when open): one line "NAME pass" or "NAME fail" a target.
set -uo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-5} pattern=${2:-.}
{ true >&3; } 2>/dev/null || exec 3>/dev/null

targets=$(bazel query 'attr(tags, "\bfuzz\b", //...)' 2>/dev/null | grep -E "$pattern")
# shellcheck disable=SC2086
bazel build --keep_going --config=fuzz $targets || echo "building fuzz targets failed"
bin=$(bazel info --config=fuzz bazel-bin 2>/dev/null)
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
one() {  # one LABEL
  local label=$1 name path corpus
  name=${label##*:} path=$bin/${label#//}; path=${path/://}
  corpus=tests/fuzz/corpus/$name
  mkdir -p "$work/$name"
  [ -d "$corpus" ] || corpus=
  # shellcheck disable=SC2086
  if "$path" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=2048 -close_fd_mask=1 \
      -artifact_prefix="$work/$name/" "$work/$name" $corpus > "$work/$name.log" 2>&1; then
    echo "fuzz $name: $(grep -E '^Done|DONE' "$work/$name.log" | tail -1)"
    echo "fuzz:$name pass" >&3
  else
    echo "fuzz $name FAILED"; tail -40 "$work/$name.log"
    echo "fuzz:$name fail" >&3
    return 1
  fi
}
export -f one
export bin work seconds
# shellcheck disable=SC2016
xargs -P "$(nproc)" -I{} bash -c 'one "$1"' - {} <<< "$targets"
