"""The gateway as an ASGI application: `uvicorn main:app`, or mounted in somebody's FastAPI application.

The other server speaks to the clients; each request runs through the same proxy as one from a socket of our own. Its
head is written down and read by our codec, so the same rules hold for it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from gatewright.asgi_websocket import WebSocketClient, handshake_fields
from gatewright.core.clock import Clock
from gatewright.core.errors import GatewayError, Reason, RequestError
from gatewright.core.exchange import Exchange
from gatewright.core.headers import RESPONSE_WRITTEN, Field
from gatewright.core.limits import Limits
from gatewright.core.messages import Request, Response
from gatewright.core.peer import Peer
from gatewright.core.streams import HIGH_WATER, Pipe
from gatewright.core.tasks import spawn
from gatewright.http1.request_codec import RequestCodec
from gatewright.proxy.life import Proxy

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_READ = Limits(request_line=64 * 1024, headers=256 * 1024, header_count=1000)
_PATH_CHARS = "/-._~!$&'()*+,;=:@"
_NOT_READ = frozenset({b"connection", b"transfer-encoding", b"upgrade", b"keep-alive", b"te", b"expect"})


class AsgiGateway:
    """The ASGI callable."""

    def __init__(
        self, start: Callable[[], Awaitable[Proxy]], stop: Callable[[], Awaitable[None]], clock: Clock
    ) -> None:
        self._start = start
        self._stop = stop
        self._clock = clock
        self._proxy: Proxy | None = None
        self._starting = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope: lifespan, HTTP or WebSocket."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)
        else:
            raise ValueError(f"unknown ASGI scope {scope['type']!r}")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._ready()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        self._proxy = None
        await send({"type": "lifespan.shutdown.complete"})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the gateway up while the block runs. For the lifespan of an application that it is mounted in: servers
        tell only the outermost one of start and stop. Raises StartError.
        """
        await self._ready()
        try:
            yield
        finally:
            await self._stop()
            self._proxy = None

    async def _ready(self) -> Proxy:
        """Return the proxy, brought up if it is not yet: a mounted application may get no lifespan events."""
        async with self._starting:
            if self._proxy is None:
                self._proxy = await self._start()
            return self._proxy

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        proxy = self._proxy or await self._ready()
        started = self._clock.now()
        peer = _peer(scope)
        client = _Client(proxy, receive, send)
        try:
            request = _read_request(scope)
        except RequestError as error:
            response, request_id = proxy.refuse(error, client, peer, started)
            await client.send_refusal(response, request_id)
            return
        exchange = Exchange(request, peer, client, started)
        await client.serve(exchange)

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        proxy = self._proxy or await self._ready()
        started = self._clock.now()
        peer = _peer(scope)
        client = WebSocketClient(proxy, receive, send, "websocket.http.response" in (scope.get("extensions") or ()))
        kept = [field for field in scope["headers"] if not bytes(field[0]).lower().startswith(b"sec-websocket-")]
        try:
            request = _read_request(
                {**scope, "method": "GET", "headers": kept}, handshake_fields(scope["subprotocols"])
            )
        except RequestError as error:
            proxy.refuse(error, client, peer, started)
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        request.content_length = 0
        await client.serve(Exchange(request, peer, client, started))


class _Client:
    """The client behind the other server: source of the request's body, `Downstream` and sink of the answer."""

    def __init__(self, proxy: Proxy, receive: Receive, send: Send) -> None:
        self._proxy = proxy
        self._receive = receive
        self._send = send
        self._out: asyncio.Queue[Message | None] = asyncio.Queue()
        self._queued = 0
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._pipe: Pipe | None = None
        self._announced: int | None = None  # the length of the body, in bytes
        self._done: Callable[[], None] | None = None
        self._exchange: Exchange | None = None
        self._aborted = False
        self.congested = False
        self.feeder: Pipe | None = None

    async def serve(self, exchange: Exchange) -> None:
        """Carry one exchange from its request's body to the end of its answer."""
        self._exchange = exchange
        first = await self._receive()
        if first["type"] != "http.request":
            return
        body, more = bytes(first.get("body", b"")), bool(first.get("more_body", False))
        exchange.bytes_in = len(body)
        request = exchange.request
        if more:
            self._announced = request.content_length
            self._pipe = request.content = Pipe(self, keep=True)
            self._feed(self._pipe, body, True)
        else:
            request.content = body
            request.content_length = len(body)
        reader = spawn(self._read())
        try:
            self._proxy.handle(exchange)
            while (message := await self._out.get()) is not None:
                await self._send(message)
                self._sent(len(message.get("body", b"")))
        except OSError:  # the server's way of saying that the client is gone
            self._gone()
        finally:
            reader.cancel()
            if self._exchange is not None:
                self._gone()
        if self._aborted:
            raise ConnectionError("the answer broke off")  # the server then breaks the connection to its client

    async def send_refusal(self, response: Response, request_id: str) -> None:
        """Send the answer to a request that could not be read."""
        await self._send(
            _start(response, request_id, len(response.content) if isinstance(response.content, bytes) else 0)
        )
        await self._send({"type": "http.response.body", "body": response.content})

    async def _read(self) -> None:
        """Read the rest of the body, then watch for the client's going away."""
        while True:
            await self._may_read.wait()
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone()
                return
            body, pipe = bytes(message.get("body", b"")), self._pipe
            if pipe is not None:
                if self._exchange is not None:
                    self._exchange.bytes_in += len(body)
                self._feed(pipe, body, bool(message.get("more_body", False)))

    def _feed(self, pipe: Pipe, body: bytes, more: bool) -> None:
        """Pass a piece on. What is not as long as announced must reach no target: it would be read as two requests."""
        total, length = pipe.total + len(body), self._announced
        if length is not None and (total > length or not more) and total != length:
            self._pipe = None
            pipe.fail(RequestError(Reason.BAD_FRAMING, "The body is not as long as its Content-Length"))
            return
        if body:
            pipe.feed(body)
        if not more:
            self._pipe = None
            pipe.end([])

    def _gone(self) -> None:
        exchange, self._exchange = self._exchange, None
        pipe, self._pipe = self._pipe, None
        if exchange is None:
            return
        exchange.reason = exchange.reason or Reason.CLIENT_GONE
        if self.feeder is not None:
            self.feeder.detach()
        self._done = None
        if pipe is not None:
            pipe.fail(RequestError(Reason.CLIENT_GONE, "The client went away in the middle of its request"))
        self._proxy.client_gone(exchange)
        self._out.put_nowait(None)

    # Source of the request's body

    def pause(self) -> None:
        """Read no more until `resume`."""
        self._may_read.clear()

    def resume(self) -> None:
        """Read on."""
        self._may_read.set()

    # Downstream

    def respond(self, exchange: Exchange, response: Response, done: Callable[[], None]) -> bool:
        """Queue the answer."""
        content = response.content
        exchange.status = response.status
        bare = exchange.request.method == "HEAD" or response.status in (204, 304)
        if isinstance(content, bytes):
            length = response.content_length if bare and response.from_target else len(content)
            no_length = response.status == 204 or (response.status == 304 and not response.from_target)
            self._put(_start(response, exchange.id, None if no_length else length))
            exchange.bytes_out = 0 if bare else len(content)
            self._put({"type": "http.response.body", "body": b"" if bare else content})
            self._finish()
            return True
        self._done = done
        self._put(_start(response, exchange.id, response.content_length))
        content.attach(self)
        return False

    def _put(self, message: Message) -> None:
        self._queued += len(message.get("body", b""))
        self.congested = self._queued >= HIGH_WATER
        self._out.put_nowait(message)

    def _sent(self, size: int) -> None:
        self._queued -= size
        if self.congested and self._queued < HIGH_WATER:
            self.congested = False
            if self.feeder is not None:
                self.feeder.release()

    def _finish(self) -> None:
        self._exchange = None
        self._out.put_nowait(None)

    def write(self, data: bytes) -> None:
        """Queue a piece of the answer's body."""
        if self._exchange is not None:
            self._exchange.bytes_out += len(data)
        self._put({"type": "http.response.body", "body": data, "more_body": True})

    def end(self, trailers: list[Field]) -> None:
        """The answer is complete."""
        self._put({"type": "http.response.body", "body": b""})
        self._call_done()
        self._finish()

    def broken(self, error: GatewayError) -> None:
        """The answer will never be complete."""
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

    def inform(self, exchange: Exchange, status: int, phrase: bytes, fields: list[Field]) -> None:
        """ASGI has no interim answers; the server sends 100 itself when the body is first asked for."""

    def proceed(self, exchange: Exchange) -> None:
        """See `inform`."""

    def tunnel(self, exchange: Exchange, response: Response, upstream: Any, done: Callable[[], None]) -> None:
        """Requests that come this way have no Upgrade field, so no target can offer this."""
        upstream.close()
        self.abort(exchange)
        done()

    def abort(self, exchange: Exchange) -> None:
        """Let the server break the connection."""
        self._aborted = True
        self._finish()


def _start(response: Response, request_id: str, length: int | None) -> Message:
    headers = [(field[0], field[1]) for field in response.headers.fields if not field[3] & RESPONSE_WRITTEN]
    headers.append((b"x-request-id", request_id.encode("latin-1")))
    if response.from_target:
        headers.append((b"via", b"1.1 gatewright"))
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return {"type": "http.response.start", "status": response.status, "headers": headers}


def _peer(scope: Scope) -> Peer:
    client = scope.get("client") or ("", 0)
    server = scope.get("server") or ("", 0)
    scheme = {"ws": "http", "wss": "https"}.get(scope.get("scheme", "http"), scope.get("scheme", "http"))
    return Peer(str(client[0]), int(client[1] or 0), int(server[1] or 0), str(scheme))


def _read_request(scope: Scope, more: Sequence[tuple[bytes, bytes]] = ()) -> Request:
    """Return the request that a scope describes, with `more` fields. Raises RequestError as our own codec does."""
    # `path` is decoded: only escaped again it cannot end the request line early.
    path = scope.get("raw_path") or quote(str(scope["path"]), _PATH_CHARS).encode()
    root = quote(str(scope.get("root_path", "")), _PATH_CHARS).encode().rstrip(b"/")
    if path == root or path.startswith(root + b"/"):  # mounted: the application's paths begin behind the mount point
        path = path[len(root) :] or b"/"
    query = scope.get("query_string", b"")
    target = path + (b"?" + query if query else b"")
    fields = [(bytes(name), bytes(value)) for name, value in scope["headers"] if bytes(name).lower() not in _NOT_READ]
    if not any(name.lower() == b"host" for name, _ in fields):
        server = scope.get("server") or ("localhost", None)
        fields.append((b"host", str(server[0]).encode()))
    fields += more
    head = str(scope["method"]).encode() + b" " + target + b" HTTP/1.1\r\n"
    head += b"".join(name + b": " + value + b"\r\n" for name, value in fields)
    if head.count(b"\n") != len(fields) + 1:
        raise RequestError(Reason.MALFORMED_REQUEST, "The request's head holds a line break where none may be")
    codec = RequestCodec(_READ)
    codec.receive(head + b"\r\n")
    request = codec.next_request()
    if request is None:
        raise RequestError(Reason.MALFORMED_REQUEST, "The request's head is not complete")
    if request.content_length == 0:
        request.content_length = None  # HTTP/2 bodies may come without a length
    return request
