#!/usr/bin/env bash
# Fails when a tracked C++ file is not formatted by .clang-format; --fix formats it.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=(--dry-run --Werror)
[ "${1:-}" != --fix ] || mode=(-i)
git ls-files '*.h' '*.cc' | xargs -r clang-format-14 "${mode[@]}"
