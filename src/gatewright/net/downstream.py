"""One client connection over HTTP/1: reads requests one after the other, hands each to the proxy, writes its answer.

Pipelined requests wait in the codec's buffer until the answer before them is written. The state says what the
connection is doing; the exchange, which has a life of its own, is in `proxy`.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from gatewright.core.clock import Clock
from gatewright.core.errors import GatewayError, Reason, RequestError
from gatewright.core.exchange import Downstream, Exchange
from gatewright.core.headers import Field
from gatewright.core.limits import Limits
from gatewright.core.messages import Request, Response
from gatewright.core.peer import Network, Peer
from gatewright.core.streams import Pipe
from gatewright.http1.body import Framing
from gatewright.http1.chunked import encode_chunk, encode_end
from gatewright.http1.request_codec import RequestCodec
from gatewright.http1.serialize import complete_answer, interim_head, response_head, tunnel_head
from gatewright.net.timers import NEVER, Timers
from gatewright.net.transport import Endpoint

_PIPELINE_BYTES = 64 * 1024
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 64 * 1024 * 1024  # many clients read no answer before they have sent all


class State(Enum):
    """What a client connection is doing. CLOSED is final."""

    IDLE = "idle"  # between requests
    HEAD = "head"  # a head has begun
    BUSY = "busy"  # an exchange is under way
    LINGER = "linger"  # answered and half closed: what the client still sends is thrown away
    TUNNEL = "tunnel"
    CLOSED = "closed"


# Bare names: a member of an Enum costs 13 ns more each time, 70 on Python 3.11.
IDLE, HEAD, BUSY, LINGER, TUNNEL, CLOSED = State
FRAMED_HEAD = Framing.HEAD


class Handler(Protocol):
    """The proxy, as a connection sees it."""

    def handle(self, exchange: Exchange) -> None:
        """Answer `exchange` through its `downstream`."""

    def refuse(self, error: GatewayError, downstream: Downstream, peer: Peer, started: float) -> tuple[Response, str]:
        """Return the answer to a request that could not be read, and its ID."""

    def client_gone(self, exchange: Exchange) -> None:
        """The client of `exchange` is gone; nothing can be answered."""


class Listening(Protocol):
    """What all connections of one listener share."""

    clock: Clock
    timers: Timers
    handler: Handler
    limits: Limits
    trusted: tuple[Network, ...]
    connections: "set[ClientConnection]"
    draining: bool

    def forget(self, connection: "ClientConnection") -> None:
        """The connection is gone."""


class ClientConnection(Endpoint):
    """A connection from a client."""

    __slots__ = (
        "_advancing",
        "_chunked",
        "_clock",
        "_close_after",
        "_codec",
        "_done",
        "_exchange",
        "_first_byte",
        "_limits",
        "_lingered",
        "_pipe",
        "_shared",
        "_timers",
        "_unsent",
        "peer",
        "state",
    )

    def __init__(self, listening: Listening) -> None:
        super().__init__()
        self._shared = listening
        self._clock = listening.clock
        self._timers = listening.timers
        self._limits = listening.limits
        self._codec = RequestCodec(listening.limits)
        self._exchange: Exchange | None = None
        self._done: Callable[[], None] | None = None
        self._pipe: Pipe | None = None  # the request's body, while it comes
        self._close_after = False
        self._chunked = False
        self._first_byte = 0.0
        self._lingered = 0
        self._unsent = 0  # bytes of answers that had not gone out when the last deadline was set
        self._advancing = False
        self.state = IDLE
        self.peer: Peer

    def __repr__(self) -> str:
        return f"<ClientConnection {self.state.value}>"

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        self.transport = transport
        address = transport.get_extra_info("peername") or ("", 0)
        local = transport.get_extra_info("sockname") or ("", 0)
        tls = transport.get_extra_info("ssl_object")
        self.peer = Peer(
            str(address[0]),
            int(address[1]),
            int(local[1]),
            "https" if tls is not None else "http",
            self._shared.trusted,
            tls.version() if tls is not None else None,
        )
        self._shared.connections.add(self)
        self._timers.set(self, self._clock.now() + self._limits.header_timeout)

    # Requests

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        state = self.state
        if state is IDLE or state is HEAD:
            codec = self._codec
            codec.buffer = codec.buffer + data if codec.buffer else data
            self._advance()
            if self.congested and len(self._codec.buffer) > _PIPELINE_BYTES:
                self.pause()
        elif state is BUSY:
            self._codec.receive(data)
            if self._pipe is not None:
                self._read_body()
            elif len(self._codec.buffer) > _PIPELINE_BYTES:
                self.pause()
        elif state is TUNNEL:
            self.carry(data)
        elif state is LINGER:
            self._lingered += len(data)
            if self._lingered > _LINGER_BYTES:
                self.transport.abort()

    def _advance(self) -> None:
        """Begin the exchanges of the requests that are here, until one must be waited for."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self.state is IDLE or self.state is HEAD:
                if not self._codec.buffer or self.congested:
                    break
                try:
                    request = self._codec.next_request()
                except RequestError as error:
                    self._refuse(error)
                    break
                if request is None:
                    if self._codec.buffer:  # else it was but an empty line
                        self._wait_for_head()
                    break
                self._begin(request)
        finally:
            self._advancing = False

    def _wait_for_head(self) -> None:
        if self.state is IDLE:
            self.state = HEAD
            self._first_byte = self._clock.now()
            self._timers.set(self, self._first_byte + self._limits.header_timeout)

    def _begin(self, request: Request) -> None:
        started = self._clock.now()
        exchange = self._exchange = Exchange(request, self.peer, self, started)
        self.state = BUSY
        self.deadline = NEVER
        self._close_after = not request.keep_alive
        if self._codec.framing is not FRAMED_HEAD:
            pipe = request.content = self._pipe = Pipe(self, keep=True)
            self._timers.set(self, started + self._limits.body_timeout)
            self._read_body()
            if pipe.ended and pipe.replayable and not pipe.trailers:
                request.content = pipe.take()
        elif request.content:
            exchange.bytes_in = request.content_length or 0
        self._shared.handler.handle(exchange)

    def _read_body(self) -> None:
        pipe = self._pipe
        assert pipe is not None
        codec = self._codec
        try:
            data = codec.read_body()
        except RequestError as error:
            self._pipe = None
            self._close_after = True
            self.deadline = NEVER
            pipe.fail(error)
            return
        if data:
            if self._exchange is not None:
                self._exchange.bytes_in += len(data)
            pipe.feed(data)
            if self._pipe is not pipe:
                return  # these bytes ended the exchange (a limit): the connection lingers, with a deadline of its own
        if codec.framing is FRAMED_HEAD:
            trailers, codec.trailers = codec.trailers, []
            self._pipe = None
            self.deadline = NEVER
            pipe.end(trailers)
        elif self._pipe is pipe and self._reading:
            self._timers.set(self, self._clock.now() + self._limits.body_timeout)

    def resume(self) -> None:
        """Read from the client again: its time for the body runs again."""
        super().resume()
        if self._pipe is not None:
            self._timers.set(self, self._clock.now() + self._limits.body_timeout)

    def pause(self) -> None:
        """Stop reading from the client: its time for the body stands still, that for its answer does not."""
        super().pause()
        if self._pipe is not None:
            self.deadline = NEVER
            self.congestion_changed()

    def _refuse(self, error: RequestError) -> None:
        """Answer what cannot be read, and read no further: where this request ends is not known."""
        started = self._first_byte if self.state is HEAD else self._clock.now()
        response, request_id = self._shared.handler.refuse(error, self, self.peer, started)
        assert isinstance(response.content, bytes)
        head = response_head(response, request_id, len(response.content), chunked=False, connection=b"close")
        self.transport.write(head + response.content)
        self._linger()

    # Answers (`Downstream`)

    def respond(self, exchange: Exchange, response: Response, done: Callable[[], None]) -> bool:
        """Write `response`; return True when it is complete, else call `done` once when it is or never will be."""
        request = exchange.request
        if self._pipe is not None or self._shared.draining:
            self._close_after = True
        content = response.content
        bare = request.method == "HEAD" or response.status in (204, 304)
        length: int | None
        if type(content) is bytes:
            if content and not bare and not self._close_after and request.version:
                # The usual answer: complete, on a connection that stays.
                exchange.bytes_out = len(content)
                exchange.status = response.status
                self.transport.write(complete_answer(response, exchange.id, content))
                self._complete()
                return True
            length = response.content_length if bare and response.from_target else len(content)
        else:
            length = response.content_length
            if bare:
                content = b""  # a plugin has made it an answer without a body: the stream ends with its attempt
        if response.status == 204 or (response.status == 304 and not response.from_target):
            length = None  # RFC 9110 section 8.6: a 304 would have to name the length that the 200 has
        self._chunked = not bare and length is None
        if self._chunked and request.version == 0:
            self._chunked = False
            self._close_after = True
        connection = b""
        if self._close_after:
            connection = b"close"
        elif request.version == 0:
            connection = b"keep-alive"
        head = response_head(response, exchange.id, length, self._chunked, connection)
        exchange.status = response.status
        if isinstance(content, bytes):
            if bare or not content:
                self.transport.write(head)
            else:
                self.transport.write(head + content)
                exchange.bytes_out = len(content)
            self._complete()
            return True
        self._done = done
        self.transport.write(head)
        content.attach(self)
        return False

    def write(self, data: bytes) -> None:
        """Send body bytes of the answer."""
        if not self._closed:
            self.transport.write(encode_chunk(data) if self._chunked else data)
            if self._exchange is not None:
                self._exchange.bytes_out += len(data)

    def end(self, trailers: list[Field]) -> None:
        """The answer is complete."""
        if self._chunked and not self._closed:
            self.transport.write(encode_end(trailers))
        self._call_done()
        self._complete()

    def broken(self, error: GatewayError) -> None:
        """The answer will never be complete: break the connection, so that nobody takes it for a whole one."""
        if self._exchange is not None:
            self._exchange.reason = error.reason
            self._exchange.cause = error.cause
            self.abort(self._exchange)
        self._call_done()

    def _call_done(self) -> None:
        if self.feeder is not None:
            self.feeder.detach()
        done, self._done = self._done, None
        if done is not None:
            done()

    def _complete(self) -> None:
        """The answer is written: go on with the next request, or end the connection."""
        self._exchange = None
        if self._closed:
            return
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.detach()
            self._linger()
        elif self._close_after:
            if self._codec.buffer or self._codec.framing is not FRAMED_HEAD:
                self._linger()  # the client has sent more, or is in the middle of a body that is not read any more
            else:
                self.state = LINGER
                self._unsent = self.transport.get_write_buffer_size()
                self._timers.set(self, self._clock.now() + self._limits.write_timeout if self._unsent else NEVER)
                self.transport.close()
        else:
            self.state = IDLE
            self.deadline = deadline = self._clock.now() + self._limits.keepalive_timeout
            if deadline < self.filed:
                self._timers.file(self)
            if not self._reading:
                self.resume()
            if self._codec.buffer:
                self._advance()

    def _linger(self) -> None:
        """Close without losing the answer.

        A close with unread bytes makes the kernel reset the connection, and a reset can overtake the answer; so only
        the sending side is shut, and what still comes is thrown away for a while (as RFC 9112 section 9.6 advises).
        """
        self.state = LINGER
        self._pipe = None
        self._codec.buffer = b""
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
        if not self._reading:
            self.resume()
        self._unsent = self.transport.get_write_buffer_size()
        self._timers.set(self, self._clock.now() + _LINGER_SECONDS)

    def inform(self, exchange: Exchange, status: int, phrase: bytes, fields: list[Field]) -> None:
        """Send an interim answer; HTTP/1.0 has none (RFC 9110 section 15.2)."""
        if exchange.request.version > 0 and not self._closed:
            self.transport.write(interim_head(status, phrase, fields))

    def proceed(self, exchange: Exchange) -> None:
        """Send `100 Continue` if the client waits for it and has not sent anything yet."""
        request = exchange.request
        if request.expects_continue:
            request.expects_continue = False
            if self._pipe is not None and not self._pipe.total:
                self.inform(exchange, 100, b"Continue", [])

    def tunnel(self, exchange: Exchange, response: Response, upstream: Any, done: Callable[[], None]) -> None:
        """Answer 101 and carry bytes between the client and `upstream` until either side ends, then call `done`."""
        exchange.status = response.status
        self.transport.write(tunnel_head(response, exchange.id))
        self.state = TUNNEL
        self._done = done
        self.join(upstream, lambda: self._tunnel_over(exchange, upstream))

    def take_early(self) -> bytes:
        """Return what the client has sent behind the request that opens the tunnel, once."""
        early, self._codec.buffer = self._codec.buffer, b""
        return early

    def _tunnel_over(self, exchange: Exchange, upstream: Endpoint) -> None:
        """One side is gone. A client that does not take the rest has `write_timeout` seconds."""
        exchange.bytes_in, exchange.bytes_out = self.tunnelled, upstream.tunnelled
        if not self._closed:
            self._unsent = self.transport.get_write_buffer_size()
            self._timers.set(self, self._clock.now() + self._limits.write_timeout)
        self._call_done()

    def abort(self, exchange: Exchange) -> None:
        """Break the connection so that what was sent cannot be taken for a complete answer."""
        self._exchange = None
        if not self._closed:
            if not self._chunked:
                _reset_on_close(self.transport)
            self._closed = True
            self.state = CLOSED
            self._timers.set(self, NEVER)
            self._shared.forget(self)
            self.transport.abort()

    # Ends

    def congestion_changed(self) -> None:
        """A client that does not read its answer has `write_timeout` seconds."""
        if self.state is BUSY and (self._pipe is None or not self._reading):
            self._unsent = self.transport.get_write_buffer_size()
            self._timers.set(self, self._clock.now() + self._limits.write_timeout if self.congested else NEVER)
        elif self.state is IDLE and not self.congested:
            self.resume()
            self._advance()

    def on_deadline(self) -> None:
        """The client took too long."""
        if self.state is HEAD:
            seconds = self._limits.header_timeout
            self._refuse(RequestError(Reason.HEADER_TIMEOUT, f"The request's head took over {seconds:g} s"))
        elif self.state is BUSY and self._pipe is not None and self._reading:
            pipe, self._pipe = self._pipe, None
            self._close_after = True
            seconds = self._limits.body_timeout
            pipe.fail(RequestError(Reason.BODY_TIMEOUT, f"The request's body paused for over {seconds:g} s"))
        elif not self._takes_its_answer():
            if self.state is IDLE and not self._unsent:
                self.transport.close()
            else:
                self.transport.abort()

    def _takes_its_answer(self) -> bool:
        """Give a client that has taken some of its answer since the last deadline another one."""
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        if not 0 < self._unsent < before:
            return False
        self._timers.set(self, self._clock.now() + self._limits.write_timeout)
        return True

    def drain(self) -> None:
        """Close as soon as no exchange is under way."""
        if self.state is IDLE:
            self.transport.close()
        self._close_after = True

    def eof_received(self) -> bool:
        """The client sends no more: without a request under way, or with one, that is its end.

        A client that shuts only its sending side cannot be told from one that has gone, and a gateway that goes on
        working for clients that have gone can be kept busy by them; nginx and Envoy decide the same.
        """
        if self.state is TUNNEL:
            self.tunnel_eof()
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._closed = True
        self._shared.forget(self)
        self._timers.set(self, NEVER)
        state, self.state = self.state, CLOSED
        if state is TUNNEL:
            self.tunnel_lost()
            return
        exchange, self._exchange = self._exchange, None
        pipe, self._pipe = self._pipe, None
        if exchange is None:
            return
        if exchange.reason is None:
            exchange.reason = Reason.CLIENT_GONE
        if self.feeder is not None:
            self.feeder.detach()
        self._done = None
        if pipe is not None:
            pipe.fail(RequestError(Reason.CLIENT_GONE, "The client went away in the middle of its request"))
        self._shared.handler.client_gone(exchange)


def _reset_on_close(transport: Any) -> None:
    """Make the close a reset: without a length or chunks, an orderly close would mean that the answer is complete."""
    import socket
    import struct

    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
