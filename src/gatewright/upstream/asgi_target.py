"""A target that is a Python object: an ASGI application served in this process, behind the same attempts as any other.

The application sees the very head that a target over the network would be sent, read back by our own codec; so fields,
bodies, backpressure and failures mean the same as with a network in between. HTTP only: it is offered no WebSockets.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from types import MethodType
from typing import Any
from urllib.parse import unquote
from weakref import WeakValueDictionary

from gatewright.core.errors import GatewayError, Reason, ResponseError, Retry, UpstreamError
from gatewright.core.headers import Field, Headers
from gatewright.core.limits import Limits
from gatewright.core.messages import Content, Request, Response
from gatewright.core.streams import HIGH_WATER, Pipe
from gatewright.core.tasks import spawn
from gatewright.http1.request_codec import RequestCodec
from gatewright.net.upstream import User
from gatewright.upstream.lifespan import Lifespan

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

_log = logging.getLogger("gatewright.app")
_CANCELLED_SECONDS = 1.0  # for a call to clean up after it was cancelled
_READ = Limits(request_line=64 * 1024, headers=256 * 1024, header_count=1000)


class AsgiPool:
    """Stands where a network target has its pool: every attempt gets a call of the application.

    There is one for an application (`AsgiPools`), with any number of users: whatever configuration has it in a service.
    The first of them to start brings the application up, the last one to stop ends it.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self.calls: set[asyncio.Task[Any]] = set()  # under way, also those that go on after their answer
        self._users = 0
        self._lifespan: Lifespan | None = None
        self._state: dict[str, Any] = {}
        self._changing = asyncio.Lock()

    def take(self, now: float) -> "AsgiCall":
        """Return a call; there always is one."""
        return AsgiCall(self.app, self._state, self.calls)

    async def start(self) -> None:
        """Have one user more; the first starts the application's lifespan. Each start wants its `stop`, also one that
        fails. Raises UpstreamError(app_failed) when the application does not come up.
        """
        self._users += 1
        async with self._changing:
            if self._lifespan is None:
                self._lifespan = Lifespan(self.app)
                self._state = self._lifespan.state
                await self._lifespan.start()

    async def stop(self) -> None:
        """Have one user less. With the last one the application ends: what it still does is cancelled, then it shuts
        down. It may take any time for that.
        """
        self._users -= 1
        async with self._changing:
            if self._users or self._lifespan is None:
                return
            lifespan, self._lifespan = self._lifespan, None
            if self.calls:
                _log.warning("%d calls of the in-process application are cancelled", len(self.calls))
                for call in self.calls:
                    call.cancel()
                await asyncio.wait(self.calls, timeout=_CANCELLED_SECONDS)
            await lifespan.stop()

    def retire(self) -> None:
        """Nothing lies idle here."""

    def close(self) -> None:
        """Nor here."""


class AsgiPools:
    """Knows the one pool of each application, for as long as somebody has it."""

    def __init__(self) -> None:
        self._pools: WeakValueDictionary[tuple[int, ...], AsgiPool] = WeakValueDictionary()

    def pool(self, app: App) -> AsgiPool:
        """Return the pool of an application."""
        # A bound method is another object each time; a pool keeps its application alive, so no other has these numbers.
        key = (id(app.__self__), id(app.__func__)) if isinstance(app, MethodType) else (id(app),)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = AsgiPool(app)
        return pool


class AsgiCall:
    """One request to the application: what a connection is to an attempt. Sink and source of its bodies."""

    def __init__(self, app: App, state: dict[str, Any], calls: set[asyncio.Task[Any]]) -> None:
        """It is one of the pool's `calls` until the application returns."""
        self._app = app
        self._state = state
        self._calls = calls
        self._user: User | None = None
        self._task: asyncio.Task[BaseException | None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False  # the answer is complete, or nobody waits for it
        self.released_at = 0.0  # it has no clock: whoever wants to know when the answer was complete asks its own
        # The request's body
        self._pieces: list[bytes] = []
        self._held = 0
        self._ended = False
        self._told = False  # the application has seen the end of the body
        self._expected = False  # the client waits for 100 before it sends the body
        self._arrived = asyncio.Event()
        self.congested = False
        self.feeder: Pipe | None = None
        # The answer
        self._bare = False  # the answer has no body, whatever the application sends
        self._sent = 0
        self._response: Response | None = None
        self._pipe: Pipe | None = None
        self._room = asyncio.Event()
        self._room.set()

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
        """Call the application; it has `response_timeout` seconds for the answer's head and any time for its body."""
        self._user = user
        self._bare = method == "HEAD"
        codec = RequestCodec(_READ)
        codec.receive(head)
        request = codec.next_request()
        assert request is not None, "the gateway wrote a head that it cannot read"
        self._expected = request.expects_continue
        if isinstance(content, bytes):
            self._pieces = [content]
            self._ended = True
        if response_timeout != math.inf:
            self._timer = asyncio.get_running_loop().call_later(response_timeout, self._too_late, response_timeout)
        scope = _scope(request, user.client_ip, self._state)
        self._task = spawn(self._call(scope), self._returned)
        self._calls.add(self._task)
        if isinstance(content, Pipe):
            content.attach(self)

    async def _call(self, scope: Scope) -> BaseException | None:
        """Run the application and return what it raised: SystemExit in a Task would end the process."""
        try:
            await self._app(scope, self._receive, self._send)
        except BaseException as error:
            return error
        return None

    # The request's body

    def write(self, data: bytes) -> None:
        """Hold a piece until the application asks for it."""
        self._pieces.append(data)
        self._held += len(data)
        self.congested = self._held >= HIGH_WATER
        self._arrived.set()

    def end(self, trailers: list[Field]) -> None:
        """The body is complete; ASGI has no request trailers."""
        self._ended = True
        self._arrived.set()

    def broken(self, error: GatewayError) -> None:
        """The client will not send the rest."""
        self._fail(error)

    async def _receive(self) -> dict[str, Any]:
        while not self._over and not self._pieces and (self._told or not self._ended):
            if self._expected and self._user is not None:
                self._expected = False
                self._user.on_informational(Response(100))
            self._arrived.clear()
            await self._arrived.wait()
        if self._over:
            return {"type": "http.disconnect"}
        body = b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        self._told = self._ended
        if self.congested:
            self.congested = False
            if self.feeder is not None:
                self.feeder.release()
        return {"type": "http.request", "body": body, "more_body": not self._ended}

    # The answer

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if self._over:
            raise OSError("the client is gone")  # what ASGI servers raise (ASGI spec, "Disconnected Client")
        if message["type"] == "http.response.start":
            self._start(message)
        elif message["type"] == "http.response.body":
            self._body(bytes(message.get("body", b"")), bool(message.get("more_body", False)))
            await self._room.wait()
        else:
            raise ValueError(f"unexpected ASGI message {message['type']!r}")

    def _start(self, message: MutableMapping[str, Any]) -> None:
        if self._response is not None:
            raise RuntimeError("the answer has been started already")
        status = int(message["status"])
        if status < 200:
            raise ValueError(f"status {status} is no answer's")
        fields = Headers.of((bytes(name), bytes(value)) for name, value in message.get("headers", ()))
        response = self._response = Response(status, fields)
        response.from_target = True
        response.readable = False
        length = fields.get("content-length")
        if length is not None and length.isdigit():
            response.content_length = int(length)
        self._bare = self._bare or status in (204, 304)
        # The body mostly comes in the same turn of the loop, and then goes on in one piece with the head.
        asyncio.get_running_loop().call_soon(self._go_ahead)

    def _go_ahead(self) -> None:
        """Pass the head on, if the application takes its time for the body: the client may wait for it (SSE does)."""
        if self._user is not None and not self._bare and self._task is not None and not self._task.done():
            self._head_done(Pipe(self))

    def _body(self, data: bytes, more: bool) -> None:
        response = self._response
        if response is None:
            raise RuntimeError("the answer's body comes before its start")
        if self._bare:
            data, more = b"", False
        elif response.content_length is not None:
            self._sent += len(data)
            if self._sent > response.content_length or (self._sent < response.content_length and not more):
                raise RuntimeError(f"the body is not as long as its Content-Length of {response.content_length}")
        if self._user is not None and not more:
            self._over = True
            self._arrived.set()
            self._head_done(data)
            return
        if self._user is not None:
            self._head_done(Pipe(self))
        if self._pipe is not None and data:
            self._pipe.feed(data)
        if not more:
            self._finish()

    def _head_done(self, content: Content) -> None:
        """Tell the attempt of the answer, with its whole body or the pipe that will bring it."""
        user, response = self._user, self._response
        assert user is not None, "the head goes on once"
        assert response is not None, "the head goes on when it is here"
        self._user = None
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(content, Pipe):
            self._pipe = content
        response.content = content
        user.on_response(response)

    def _finish(self) -> None:
        pipe, self._pipe = self._pipe, None
        self._over = True
        self._arrived.set()
        if pipe is not None:
            pipe.end([])

    def pause(self) -> None:
        """The client is slower than the application: let it wait in `send`."""
        self._room.clear()

    def resume(self) -> None:
        """Let it go on."""
        self._room.set()

    # Ends

    def _too_late(self, seconds: float) -> None:
        detail = f"The application did not answer within {seconds:g} s"
        self._fail(UpstreamError(Reason.RESPONSE_TIMEOUT, detail, Retry.NEVER))

    def _returned(self, task: asyncio.Task[BaseException | None]) -> None:
        self._calls.discard(task)
        error = None if task.cancelled() else task.result()
        if error is not None and not task.cancelling():
            _log.error("the in-process application failed", exc_info=error)
        if not self._over:
            detail = "The application failed" if error is not None else "The application ended without a whole answer"
            self._fail(ResponseError(Reason.APP_FAILED, detail, repr(error) if error is not None else ""))

    def _fail(self, error: GatewayError) -> None:
        user, self._user = self._user, None
        pipe, self._pipe = self._pipe, None
        self._stop()
        if user is not None:
            user.on_failure(error)
        elif pipe is not None:
            pipe.fail(error)

    def close(self) -> None:
        """Nothing is open before `request`."""

    def cancel(self, user: User) -> None:
        """Nobody waits for the answer any more."""
        if not self._over:
            self._user = None
            self._pipe = None
            self._stop()

    def _stop(self) -> None:
        """Tell the application that its client is gone, and end it."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self.feeder is not None:
            self.feeder.detach()
        self._arrived.set()
        self._room.set()
        if self._task is not None and not self._task.done():
            self._task.cancel()


def _scope(request: Request, client_ip: str, state: dict[str, Any]) -> Scope:
    headers = request.headers
    server = headers.get("x-forwarded-host") or request.host.decode("latin-1")
    name, _, port = server.rpartition(":")
    if not name or not port.isdigit():  # no port, or the colon is one of an IPv6 address
        name, port = server, ""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": headers.get("x-forwarded-proto") or "http",
        "path": unquote(request.path),
        "raw_path": request.path.encode("ascii"),
        "query_string": (request.query or "").encode("ascii"),
        "root_path": "",
        "headers": [(field[0], field[1]) for field in headers.fields],
        "client": (client_ip, 0),
        "server": (name, int(port) if port.isdigit() else None),
        "state": dict(state),
    }
