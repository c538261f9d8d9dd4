"""One connection to a target: writes requests, reads answers, one at a time.

It belongs to a pool (`Owner`) while idle and to one attempt (`User`) while busy. Every way in which the other side can
misbehave becomes a GatewayError here; nothing above this file sees OSError.
"""

import ssl
from enum import Enum
from typing import Any, Protocol

from gatewright.core.clock import Clock
from gatewright.core.errors import GatewayError, Reason, ResponseError, Retry, UpstreamError
from gatewright.core.headers import Field
from gatewright.core.messages import Content, Response
from gatewright.core.streams import Pipe
from gatewright.http1.body import Framing
from gatewright.http1.chunked import encode_chunk, encode_end
from gatewright.http1.response_codec import ResponseCodec
from gatewright.net.late import LateTransport
from gatewright.net.timers import NEVER, Timers
from gatewright.net.transport import Endpoint

_MAX_INTERIM = 32


class State(Enum):
    """Where a connection to a target stands. CLOSED is final."""

    IDLE = "idle"
    WAITING = "waiting"  # for an answer's head
    BODY = "body"  # of an answer
    TUNNEL = "tunnel"
    CLOSED = "closed"


# Bare names: a member of an Enum costs 13 ns more each time, 70 on Python 3.11.
IDLE, WAITING, BODY, TUNNEL, CLOSED = State
FRAMED_HEAD = Framing.HEAD


class Owner(Protocol):
    """The pool that a connection goes back to."""

    def released(self, connection: "TargetConnection", now: float) -> None:
        """The connection has served its request and can serve another."""

    def lost(self, connection: "TargetConnection") -> None:
        """The connection cannot be used again."""


class User(Protocol):
    """The attempt that a connection serves."""

    @property
    def client_ip(self) -> str:
        """The address of the client that it serves, for targets in this process."""

    def on_informational(self, response: Response) -> None:
        """An interim answer (1xx, not 101) came."""

    def on_response(self, response: Response) -> None:
        """The answer's head came; its `content` is the whole body, or a Pipe for the rest of it."""

    def on_failure(self, error: GatewayError) -> None:
        """No answer will come."""


class TargetConnection(Endpoint):
    """A connection to one target."""

    __slots__ = (
        "_carried",
        "_chunked",
        "_clock",
        "_codec",
        "_heard",
        "_idle",
        "_interim",
        "_last_user",
        "_owner",
        "_pipe",
        "_reusable",
        "_sending",
        "_timers",
        "_user",
        "_wait",
        "born",
        "released_at",
        "served",
        "state",
    )

    def __init__(self, owner: Owner, clock: Clock, timers: Timers) -> None:
        super().__init__()
        self._owner = owner
        self._clock = clock
        self._timers = timers
        self._codec = ResponseCodec()
        self._user: User | None = None  # who is told of the answer; None once it was
        self._last_user: User | None = None  # who made the last request
        self._pipe: Pipe | None = None  # the body of the answer
        self._sending = False  # a body is still on its way to the target
        self._chunked = False
        self._wait = 0.0
        self._idle = 0.0
        self.state = IDLE
        self.born = clock.now()
        self.served = 0
        self._heard = False  # a byte of the present answer has come
        self._reusable = True
        self.released_at = self.born  # when the last answer was complete
        self._carried = 0  # by a tunnel, when it was last looked at
        self._interim = 0

    def __repr__(self) -> str:
        return f"<TargetConnection {self.state.value} served={self.served}>"

    def connection_made(self, transport: Any) -> None:
        """The connection stands."""
        self.transport = LateTransport(transport)

    def request(
        self,
        user: User,
        method: str,
        head: bytes,
        content: Content,
        chunked: bool,
        now: float,
        response_timeout: float,
        idle: float,
    ) -> None:
        """Send a request: `head` is complete; a Pipe as `content` is sent as it comes, in chunks if `chunked`.

        Timeouts are in seconds from `now`; infinite ones never end.
        """
        self._user = self._last_user = user
        self.state = WAITING
        self._heard = False
        self._interim = 0
        self._wait = response_timeout
        self._idle = idle
        self.served += 1
        self._codec.method = method
        self.deadline = deadline = now + response_timeout
        if deadline < self.filed:
            self._timers.file(self)
        if type(content) is bytes:
            self.transport.write_later(head + content if content else head)
        else:
            assert isinstance(content, Pipe)
            self._sending = True
            self._chunked = chunked
            self.transport.write(head)
            content.attach(self)

    # The sink of the request's body

    def write(self, data: bytes) -> None:
        """Send body bytes."""
        if self._closed or not self._sending:
            return
        self.transport.write(encode_chunk(data) if self._chunked else data)
        if self.state is WAITING:
            # A target may read a long body before it answers: it has its full time from the last byte on.
            self._timers.set(self, self._clock.now() + self._wait)

    def end(self, trailers: list[Field]) -> None:
        """The body is complete."""
        if self._chunked and self._sending and not self._closed:
            self.transport.write(encode_end(trailers))
        if self.state is WAITING:
            self._timers.set(self, self._clock.now() + self._wait)
        self._sending = False

    def broken(self, error: GatewayError) -> None:
        """The client will not send the rest: this attempt is over, and the target must not take it for a request."""
        self._fail(error)

    # The answer

    def data_received(self, data: bytes) -> None:
        """Take bytes of the target."""
        state = self.state
        if state is TUNNEL:
            self.carry(data)
            return
        if state is IDLE or state is CLOSED or self.transport.waits:
            self._on_end(None)  # nobody asked: whatever it is, it must not become the next request's answer
            return
        codec = self._codec
        codec.buffer = codec.buffer + data if codec.buffer else data
        self._heard = True
        try:
            if state is WAITING:
                self._read_head()
            else:
                self._read_body()
        except ResponseError as error:
            self._fail(error)
        except GatewayError as error:
            detail = "The target's answer is not valid HTTP"
            self._fail(ResponseError(Reason.UPSTREAM_MALFORMED, detail, error.detail))

    def _read_head(self) -> None:
        codec = self._codec
        while True:
            response = codec.next_response()
            if response is None:
                return
            user = self._user
            assert user is not None
            if response.status >= 200:
                break
            if response.status == 101:
                self.state = TUNNEL
                self._timers.set(self, NEVER)
                self.pause()  # what follows is the tunnel's: `join` reads on
                user.on_response(response)
                return
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                raise ResponseError(Reason.UPSTREAM_MALFORMED, "The target sends interim answers without end")
            user.on_informational(response)
            if self._user is not user:
                return
        self._reusable = response.keep_alive
        if codec.framing is FRAMED_HEAD:
            # Complete: give the connection back first, so that the pool has it when the next request comes.
            self._release()
            user.on_response(response)
            return
        pipe = self._pipe = Pipe(self)
        response.content = pipe
        self.state = BODY
        if self._reading:
            self._timers.set(self, self._clock.now() + self._idle)
        self._read_body()
        if pipe.ended and not pipe.trailers:
            response.content = pipe.take()
        if self._user is user:  # else the body is here, and the connection may serve another's request already
            self._user = None  # from here on a failure is told through the pipe
        user.on_response(response)

    def _read_body(self) -> None:
        pipe = self._pipe
        assert pipe is not None
        codec = self._codec
        data = codec.read_body()
        if data:
            pipe.feed(data)
        if codec.framing is FRAMED_HEAD:
            trailers, codec.trailers = codec.trailers, []
            self._pipe = None
            self._release()
            pipe.end(trailers)
        elif self.state is BODY and self._reading:
            self._timers.set(self, self._clock.now() + self._idle)

    def _release(self) -> None:
        self._user = self._last_user = None
        sending, self._sending = self._sending, False
        if self.feeder is not None:
            self.feeder.detach()
        if sending or not self._reusable or self._codec.buffer or self._closed:
            self.close()
        else:
            self.state = IDLE
            self.released_at = now = self._clock.now()
            self._owner.released(self, now)

    # Ends

    def pause(self) -> None:
        """Stop reading: the client is slower than the target, whose time stands still meanwhile."""
        super().pause()
        if self.state is BODY:
            self._timers.set(self, NEVER)

    def resume(self) -> None:
        """Read again."""
        super().resume()
        if self.state is BODY:
            self._timers.set(self, self._clock.now() + self._idle)

    def on_deadline(self) -> None:
        """The target was silent for too long."""
        if self.state is WAITING:
            if self._sending and not self.congested:
                # It is the client that is slow: its own time for the body runs, not the target's.
                self._timers.set(self, self._clock.now() + self._wait)
                return
            detail = f"The target did not answer within {self._wait:g} s"
            self._fail(UpstreamError(Reason.RESPONSE_TIMEOUT, detail, Retry.IDEMPOTENT))
        elif self.state is BODY:
            detail = f"The target sent nothing for {self._idle:g} s"
            self._fail(UpstreamError(Reason.IDLE_TIMEOUT, detail, Retry.NEVER))
        elif self.state is TUNNEL:
            self._look_at_tunnel()
        else:
            self.close()

    def watch_tunnel(self, seconds: float) -> None:
        """End the tunnel when nothing was carried either way for `seconds`, twice that at the most."""
        self._idle = seconds
        self._carried = -1
        self._look_at_tunnel()

    def _look_at_tunnel(self) -> None:
        carried = self.tunnelled + (self._other.tunnelled if self._other is not None else 0)
        if carried == self._carried:
            self.transport.abort()
            return
        self._carried = carried
        self._timers.set(self, self._clock.now() + self._idle)

    def take_early(self) -> bytes:
        """Return what came behind the head that opened the tunnel, once."""
        early, self._codec.buffer = self._codec.buffer, b""
        return early

    def eof_received(self) -> bool:
        """The target sends no more. An answer that lasts until then is complete."""
        if self.state is TUNNEL:
            self.tunnel_eof()
            return True
        self._on_end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self.state is TUNNEL:
            self._closed = True
            self.state = CLOSED
            self.tunnel_lost()
            self._owner.lost(self)
            return
        self._on_end(exc)
        self.close()

    def _on_end(self, exc: Exception | None) -> None:
        pipe = self._pipe
        if self.state is BODY and pipe is not None:
            try:
                if exc is not None:
                    raise ResponseError(Reason.UPSTREAM_TRUNCATED, "The target broke off its answer", str(exc))
                self._codec.eof()
            except ResponseError as error:
                self._fail(error)
                return
            self._pipe = None
            self._reusable = False
            self._release()
            pipe.end([])
        elif self.state is WAITING:
            detail = "The target closed the connection without an answer"
            retry = Retry.SAFE if self.transport.waits else Retry.IDEMPOTENT  # safe: not a byte has been sent
            reset = UpstreamError(Reason.UPSTREAM_RESET, detail, retry, str(exc or "connection closed"))
            reset.reused = self.served > 1 and not self._heard
            if isinstance(exc, ssl.SSLError):  # with TLS 1.3 a target refuses our certificate behind the handshake
                reset = UpstreamError(Reason.TLS_FAILED, "TLS with the target failed", Retry.NEVER, str(exc))
            self._fail(reset)
        elif self.state is IDLE:
            self.close()

    def _fail(self, error: GatewayError) -> None:
        user, self._user = self._user, None
        pipe, self._pipe = self._pipe, None
        self.close()
        if user is not None:
            user.on_failure(error)
        elif pipe is not None:
            pipe.fail(error)

    def cancel(self, user: User) -> None:
        """Drop the exchange that is under way for `user`, if it still is: nobody waits for its answer any more."""
        if user is self._last_user and self.state is not IDLE:
            self._user = None
            self._pipe = None
            self.close()

    @property
    def is_closed(self) -> bool:
        """Tell whether the connection is of no use any more."""
        return self.state is CLOSED

    def close(self) -> None:
        """Close the connection, with whatever is under way on it."""
        if self.feeder is not None:
            self.feeder.detach()
        self._sending = False
        if self.state is not CLOSED:
            self.state = CLOSED
            self._owner.lost(self)
        if not self._closed:
            self._closed = True
            self._timers.set(self, NEVER)
            self.transport.discard()  # nothing that is still here may reach the target as if it were a whole request
