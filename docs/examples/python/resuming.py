"""A stream that outlives its gateway: the events of one request, each once, whatever breaks meanwhile.

    stream = ResumingStream(pb, pb_grpc, ["127.0.0.1:7001", "127.0.0.1:7002"])
    for event in stream.generate(pb.GenerateRequest(text="Once upon a time")):
        ...

`pb` and `pb_grpc` are the modules generated from reprise/v1/generation.proto.
"""

import time

import grpc

# A gateway that stands still answers no ping, and breaks its streams within one and a half seconds.
CHANNEL_OPTIONS = [
    ("grpc.keepalive_time_ms", 500),
    ("grpc.keepalive_timeout_ms", 800),
    ("grpc.http2.max_pings_without_data", 0),
]
# After Accepted these say that the stream broke, not that the request ended.
BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)
BUSY = grpc.StatusCode.RESOURCE_EXHAUSTED  # may be told to a resume, which tries again


class ResumingStream:
    """Not thread-safe; one generate() at a time. `resumes` counts the streams after the first."""

    def __init__(self, pb, pb_grpc, addresses, tries=20, timeout_s=30.0, backoff_s=0.05, backoff_max_s=1.0):
        self.pb = pb
        self.channels = [grpc.insecure_channel(address, CHANNEL_OPTIONS) for address in addresses]
        self.stubs = [pb_grpc.GenerationStub(channel) for channel in self.channels]
        self.tries, self.timeout_s = tries, timeout_s
        self.backoff_s, self.backoff_max_s = backoff_s, backoff_max_s
        self.resumes = 0

    def close(self):
        for channel in self.channels:
            channel.close()

    def generate(self, request):
        """Yields the events of `request`. Raises grpc.RpcError when it is refused or cannot be resumed."""
        self.original, self.accepted, self.finished = request, None, False
        self.received, self.ended = {}, set()  # by branch: ids; branches that ended
        started = time.monotonic()
        gateway = tries = 0
        broke = None  # when the stream broke, until a token comes
        while True:
            error = None
            try:
                for event in self.stubs[gateway].Generate(request):
                    before = self.tokens()
                    if self.strip(event):
                        yield event
                    if self.tokens() > before:
                        tries, broke = 0, None
            except grpc.RpcError as raised:
                error = raised
            if self.finished:
                return
            if not self.may_go_on(error, tries):
                raise error or EOFError("the stream ended without Accepted")
            now = time.monotonic()
            broke, tries = broke or now, tries + 1
            wait = 0 if tries == 1 else min(self.backoff_s * 2 ** (tries - 2), self.backoff_max_s)
            if tries > self.tries or now + wait > broke + self.timeout_s:
                raise error or EOFError("the stream ended without Finished")
            time.sleep(wait)
            gateway = (gateway + 1) % len(self.stubs)
            if self.accepted is not None:
                self.resumes += 1
                request = self.resume_request(time.monotonic() - started)

    def may_go_on(self, error, tries):
        if self.accepted is None:  # nothing was accepted: gateways that are not there are passed over
            return error is not None and error.code() == grpc.StatusCode.UNAVAILABLE and tries + 1 < len(self.stubs)
        return error is None or error.code() in BROKEN or (tries > 0 and error.code() == BUSY)

    def tokens(self):
        return sum(len(ids) for ids in self.received.values())

    def strip(self, event):
        """Takes what was yielded before out of `event`; True when something is left of it."""
        kind = event.WhichOneof("event")
        if kind == "accepted":
            first, self.accepted = self.accepted is None, event.accepted
            return first
        if kind == "tokens":
            new = []
            for token in event.tokens.tokens:
                ids = self.received.setdefault(token.branch, [])
                if token.index == len(ids):
                    ids.append(token.id)
                    new.append(token)
                elif token.index > len(ids) or ids[token.index] != token.id:
                    raise ValueError(f"token {token.index} of branch {token.branch} does not fit what came before")
            any_before = len(event.tokens.tokens) > 0
            kept = self.pb.Tokens(tokens=new, watermark=event.tokens.watermark)
            event.tokens.CopyFrom(kept)
            return bool(new) or not any_before
        if kind == "branch_finished":
            again = event.branch_finished.branch in self.ended
            self.ended.add(event.branch_finished.branch)
            return not again
        self.finished = kind == "finished"
        return True

    def resume_request(self, elapsed_s):
        request = self.pb.GenerateRequest()
        request.CopyFrom(self.original)
        request.request_id = self.accepted.request_id
        request.sampling.seed = self.accepted.seed
        if request.deadline_ms > 0:
            request.deadline_ms = max(1, request.deadline_ms - int(elapsed_s * 1000))
        request.resume.handle = self.accepted.resume_handle
        del request.resume.received[:]
        for branch in range(max(self.received, default=-1) + 1):
            request.resume.received.add().ids.extend(self.received.get(branch, []))
        return request
