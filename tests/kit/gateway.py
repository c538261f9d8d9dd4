"""A real gateway in a thread of its own: real sockets, real configuration text, ports that the system chose."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from gatewright.app import ConfigurationError, Gateway, Prepared
from gatewright.control.loader import load
from gatewright.core.clock import Clock
from gatewright.net.listener import Listener
from gatewright.telemetry.counters import Counters

STOP_SECONDS = 10.0
LOG = "access.log"


class RunningGateway:
    """A gateway that serves. `port` is its first listener's."""

    def __init__(self, gateway: Gateway, loop: asyncio.AbstractEventLoop, folder: Path, counters: Counters) -> None:
        self.gateway = gateway
        self._counters = counters
        self.folder = folder
        self._loop = loop
        self._log = folder / LOG

    @property
    def listeners(self) -> list[Listener]:
        return self.gateway.listeners

    @property
    def port(self) -> int:
        return self.gateway.listeners[0].port

    def call(self, function: Any, *args: Any) -> Any:
        """Run `function` on the gateway's loop and return what it returns."""

        async def run() -> Any:
            result = function(*args)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(STOP_SECONDS)

    def prepare(self, config: str, environ: Mapping[str, str] | None = None) -> Prepared:
        """Write `config` into the file and build it as a worker does. Raises ConfigurationError, or as `prepare` does."""
        loaded = load(write_config(self.folder, config), environ or {}, plugins=None)
        if loaded.config is None:
            raise ConfigurationError(loaded.errors)
        prepared, problems = self.call(self.gateway.prepare, loaded.data, loaded.base_dir)
        if prepared is None:
            raise ConfigurationError(loaded.errors_of(problems))
        assert isinstance(prepared, Prepared)
        return prepared

    def reload(self, config: str, environ: Mapping[str, str] | None = None) -> None:
        """Go over to `config`."""
        self.call(self.gateway.commit, self.prepare(config, environ))

    def access_log(self) -> list[dict[str, Any]]:
        """Return the access log's lines so far, without waiting for the next flush."""
        self.call(self._flush)
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    def counted(self, name: str, **labels: str) -> int:
        """Return what plugins have counted under this name and these labels."""
        return self._counters.cell(name, labels).value

    def _flush(self) -> None:
        sink = self.gateway._sink
        if sink is not None:
            sink.flush()
            sink.wait()


def write_config(folder: Path, config: str) -> Path:
    """Write `config` into `folder`, with what `run_gateway` adds; return the file."""
    if "listeners:" not in config:
        config = 'listeners: [{bind: "127.0.0.1:0"}]\n' + config
    if "access_log:" not in config:
        config = f'access_log: {{destination: "{folder / LOG}"}}\n' + config
    path = folder / "gateway.yaml"
    path.write_text(config)
    return path


@contextmanager
def run_gateway(
    folder: Path,
    config: str,
    environ: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
    clock: Clock | None = None,
) -> Iterator[RunningGateway]:
    """Write `config` (and `files`) into `folder`, start a gateway on it, and stop it at the end.

    Without `listeners` in the text it listens on a free port of 127.0.0.1; without `access_log` it logs to a file there.
    Raises ConfigurationError or StartError as the gateway does.
    """
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    loaded = load(write_config(folder, config), environ or {})
    if loaded.config is None:
        raise ConfigurationError(loaded.errors)
    counters = Counters()
    gateway = Gateway(loaded.config, loaded.base_dir, clock, counters=counters)
    started: threading.Event = threading.Event()
    failure: list[BaseException] = []
    loops: list[asyncio.AbstractEventLoop] = []
    stop: list[asyncio.Event] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        stop.append(asyncio.Event())
        try:
            await gateway.start()
        except BaseException as error:
            failure.append(error)
            started.set()
            return
        started.set()
        await stop[0].wait()
        await gateway.stop(grace=0)

    def run() -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, name="gateway", daemon=True)
    thread.start()
    started.wait(STOP_SECONDS)
    if failure:
        thread.join(STOP_SECONDS)
        raise failure[0]
    try:
        yield RunningGateway(gateway, loops[0], folder, counters)
    finally:
        loops[0].call_soon_threadsafe(stop[0].set)
        thread.join(STOP_SECONDS)
        assert not thread.is_alive(), "the gateway did not stop"
