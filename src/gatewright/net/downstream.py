"""One client connection over HTTP/1: reads requests one after the other and hands each to the proxy.

Pipelined requests wait in the codec's buffer until the answer before them is written. What the connection is doing, its
state says; the exchange, which has a life of its own, is in `proxy`; writing its answer is in `answering`.
"""

from typing import Any

from gatewright.core.errors import GatewayError, Reason, RequestError
from gatewright.core.exchange import Exchange
from gatewright.core.messages import Request
from gatewright.core.peer import Peer
from gatewright.core.streams import Pipe
from gatewright.http1.serialize import response_head
from gatewright.net.answering import (
    BUSY,
    CLOSED,
    FRAMED_HEAD,
    HEAD,
    IDLE,
    LAST_REQUEST_SECONDS,
    LINGER,
    TUNNEL,
    AnsweringConnection,
)
from gatewright.net.late import LateTransport
from gatewright.net.repeats import LONGEST, Repeats
from gatewright.net.timers import NEVER, RESOLUTION

_PIPELINE_BYTES = 64 * 1024
_LINGER_BYTES = 64 * 1024 * 1024  # many clients read no answer before they have sent all


class ClientConnection(AnsweringConnection):
    """A connection from a client."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<ClientConnection {self.state.value}>"

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        self.transport = LateTransport(transport)
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
        self._look_up_repeats()
        self._shared.arrived(self)
        wait = self._limits.header_timeout
        self._timers.set(self, self._clock.now() + (min(wait, LAST_REQUEST_SECONDS) if self._shared.draining else wait))

    # Requests

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        state = self.state
        if state is IDLE or state is HEAD:
            repeats = self._repeats
            if repeats and len(data) <= LONGEST and data in repeats and self._answer_again(repeats, data):
                return
            codec = self._codec
            codec.buffer = codec.buffer + data if codec.buffer else data
            self.read_on()
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
                self.cut()

    def _answer_again(self, repeats: Repeats, data: bytes) -> bool:
        """Answer a request that came before as it was answered then (see `repeats`); False: it must be read.

        Not in the middle of a head, whose beginning is in the buffer.
        """
        if self._codec.buffer or self.congested or self._shared.draining:
            return False
        now = self._clock.now()
        answer = repeats[data].answer(self.peer, self, now)
        if answer is None:
            repeats.pop(data, None)  # the next answer in the usual way may bring it back
            return False
        exchange, written = answer
        self._close_after = False
        self.state = BUSY  # for who hears in this moment that the client does not read
        self.transport.write_later(written)
        self._await_next()
        self._shared.handler.repeated(exchange)
        return True

    def read_on(self) -> None:
        """Begin the exchanges of the requests that are here, until one must be waited for."""
        if self._advancing:
            return
        self._advancing = True
        codec = self._codec
        while codec.buffer and (self.state is IDLE or self.state is HEAD) and not self.congested:
            data = codec.buffer
            try:
                request = codec.next_request()
            except RequestError as error:
                self._refuse(error)
                break
            if request is None:
                if codec.buffer:  # else it was but an empty line
                    self._wait_for_head()
                break
            started = self._clock.now()
            exchange = self._exchange = Exchange(request, self.peer, self, started)
            self.state = BUSY
            self.deadline = NEVER
            self._close_after = not request.keep_alive
            if codec.framing is not FRAMED_HEAD:
                self._open_body(request, started)
            elif request.content:
                exchange.bytes_in = request.content_length or 0
            repeater = self._shared.handler.handle(exchange)
            if repeater is not None and self._repeats is not None and not codec.buffer and self.state is IDLE:
                self._repeats.learn(data, exchange, repeater, self._clock.now())
        self._advancing = False

    def _wait_for_head(self) -> None:
        self.transport.settle()  # a client that does not read must be noticed while IDLE: from there it goes on later
        if self.state is IDLE and not self.congested:
            self.state = HEAD
            self._first_byte = self._clock.now()
            self._timers.set(self, self._first_byte + self._limits.header_timeout)

    def _open_body(self, request: Request, started: float) -> None:
        """Read what is here of a body that is not here as a whole."""
        pipe = request.content = self._pipe = Pipe(self, keep=True)
        self._timers.set(self, started + self._limits.body_timeout)
        self._read_body()
        if pipe.ended and pipe.replayable and not pipe.trailers:
            request.content = pipe.take()

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
            self.congestion_changed()  # the time for its answer runs from here on, if the client does not read
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

    def _refuse(self, error: GatewayError) -> None:
        """Answer what cannot be read, and read no further: where this request ends is not known."""
        started = self._first_byte if self.state is HEAD else self._clock.now()
        response, request_id = self._shared.handler.refuse(error, self, self.peer, started)
        assert isinstance(response.content, bytes)
        head = response_head(response, request_id, len(response.content), chunked=False, connection=b"close")
        self.transport.write(head + response.content)
        self._linger()

    # Ends

    def congestion_changed(self) -> None:
        """A client that does not read its answer has `write_timeout` seconds."""
        if self.state is BUSY and (self._pipe is None or not self._reading):
            self._unsent = self.transport.get_write_buffer_size()
            self._timers.set(self, self._clock.now() + self._limits.write_timeout if self.congested else NEVER)
        elif self.state is IDLE and self.congested:  # its answer went out at the end of the turn
            self._unsent = self.transport.get_write_buffer_size()
        elif self.state is IDLE:
            self.resume()
            self.read_on()

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
            if self.state is not IDLE or self._unsent:
                self.cut()
            elif self._has_unread():  # it has asked in time, and the loop is late
                self._timers.set(self, self._clock.now() + RESOLUTION)
            else:
                self.transport.close()

    def _takes_its_answer(self) -> bool:
        """Give a client that has taken some of its answer since the last deadline another one."""
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        if not 0 < self._unsent < before:
            return False
        self._timers.set(self, self._clock.now() + self._limits.write_timeout)
        return True

    def eof_received(self) -> bool:
        """The client sends no more: without a request under way, or with one, that is its end.

        A client that shuts only its sending side cannot be told from one that has gone, and a gateway that goes on
        working for clients that have gone can be kept busy by them; nginx and Envoy decide the same.
        """
        if self.state is TUNNEL:
            self.tunnel_eof()
            return True
        self.transport.settle()  # what is answered already is the client's, though it asks for no more
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
