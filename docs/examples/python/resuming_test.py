#!/usr/bin/env python3
"""ResumingStream against scripted gateways: each breaks its stream where its script says."""

import concurrent.futures
import pathlib
import sys
import tempfile
import unittest

import grpc

from generate import PROTO_ROOT, load_stubs
from resuming import ResumingStream

OUT = tempfile.TemporaryDirectory()
PROTO = pathlib.Path(sys.argv.pop(1)) if len(sys.argv) > 1 else PROTO_ROOT
pb, pb_grpc = load_stubs(PROTO, OUT.name)

IDS = [11, 12, 13, 14, 15, 16]


class Gateway(pb_grpc.GenerationServicer):
    """Gives branch 0 the tokens IDS behind what the client has; `script` has, per call, how many
    tokens until it breaks (None: to the end) or a status code to refuse with."""

    def __init__(self, script):
        self.script, self.requests = list(script), []
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        pb_grpc.add_GenerationServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Generate(self, request, context):
        self.requests.append(request)
        step = self.script.pop(0)
        if isinstance(step, grpc.StatusCode):
            context.abort(step, "as scripted")
        yield pb.GenerateEvent(accepted=pb.Accepted(request_id="r", seed=7, resume_handle=b"h" * 16))
        has = len(request.resume.received[0].ids) if request.resume.received else 0
        end = len(IDS) if step is None else min(len(IDS), has + step)
        # One token again: a client must not take it twice.
        for index in range(max(0, has - 1), end):
            yield pb.GenerateEvent(tokens=pb.Tokens(tokens=[pb.Token(index=index, id=IDS[index], text="x")]))
        if step is not None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the gateway is stopping")
        yield pb.GenerateEvent(branch_finished=pb.BranchFinished(tokens=len(IDS)))
        yield pb.GenerateEvent(finished=pb.Finished(usage=pb.Usage(generated_tokens=len(IDS))))


class ResumingStreamTest(unittest.TestCase):
    def run_request(self, *scripts, **options):
        self.gateways = [Gateway(script) for script in scripts]
        for gateway in self.gateways:
            self.addCleanup(gateway.server.stop, None)
        stream = ResumingStream(pb, pb_grpc, [gateway.address for gateway in self.gateways], backoff_s=0.001, **options)
        self.addCleanup(stream.close)
        self.events = []
        for event in stream.generate(pb.GenerateRequest(text="once", deadline_ms=60_000)):
            self.events.append(event)
        return stream

    def ids(self):
        return [token.id for event in self.events for token in event.tokens.tokens]

    def test_a_broken_stream_goes_on_elsewhere_with_each_token_once(self):
        stream = self.run_request([2, None], [3])
        self.assertEqual(self.ids(), IDS)
        self.assertEqual(stream.resumes, 2)
        kinds = [event.WhichOneof("event") for event in self.events]
        self.assertEqual(kinds.count("accepted"), 1)
        self.assertEqual(kinds.count("branch_finished"), 1)
        self.assertEqual(kinds[-1], "finished")
        resume = self.gateways[1].requests[0]
        self.assertEqual(resume.request_id, "r")
        self.assertEqual(resume.text, "once")
        self.assertEqual(resume.sampling.seed, 7)
        self.assertEqual(resume.resume.handle, b"h" * 16)
        self.assertEqual(list(resume.resume.received[0].ids), IDS[:2])
        self.assertLessEqual(resume.deadline_ms, 60_000)

    def test_a_gateway_that_refuses_for_load_or_is_not_there_is_tried_again(self):
        self.run_request([2, grpc.StatusCode.RESOURCE_EXHAUSTED, None], [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE])
        self.assertEqual(self.ids(), IDS)

    def test_a_new_request_passes_over_a_gateway_that_is_not_there(self):
        self.run_request([grpc.StatusCode.UNAVAILABLE], [None])
        self.assertEqual(self.ids(), IDS)
        self.assertFalse(self.gateways[1].requests[0].HasField("resume"))

    def test_tries_are_bounded(self):
        with self.assertRaises(grpc.RpcError) as raised:
            self.run_request([2] + [grpc.StatusCode.UNAVAILABLE] * 3, tries=3)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(len(self.gateways[0].requests), 4)
        self.assertEqual(self.ids(), IDS[:2])

    def test_what_cannot_heal_is_raised_at_once(self):
        for code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED):
            with self.assertRaises(grpc.RpcError) as raised:
                self.run_request([2, code])
            self.assertEqual(raised.exception.code(), code)


if __name__ == "__main__":
    unittest.main()
