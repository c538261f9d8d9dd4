"""Serves the admin API with uvicorn, inside a loop that runs already, on a socket that is bound already.

It owns what uvicorn leaves open: no signal handlers and no log of its own, slow clients, and an end within a bound.
The supervisor starts and stops it; it knows nothing of what it serves.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator, Sequence

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from gatewright.core.tasks import spawn

HEAD_SECONDS = 10.0  # for a whole request head, from the connection or the last answer on
EXCHANGE_SECONDS = 120.0  # for its body and the answer; putting a large configuration in place takes seconds
KEEPALIVE_SECONDS = 5
CONNECTIONS = 128  # past it 503; who uses an admin API opens a handful
_ABORT_SECONDS = 1.0

_log = logging.getLogger("gatewright.admin")


class AdminServer:
    """One server of one ASGI application."""

    def __init__(self, app: ASGIApp, sockets: Sequence[socket.socket]) -> None:
        """`sockets` are bound, and closed when the server stops."""
        # What it logs (malformed requests, failures that the guard has logged already) helps nobody.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        config = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # else X-Forwarded-For could claim to be this machine
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEPALIVE_SECONDS,
        )
        self._sockets = list(sockets)
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it serves."""
        host, port = self._sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def start(self) -> None:
        """Return when requests are served. Raises what kept uvicorn from it."""
        self._serving = spawn(self._server.serve(self._sockets))
        started = spawn(self._server.begun.wait())
        await asyncio.wait((self._serving, started), return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            started.cancel()
            self._serving.result()

    async def stop(self, seconds: float = 2.0) -> None:
        """Stop accepting, give requests under way `seconds`, then close whatever is still open."""
        if self._serving is None:
            for sock in self._sockets:
                sock.close()
            return
        state = self._server.server_state
        self._server.should_exit = True
        await asyncio.wait((self._serving,), timeout=seconds)
        self._server.force_exit = True
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # so that requests whose connection is gone do not try to answer
        for task in list(state.tasks):
            task.cancel()
        if not self._serving.done():
            await asyncio.wait((self._serving,), timeout=_ABORT_SECONDS)
        if not self._serving.done():
            self._serving.cancel()
        elif not self._serving.cancelled() and (error := self._serving.exception()) is not None:
            _log.error("the admin API did not end in order: %s", error)


class _Server(uvicorn.Server):
    """uvicorn's server, without its hold on signals, and with word of when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.begun = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the supervisor's

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.begun.set()


class _Connection(H11Protocol):
    """A client's connection, with a bound on how long it may take.

    uvicorn limits only the time between requests: a client that sends half a head, or takes no answer, would stay for
    ever.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._allow(HEAD_SECONDS)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and not self.cycle.response_complete:
            self._allow(EXCHANGE_SECONDS)

    def on_response_complete(self) -> None:
        self._allow(HEAD_SECONDS)  # before the next request, which may be here already, gets its own
        super().on_response_complete()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Stay for the answer to a request that is here whole, and no longer: who sends no more may read on."""
        cycle = self.cycle
        if cycle is None or cycle.more_body or cycle.response_complete:  # type: ignore[redundant-expr]
            return False
        cycle.keep_alive = False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _allow(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)
