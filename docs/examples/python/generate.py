#!/usr/bin/env python3
"""Streams one answer from a Reprise gateway. Needs grpcio and protobuf; see README.md beside it.

    generate.py --address 127.0.0.1:PORT "Once upon a time"
    generate.py --address 127.0.0.1:PORT --ids 1,17,42 --max-tokens 8

With several addresses, separated by commas, the stream goes on when its gateway dies (resuming.py).
"""

import argparse
import importlib
import pathlib
import subprocess
import sys
import tempfile

import grpc

from resuming import ResumingStream

PROTO_ROOT = pathlib.Path(__file__).resolve().parents[3] / "proto"
PROTO = "reprise/v1/generation.proto"


def load_stubs(proto_root, out):
    """Generates the Python modules of the API into `out` and imports them."""
    try:
        from grpc_tools import protoc  # pip's grpcio-tools

        arguments = ["protoc", f"-I{proto_root}", f"--python_out={out}", f"--grpc_python_out={out}", PROTO]
        if protoc.main(arguments) != 0:
            raise RuntimeError("protoc failed")
    except ImportError:  # Debian: protobuf-compiler and protobuf-compiler-grpc
        subprocess.run(
            ["protoc", f"-I{proto_root}", f"--python_out={out}", f"--grpc_python_out={out}",
             "--plugin=protoc-gen-grpc_python=/usr/bin/grpc_python_plugin", PROTO],
            check=True,
        )
    sys.path.insert(0, str(out))
    return (
        importlib.import_module("reprise.v1.generation_pb2"),
        importlib.import_module("reprise.v1.generation_pb2_grpc"),
    )


def make_request(pb, options):
    request = pb.GenerateRequest(request_id=options.request_id, deadline_ms=options.deadline_ms)
    if options.ids is not None:
        request.ids.ids.extend(options.ids)
    else:
        request.text = options.prompt
    # A field left out takes the model's own default, so only what was asked for is set.
    for field in ("temperature", "top_p", "seed", "max_tokens", "n"):
        value = getattr(options, field)
        if value is not None:
            setattr(request.sampling, field, value)
    return request


def stream(pb, gateways, options):
    """Prints branch 0 as it comes, then every other branch; returns the Finished event."""
    texts = {}
    finished = None

    def add(branch, text):
        texts[branch] = texts.get(branch, "") + text
        if branch == 0:
            print(text, end="", flush=True)

    for event in gateways.generate(make_request(pb, options)):
        kind = event.WhichOneof("event")
        if kind == "accepted":
            # The handle is a secret: whoever has it may cancel this request, and go on with it.
            print(f"[request {event.accepted.request_id}, seed {event.accepted.seed}, "
                  f"{event.accepted.prompt_tokens} prompt tokens]", file=sys.stderr)
        elif kind == "tokens":
            for token in event.tokens.tokens:
                add(token.branch, token.text if options.ids is None else f"{token.id} ")
        elif kind == "branch_finished":
            # What the detokenizer still held: the text of a branch is its deltas and this.
            if options.ids is None:
                add(event.branch_finished.branch, event.branch_finished.text)
        elif kind == "finished":
            finished = event.finished
    print()
    for branch in sorted(texts)[1:]:
        print(f"--- branch {branch}\n{texts[branch]}")
    return finished


def parse_arguments():
    parser = argparse.ArgumentParser(description="Stream one answer from a Reprise gateway.")
    parser.add_argument("prompt", nargs="?", default="Once upon a time", help="text to continue")
    parser.add_argument("--address", required=True, help="HOST:PORT of a gateway's gRPC door, or of several, by commas")
    parser.add_argument("--ids", type=lambda s: [int(i) for i in s.split(",")], help="token ids instead of text")
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--temperature", type=float, help="0 is greedy")
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--n", type=int, help="branches")
    parser.add_argument("--request-id", default="")
    parser.add_argument("--deadline-ms", type=int, default=0)
    parser.add_argument("--proto", type=pathlib.Path, default=PROTO_ROOT, help="folder of reprise/v1/*.proto")
    return parser.parse_args()


def main():
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as out:
        pb, pb_grpc = load_stubs(options.proto, out)
        gateways = ResumingStream(pb, pb_grpc, options.address.split(","))
        try:
            finished = stream(pb, gateways, options)
        except grpc.RpcError as error:
            broken = gateways.accepted is not None
            print(f"{'broken off' if broken else 'refused'}: {error.code().name}: {error.details()}", file=sys.stderr)
            return 3 if broken else 2
        finally:
            gateways.close()
    if gateways.resumes > 0:
        print(f"[resumed {gateways.resumes} time(s)]", file=sys.stderr)
    usage = finished.usage
    reasons = ", ".join(pb.FinishReason.Name(b.reason).removeprefix("FINISH_REASON_") for b in finished.branches)
    print(f"[{usage.generated_tokens} tokens ({reasons}), {usage.cached_tokens} of {usage.prompt_tokens} "
          f"prompt tokens cached, {usage.attempts} attempt(s)]", file=sys.stderr)
    if finished.code != 0:
        print(f"ended early: code {finished.code}: {finished.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
