"""The gateway as an ASGI application under a real uvicorn in a thread, alone and mounted in a FastAPI application."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from gatewright import Gateway
from gatewright.asgi import AsgiGateway
from tests.kit.wire import TIMEOUT


class Served(uvicorn.Server):
    """A uvicorn in a thread. `port` is the one that the system chose."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self.port = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.servers:
            self.port = self.servers[0].sockets[0].getsockname()[1]
        self._loop, self._told = asyncio.get_running_loop(), asyncio.Event()
        self.ready.set()

    async def main_loop(self) -> None:
        """Wait for `stop` instead of looking ten times a second."""
        await self.on_tick(0)
        await self._told.wait()

    def stop(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._told.set)


@contextmanager
def uvicorn_serving(app: Any, **options: Any) -> Iterator[Served]:
    options = {"lifespan": "on", "ws": "none", "log_config": None, "timeout_graceful_shutdown": 2, **options}
    server = Served(uvicorn.Config(app, host="127.0.0.1", port=0, **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert server.ready.wait(TIMEOUT)
    try:
        yield server
    finally:
        server.stop()
        thread.join(TIMEOUT)
        assert not thread.is_alive()


class Setup:
    """A gateway behind uvicorn, and its log."""

    def __init__(self, gateway: Gateway, server: Served, log: Path) -> None:
        self.gateway = gateway
        self.port = server.port
        self.server = server
        self._log = log

    def access_log(self, count: int) -> list[dict[str, object]]:
        """The first `count` lines, as soon as they are there."""
        pause = threading.Event()
        for _ in range(200):
            sink = self.gateway._sink
            if sink is not None:
                sink.flush()
                sink.wait()
            lines = self._log.read_text().splitlines() if self._log.exists() else []
            if len(lines) >= count:
                return [json.loads(line) for line in lines]
            pause.wait(0.02)
        raise AssertionError(f"{len(lines)} lines instead of {count}")


def starter(stack: ExitStack, folder: Path) -> Callable[..., Setup]:
    """Return a function that starts `wrap(gateway.asgi)` under uvicorn, in front of `upstream`."""

    def make(upstream: Any, wrap: Callable[..., Any] = lambda asgi: asgi, extra: str = "", **options: Any) -> Setup:
        log = folder / "access.log"
        path = folder / "gateway.yaml"
        path.write_text(
            f'access_log: {{destination: "{log}"}}\nservices: {{s: {{targets: ["{upstream.url}"]}}}}\n'
            'routes: [{name: all, match: {path: "/{rest...}"}, service: s}]\n' + extra
        )
        gateway = Gateway.from_file(path, {})
        return Setup(gateway, stack.enter_context(uvicorn_serving(wrap(gateway.asgi), **options)), log)

    return make


def mounted(asgi: AsgiGateway) -> FastAPI:
    """Somebody's application with the gateway under /api. It does not start the gateway: the first request does."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asgi._stop()

    app = FastAPI(lifespan=lifespan)

    @app.get("/own")
    async def own() -> dict[str, bool]:
        return {"own": True}

    app.mount("/api", asgi)
    return app
