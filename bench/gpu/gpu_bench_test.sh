#!/usr/bin/env bash
# Every case runs, in sizes whose figures mean nothing, and says that its results are the same again.
set -euo pipefail
json=$(mktemp)
"$TEST_SRCDIR/$TEST_WORKSPACE/bench/gpu/gpu_bench" --tiny --json="$json" || { [ $? = 3 ] && exit 0; exit 1; }
python3 - "$json" <<'PY'
import json, sys
found = json.load(open(sys.argv[1]))
assert found["broken"] == [], found["broken"]
assert all(row["value"] > 0 for row in found["rows"]), found
assert {row["kernel"] for row in found["rows"]} >= {"gemm", "linear", "mla decode", "mla fp8 decode",
    "mla fp8/bf16", "gqa decode", "gqa shared decode", "gqa apart decode", "prefill", "copy",
    "add", "swiglu", "store rows", "pack", "unpack", "route", "expert rows", "expert sum", "merge parts", "sample"}
PY
