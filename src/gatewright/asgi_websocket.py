"""WebSockets when the gateway is an ASGI application: messages of the other server on one side, frames on the other.

The handshake is an exchange like any other, so routes and plugins hold for it; behind its 101 the gateway is itself
the WebSocket client of the target, with the sans-I/O protocol of `websockets`. Made and run by `asgi`.
"""

import asyncio
import base64
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State
from websockets.utils import accept_key

from gatewright.core.errors import GatewayError, Reason, Retry, UpstreamError
from gatewright.core.exchange import Exchange
from gatewright.core.headers import RESPONSE_WRITTEN, Field
from gatewright.core.messages import Response
from gatewright.core.streams import HIGH_WATER
from gatewright.core.tasks import spawn
from gatewright.net.transport import Endpoint
from gatewright.proxy.life import Proxy

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MESSAGE_BYTES = 16 * 1024 * 1024  # the most that a message may have: ASGI has no parts of messages
_CLOSE_SECONDS = 5.0  # for the target to answer a close frame
_REFUSED = 1008
_BROKEN = 1011


def handshake_fields(subprotocols: list[str]) -> list[tuple[bytes, bytes]]:
    """Return the header fields that ask a target for a WebSocket."""
    fields = [
        (b"connection", b"Upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", base64.b64encode(secrets.token_bytes(16))),
    ]
    if subprotocols:
        fields.append((b"sec-websocket-protocol", ", ".join(subprotocols).encode("latin-1")))
    return fields


class WebSocketClient(Endpoint):
    """The client behind the other server: `Downstream` of the handshake, then one end of the tunnel.

    It is its own transport: what the target's end writes to it are frames, which become messages for the server.
    """

    def __init__(self, proxy: Proxy, receive: Receive, send: Send, can_refuse: bool) -> None:
        """`can_refuse`: the server takes an ordinary answer in the place of the handshake's."""
        super().__init__()
        self.transport = self  # type: ignore[assignment]
        self._proxy = proxy
        self._receive = receive
        self._send = send
        self._can_refuse = can_refuse
        self._out: asyncio.Queue[tuple[Message, int] | None] = asyncio.Queue()
        self._queued = 0
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._told = False  # the client knows that the WebSocket ends, or has ended it
        self._closing: asyncio.TimerHandle | None = None
        self._exchange: Exchange | None = None
        self._answered: Callable[[], None] | None = None
        self._protocol = Protocol(Side.CLIENT, max_size=MESSAGE_BYTES)
        self._parts: list[bytes] = []  # of the message that the target is sending
        self._is_text = False

    async def serve(self, exchange: Exchange) -> None:
        """Carry one WebSocket from its handshake to its end."""
        await self._receive()  # websocket.connect
        self._exchange = exchange
        reader = spawn(self._read())
        try:
            self._proxy.handle(exchange)
            while (item := await self._out.get()) is not None:
                await self._send(item[0])
                self._sent(item[1])
        except OSError:  # the server's way of saying that the client is gone
            self._lost()
        finally:
            reader.cancel()
            self._lost()

    async def _read(self) -> None:
        """Pass the client's messages on until it is gone."""
        while True:
            await self._may_read.wait()
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                break
            if self._protocol.state is State.OPEN:
                if message.get("text") is not None:
                    self._protocol.send_text(message["text"].encode())
                else:
                    self._protocol.send_binary(message["bytes"])
                self._flush()
        code = message.get("code") or 1005
        if self._closing is not None:
            return
        self._told = True
        if self._other is None or code == 1006:
            self._lost()
        elif code == 1005:
            self._protocol.send_close()
        else:
            self._protocol.send_close(code, message.get("reason") or "")
        self._wait_for_the_end()

    def _wait_for_the_end(self) -> None:
        """Let the target close the connection: ended from here, the close frame that was just written could be lost."""
        if not self._closed:
            self._flush()
            self._closing = asyncio.get_running_loop().call_later(_CLOSE_SECONDS, self._lost)

    def _lost(self) -> None:
        """The client is gone, or is told no more."""
        if self._closed:
            return
        self._closed = True
        if self._closing is not None:
            self._closing.cancel()
        exchange, self._exchange = self._exchange, None
        self._out.put_nowait(None)
        if self._other is not None:
            self.tunnel_lost()
        elif exchange is not None:
            exchange.reason = exchange.reason or Reason.CLIENT_GONE
            self._proxy.client_gone(exchange)

    def _put(self, message: Message, size: int = 0) -> None:
        if self._told:
            return
        self._queued += size
        self._out.put_nowait((message, size))
        if self._queued >= HIGH_WATER and not self.congested:
            self.pause_writing()

    def _sent(self, size: int) -> None:
        self._queued -= size
        if self.congested and self._queued < HIGH_WATER:
            self.resume_writing()

    # Downstream

    def respond(self, exchange: Exchange, response: Response, done: Callable[[], None]) -> bool:
        """Refuse the handshake: with the answer where the server can give it, else with the code for it."""
        exchange.status = response.status
        content = response.content
        if not self._can_refuse:
            self._put({"type": "websocket.close", "code": _REFUSED, "reason": ""})
            self._finish()
            return True
        fields = _fields(response, exchange)
        self._put({"type": "websocket.http.response.start", "status": response.status, "headers": fields})
        if not isinstance(content, bytes):
            self._answered = done
            content.attach(self)
            return False
        exchange.bytes_out = len(content)
        self._put({"type": "websocket.http.response.body", "body": content})
        self._finish()
        return True

    def _finish(self) -> None:
        self._exchange = None
        self._closed = True
        self._out.put_nowait(None)

    def end(self, trailers: list[Field]) -> None:
        """The refusal is complete."""
        self._put({"type": "websocket.http.response.body", "body": b""})
        self._over()

    def broken(self, error: GatewayError) -> None:
        """The refusal broke off; the server ends it."""
        self._over()

    def _over(self) -> None:
        self._finish()
        if self.feeder is not None:
            self.feeder.detach()
        done, self._answered = self._answered, None
        if done is not None:
            done()

    def inform(self, exchange: Exchange, status: int, phrase: bytes, fields: list[Field]) -> None:
        """ASGI has no interim answers."""

    def proceed(self, exchange: Exchange) -> None:
        """A handshake has no body."""

    def abort(self, exchange: Exchange) -> None:
        """End the WebSocket as broken."""
        self._put({"type": "websocket.close", "code": _BROKEN, "reason": ""})
        self._finish()

    def tunnel(self, exchange: Exchange, response: Response, upstream: Any, done: Callable[[], None]) -> None:
        """Accept the WebSocket and carry its messages. Raises UpstreamError(upstream_malformed): a wrong handshake."""
        key = exchange.request.headers.get("sec-websocket-key") or ""
        headers = response.headers
        if headers.get("sec-websocket-accept") != accept_key(key) or "sec-websocket-extensions" in headers:
            raise UpstreamError(Reason.UPSTREAM_MALFORMED, "The target's WebSocket handshake is wrong", Retry.NEVER)
        exchange.status = response.status
        self._put(
            {
                "type": "websocket.accept",
                "subprotocol": headers.get("sec-websocket-protocol"),
                "headers": _fields(response, exchange),
            }
        )

        def over() -> None:
            exchange.bytes_in, exchange.bytes_out = self.tunnelled, upstream.tunnelled
            done()

        self._exchange = None  # the tunnel's end is its end
        self.join(upstream, over)

    # The transport that the target's end of the tunnel, or the pipe of a refusal, writes to

    def write(self, data: bytes) -> None:
        """Take the target's bytes: frames, or the body of its refusal."""
        if self._answered is not None:
            self._put({"type": "websocket.http.response.body", "body": data, "more_body": True}, len(data))
            return
        self._protocol.receive_data(data)
        for frame in self._protocol.events_received():
            assert isinstance(frame, Frame)
            self._take(frame)
        if self._protocol.state is State.OPEN:
            self._flush()
        elif self._closing is None:
            self._tell()
            self._wait_for_the_end()

    def _tell(self) -> None:
        """Tell the client how the target ended the WebSocket."""
        received, sent = self._protocol.close_rcvd, self._protocol.close_sent
        close = received or sent
        code, reason = (close.code, close.reason) if close is not None else (_BROKEN, "the target broke off")
        self._put({"type": "websocket.close", "code": 1000 if code == 1005 else code, "reason": reason})
        self._told = True

    def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._is_text = frame.opcode is Opcode.TEXT
        elif frame.opcode is not Opcode.CONT:
            return
        self._parts.append(bytes(frame.data))
        if not frame.fin:
            return
        data, self._parts = b"".join(self._parts), []
        if not self._is_text:
            self._put({"type": "websocket.send", "bytes": data}, len(data))
            return
        try:
            self._put({"type": "websocket.send", "text": data.decode()}, len(data))
        except UnicodeDecodeError:
            self._protocol.fail(1007, "not UTF-8")

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self.carry(data)

    def can_write_eof(self) -> bool:
        """A WebSocket has no half close."""
        return False

    def close(self) -> None:
        """The target's connection has ended."""
        if not self._closed:
            self._tell()
            self._lost()

    def pause_reading(self) -> None:
        """Take no more messages of the client."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Take them again."""
        self._may_read.set()


def _fields(response: Response, exchange: Exchange) -> list[tuple[bytes, bytes]]:
    fields = [
        (name, value)
        for name, value, _, mark in response.headers.fields
        if not mark & RESPONSE_WRITTEN and not name.startswith(b"sec-websocket-") and name != b"date"
    ]
    fields.append((b"x-request-id", exchange.id.encode("latin-1")))
    if response.from_target:
        fields.append((b"via", b"1.1 gatewright"))
    return fields
