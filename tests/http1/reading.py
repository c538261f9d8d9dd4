"""Drives the codecs as connections do, and says what came out in a form that can be compared."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gatewright.core.errors import RequestError, ResponseError
from gatewright.core.headers import Headers
from gatewright.core.limits import Limits
from gatewright.http1.body import Framing
from gatewright.http1.request_codec import RequestCodec
from gatewright.http1.response_codec import ResponseCodec

Pairs = list[tuple[bytes, bytes]]


@dataclass
class Seen:
    """One message. `facts` is everything else that the head says of it."""

    start: tuple[object, ...]
    fields: Pairs
    wire: bytes | None
    facts: tuple[object, ...]
    body: bytes = b""
    trailers: Pairs = field(default_factory=list)
    complete: bool = False


@dataclass
class Outcome:
    """What a stream of bytes was read as: its messages, and the reason why reading stopped, if it did."""

    messages: list[Seen] = field(default_factory=list)
    refused: str | None = None
    rest: bytes = b""

    @property
    def accepted(self) -> bool:
        """At least one whole message, and nothing wrong."""
        return self.refused is None and bool(self.messages) and self.messages[-1].complete


def pairs(headers: Headers) -> Pairs:
    return [(one[0], one[1]) for one in headers.fields]


def read_requests(pieces: Iterable[bytes], limits: Limits | None = None) -> Outcome:
    """Read a client's bytes, piece by piece."""
    codec = RequestCodec(limits or Limits())
    outcome = Outcome()
    try:
        for piece in pieces:
            codec.receive(piece)
            while _request_step(codec, outcome):
                pass
    except RequestError as error:
        outcome.refused = error.reason.value
    outcome.rest = codec.buffer
    return outcome


def _request_step(codec: RequestCodec, outcome: Outcome) -> bool:
    """Take one head or some body; return whether there may be more."""
    if codec.framing is not Framing.HEAD:
        return _body_step(codec, outcome)
    if not codec.buffer:
        return False
    request = codec.next_request()
    if request is None:
        return False
    content = request.content
    assert isinstance(content, bytes)
    facts = (request.content_length, request.chunked, request.keep_alive, request.upgrade, request.host)
    start = (request.method, request.path, request.query, request.version)
    wire = request.headers.wire
    complete = codec.framing is Framing.HEAD
    outcome.messages.append(Seen(start, pairs(request.headers), wire, facts, content, complete=complete))
    return True


def _body_step(codec: RequestCodec | ResponseCodec, outcome: Outcome) -> bool:
    if not codec.buffer:
        return False
    message = outcome.messages[-1]
    message.body += codec.read_body()
    if codec.framing is not Framing.HEAD:
        return False
    message.trailers = [(one[0], one[1]) for one in codec.trailers]
    codec.trailers = []
    message.complete = True
    return True


def read_responses(pieces: Iterable[bytes], method: str = "GET", eof: bool = False) -> Outcome:
    """Read a target's bytes: the answers to one request, up to the final one; then the end of the stream, if `eof`."""
    codec = ResponseCodec()
    codec.method = method
    outcome = Outcome()
    try:
        for piece in pieces:
            codec.receive(piece)
            while _response_step(codec, outcome):
                pass
        if eof:
            codec.eof()
            if outcome.messages and codec.framing is Framing.HEAD:
                outcome.messages[-1].complete = True
    except ResponseError as error:
        outcome.refused = error.reason.value
    except RequestError as error:  # bodies are read by one decoder for both sides; `net.upstream` turns it
        outcome.refused = error.reason.value
    outcome.rest = codec.buffer
    return outcome


def _response_step(codec: ResponseCodec, outcome: Outcome) -> bool:
    if codec.framing is not Framing.HEAD:
        return _body_step(codec, outcome)
    last = outcome.messages[-1] if outcome.messages else None
    if not codec.buffer or (last is not None and last.complete and int(str(last.start[0])) >= 200):
        return False
    response = codec.next_response()
    if response is None:
        return False
    content = response.content
    assert isinstance(content, bytes)
    facts = (response.content_length, response.chunked, response.keep_alive)
    start = (response.status, response.phrase, response.version)
    complete = codec.framing is Framing.HEAD
    wire = response.headers.wire
    outcome.messages.append(Seen(start, pairs(response.headers), wire, facts, content, complete=complete))
    return True
