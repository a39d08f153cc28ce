#!/usr/bin/env bash
# Runs the Python example: its own test with "test" as $1, else against the gateways at $1. Exit
# status 77: there is no Python gRPC, and no package index to get it from.
set -euo pipefail
address=$1 example=$2 scratch=$3

python=python3
if ! python3 -c 'import grpc, google.protobuf' 2>/dev/null; then
  if [ ! -e "$scratch/venv" ]; then
    python3 -m venv "$scratch/venv" >&2 || exit 77
    timeout 40 "$scratch/venv/bin/pip" install --quiet --disable-pip-version-check \
      grpcio grpcio-tools >&2 || exit 77
  fi
  python=$scratch/venv/bin/python
fi
if [ "$address" = test ]; then
  exec "$python" -B "$(dirname "$example")/resuming_test.py" 2>&1
fi
exec "$python" -B "$example" --address "$address" --max-tokens 24 --seed 3 "Once upon a time"
