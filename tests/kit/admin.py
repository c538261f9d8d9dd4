"""The admin API on a gateway that is not there: a real server on a real socket, and operations that remember their calls."""

import asyncio
import hashlib
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from gatewright.admin.app import make_app
from gatewright.admin.operations import (
    Applied,
    BreakerView,
    ConfigView,
    Current,
    ListenerView,
    ReloadView,
    StatusView,
    TargetView,
    UnknownTarget,
    VersionMismatch,
    WorkerView,
)
from gatewright.admin.security import Access
from gatewright.admin.server import AdminServer
from gatewright.control.errors import ConfigError
from gatewright.control.loader import Loaded, load
from gatewright.upstream.target import Target
from tests.kit.wire import TIMEOUT, Answer, RawSocket

STARTED = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)

CONFIG = """\
services:
  shop:
    targets: ["http://10.0.0.1:8001", {url: "http://10.0.0.2:8001", weight: 3}, "http://[::1]:9"]
  items: {app: services.items.main:app}
routes:
  - name: shop
    match: {path: "/shop/{rest...}", methods: [GET, POST], headers: {x-api-key: a-key-of-eight}}
    service: shop
    plugins: [headers: {request: {set: {Authorization: "Bearer abcdefgh"}}}]
  - {name: ping, match: {path: /ping}, respond: {body: pong}}
"""


class FakeOperations:
    """Keeps a configuration and its targets' states in memory. `calls` are the changes that were asked for."""

    def __init__(self, folder: Path, config: str = CONFIG, secrets: frozenset[str] = frozenset()) -> None:
        self.file = folder / "gateway.yaml"
        self.config = config
        self.secrets = secrets
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.file.write_text(self.config)
        self.source: Any = "file"
        self.saved = True
        self.calls: list[tuple[Any, ...]] = []
        self.reasons: list[str] = []  # why it is not ready
        self.hook: Callable[[], Awaitable[None]] | None = None  # awaited by `status`
        self.text = self.config
        self._targets: dict[tuple[str, str], TargetView] = {}
        self._take(self._load(self.config))

    def _load(self, text: str) -> Loaded:
        path = self.file.with_name("tried.yaml")
        path.write_text(text)
        return load(path, {}, plugins=None)

    def _take(self, loaded: Loaded) -> None:
        assert loaded.config is not None, [str(error) for error in loaded.errors]
        self.loaded = loaded
        self._targets = {}
        for name, service in loaded.config.services.items():
            for target in service.targets or ():
                key = Target.from_url(target.url).name
                self._targets[name, key] = TargetView(
                    service=name,
                    name=key,
                    url=target.url,
                    weight=target.weight,
                    configured_weight=target.weight,
                    draining=False,
                    healthy=True,
                    in_flight=2,
                    breaker=BreakerView(closed=2),
                )

    @property
    def version(self) -> str:
        return f'"{hashlib.sha256(self.text.encode()).hexdigest()[:16]}"'

    async def status(self) -> StatusView:
        if self.hook is not None:
            await self.hook()
        return StatusView(
            version="1.2.3",
            python="3.13.0",
            pid=41,
            started_at=STARTED,
            uptime_seconds=93784.5,
            state="draining" if self.reasons else "ready",
            config=ConfigView(file=str(self.file), version=self.version, source=self.source, saved=self.saved),
            last_reload=ReloadView(at=STARTED, ok=True, trigger="start", version=self.version),
            listeners=[ListenerView(url="http://127.0.0.1:8080", tls=False)],
            workers=[
                WorkerView(index=0, pid=42, state="ready", started_at=STARTED, restarts=1, connections=7, in_flight=3)
            ],
            connections=7,
            in_flight=3,
            requests_total=1234567,
        )

    async def current(self) -> Current:
        assert self.loaded.config is not None
        return Current(self.loaded.config, self.version, self.secrets)

    async def targets(self) -> list[TargetView]:
        return list(self._targets.values())

    async def set_target(self, service: str, target: str, draining: bool | None, weight: int | None) -> TargetView:
        self.calls.append(("set_target", service, target, draining, weight))
        if (service, target) not in self._targets:
            raise UnknownTarget(target)
        changes = {"draining": draining, "weight": weight}
        changed = {key: value for key, value in changes.items() if value is not None}
        self._targets[service, target] = self._targets[service, target].model_copy(update=changed)
        return self._targets[service, target]

    async def purge(self, kind: str, value: str) -> int:
        self.calls.append(("purge", kind, value))
        return 0 if self.reasons else 2

    async def check(self, text: str) -> list[ConfigError]:
        self.calls.append(("check", text))
        return self._load(text).errors

    async def apply(self, text: str, expected: str | None, save: bool) -> Applied:
        self.calls.append(("apply", text, expected, save))
        if expected not in (None, self.version):
            raise VersionMismatch(self.version)
        loaded = self._load(text)
        if loaded.errors:
            return Applied(self.version, False, loaded.errors)
        changed = text != self.text
        self.text = text
        self._take(loaded)
        self.source = "api"
        return Applied(self.version, changed, [])

    async def reload(self) -> Applied:
        self.calls.append(("reload",))
        loaded = load(self.file, {}, plugins=None)
        if loaded.config is not None:
            self.text = self.file.read_text()
            self._take(loaded)
        return Applied(self.version, not loaded.errors, loaded.errors)

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        if "openmetrics" in accept:
            return b"# EOF\n", "application/openmetrics-text; version=1.0.0; charset=utf-8"
        return b"gatewright_requests_total 1\n", "text/plain; version=0.0.4; charset=utf-8"

    async def ready(self) -> tuple[bool, list[str]]:
        return not self.reasons, self.reasons


class RunningAdmin:
    """An admin API that serves on `port`."""

    def __init__(self, operations: FakeOperations, access: Access, server: AdminServer) -> None:
        self.operations = operations
        self.access = access
        self.server = server
        self.url = server.url
        self.port = int(server.url.rpartition(":")[2])
        self.loop = asyncio.get_running_loop()

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run `function` on the server's loop and return what it returns."""

        async def run() -> Any:
            result = function(*args)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(TIMEOUT)

    def ask(self, method: str, path: str, body: Any = None, host: str | None = None, **fields: str) -> Answer:
        """Send a request and return the answer. `fields`: header fields, `_` for `-`; a `body` of bytes goes as it is."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            fields.setdefault("content_type", "application/json")
        lines = [f"{method} {path} HTTP/1.1", f"Host: {f'127.0.0.1:{self.port}' if host is None else host}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        lines += [f"Content-Length: {len(body)}"] if body is not None else []
        with RawSocket.connect(self.port) as client:
            client.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))
            return client.read_answer(method)


@contextmanager
def run_admin(operations: FakeOperations, token: str = "") -> Iterator[RunningAdmin]:
    """Serve the admin API in a thread of its own, and stop it at the end."""
    access = Access(token)
    begun: threading.Event = threading.Event()
    running: list[RunningAdmin] = []
    over: list[asyncio.Event] = []

    async def serve() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        server = AdminServer(make_app(operations, access), [sock])
        await server.start()
        over.append(asyncio.Event())
        running.append(RunningAdmin(operations, access, server))
        begun.set()
        await over[0].wait()
        await server.stop(0.2)

    thread = threading.Thread(target=lambda: uvloop.run(serve()), name="admin", daemon=True)
    thread.start()
    try:
        assert begun.wait(TIMEOUT)
        yield running[0]
    finally:
        if running:
            running[0].loop.call_soon_threadsafe(over[0].set)
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "the admin API did not stop"
