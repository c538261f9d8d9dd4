"""The writing half of a client connection: an exchange's answer, with its framing, and what follows it.

`downstream` is the reading half. The state, which both share, says what the connection is doing.
"""

import select
import socket
import struct
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from gatewright.core.clock import Clock
from gatewright.core.errors import GatewayError
from gatewright.core.exchange import Downstream, Exchange
from gatewright.core.headers import Field
from gatewright.core.limits import Limits
from gatewright.core.messages import Response
from gatewright.core.peer import Network, Peer
from gatewright.core.repetition import Repeater
from gatewright.core.streams import Pipe
from gatewright.http1.body import Framing
from gatewright.http1.chunked import encode_chunk, encode_end
from gatewright.http1.request_codec import RequestCodec
from gatewright.http1.serialize import complete_answer, interim_head, response_head, tunnel_head
from gatewright.net.repeats import Repeats
from gatewright.net.timers import NEVER, Timers
from gatewright.net.transport import Endpoint

_LINGER_SECONDS = 2.0
LAST_REQUEST_SECONDS = 1.0  # draining: for the request of a client that has connected or was answered just now


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

    repeats: dict[str, Repeats]  # what clients may be answered again, by their scheme; the same objects all the time

    def handle(self, exchange: Exchange) -> Repeater | None:
        """Answer `exchange` through its `downstream`; return who may know if the same request gets the same answer
        again, which is to be asked if this one has got it by now."""

    def repeated(self, exchange: Exchange) -> None:
        """`exchange` was answered again: it is over, and `handle` has not seen it."""

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
    draining: bool

    def arrived(self, connection: "AnsweringConnection") -> None:
        """The connection stands."""

    def forget(self, connection: "AnsweringConnection") -> None:
        """The connection is gone."""


class AnsweringConnection(Endpoint):
    """A client connection, as far as answers go. Sink of an answer's body, `Downstream` of its exchange."""

    __slots__ = (
        "_advancing",
        "_chunked",
        "_clock",
        "_close_after",
        "_codec",
        "_done",
        "_ends_by_close",
        "_exchange",
        "_first_byte",
        "_limits",
        "_lingered",
        "_pipe",
        "_repeats",
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
        self._close_after: bool | None = None  # whether the present answer is the last; None: no request has come yet
        self._chunked = False
        self._ends_by_close = False  # the present answer: it has neither a length nor chunks
        self._first_byte = 0.0
        self._lingered = 0
        self._unsent = 0  # bytes of answers that had not gone out when the last deadline was set
        self._advancing = False
        self._repeats: Repeats | None = None
        self.state = IDLE
        self.peer: Peer

    # The reading half's part

    def read_on(self) -> None:
        """Begin the exchanges of the requests that are here."""

    def on_deadline(self) -> None:
        """The client took too long."""

    def _refuse(self, error: GatewayError) -> None:
        """Answer a request that is not read any further."""

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
                self.transport.write_later(complete_answer(response, exchange.id, content))
                self._exchange = None
                if not self._closed:
                    self._await_next()
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
            self._close_after = self._ends_by_close = True
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
            self._await_next()
            if self._shared.draining:  # its answer had begun by then, and could not say that it is the last
                self.drain()

    def _await_next(self) -> None:
        self.state = IDLE
        self.deadline = deadline = self._clock.now() + self._limits.keepalive_timeout
        if deadline < self.filed:
            self._timers.file(self)
        if not self._reading:
            self.resume()
        if self._codec.buffer:
            self.read_on()

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

    def drain(self) -> None:
        """The listener drains: close if nothing is under way. A request that is here by now will be answered, and any
        answer that begins from now on says that it is the last.

        A client that was answered just now may be about to ask again, and what it sends as its connection is closed is
        lost: under 600 requests a second, one or two were at most ends. nginx's `keepalive_min_timeout` is for this.
        """
        if self.state is not IDLE:
            return
        now = self._clock.now()
        quiet = now - (self.deadline - self._limits.keepalive_timeout)
        if self._close_after is None or quiet < LAST_REQUEST_SECONDS or self._has_unread():
            self._timers.set(self, min(self.deadline, now + LAST_REQUEST_SECONDS))
        else:
            self.transport.close()

    def _has_unread(self) -> bool:
        """Tell whether the client has sent something that the loop has not read yet."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or self._closed:
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def change(self) -> None:
        """The listener's limits or trust have changed: they hold from the next request on."""
        shared, before, peer = self._shared, self._codec, self.peer
        self._limits = shared.limits
        if before.framing is FRAMED_HEAD:  # else a body is being read: this connection keeps the codec's old bounds
            self._codec = RequestCodec(shared.limits)
            self._codec.buffer = before.buffer
        if peer.trusted_networks != shared.trusted:
            self.peer = Peer(peer.address, peer.port, peer.local_port, peer.scheme, shared.trusted, peer.tls_version)
            self._look_up_repeats()

    def _look_up_repeats(self) -> None:
        """Find what this client may be answered again: nothing if it is a trusted proxy, which asks for others."""
        self._repeats = None if self.peer.trusted else self._shared.handler.repeats[self.peer.scheme]

    def break_off(self, error: GatewayError) -> None:
        """The time for draining is up: end the exchange under way, if any, by `error`, else the connection."""
        exchange = self._exchange
        if exchange is not None and exchange.run is not None:
            exchange.run.fail(error)
        elif self.state is HEAD:
            self._refuse(error)
        elif self.state is not LINGER:
            self.transport.abort()

    def cut(self) -> None:
        """Close at once: what has not been sent is lost, and nobody may take the rest for a complete answer."""
        if self._ends_by_close and self.transport.get_write_buffer_size():
            reset_on_close(self.transport)
        self.transport.abort()

    def abort(self, exchange: Exchange) -> None:
        """Break the connection so that what was sent cannot be taken for a complete answer."""
        self._exchange = None
        if self.state is TUNNEL and self._other is not None:
            exchange.bytes_in, exchange.bytes_out = self.tunnelled, self._other.tunnelled
        if not self._closed:
            if not self._chunked:
                reset_on_close(self.transport)
            self._closed = True
            self.state = CLOSED
            self._timers.set(self, NEVER)
            self._shared.forget(self)
            self.transport.abort()


def reset_on_close(transport: Any) -> None:
    """Make the close a reset: without a length or chunks, an orderly close would mean that the answer is complete."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
