"""A real gateway in a thread of its own: real sockets, real configuration text, ports that the system chose."""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from gatewright.app import Gateway
from gatewright.net.listener import Listener

STOP_SECONDS = 10.0


class RunningGateway:
    """A gateway that serves. `port` is its first listener's."""

    def __init__(self, gateway: Gateway, loop: asyncio.AbstractEventLoop, log: Path) -> None:
        self.gateway = gateway
        self._loop = loop
        self._log = log

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

    def access_log(self) -> list[dict[str, Any]]:
        """Return the access log's lines so far, without waiting for the next flush."""
        self.call(self._flush)
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    def _flush(self) -> None:
        sink = self.gateway._sink
        if sink is not None:
            sink.flush()
            sink.wait()


@contextmanager
def run_gateway(
    folder: Path, config: str, environ: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None
) -> Iterator[RunningGateway]:
    """Write `config` (and `files`) into `folder`, start a gateway on it, and stop it at the end.

    Without `listeners` in the text it listens on a free port of 127.0.0.1; without `access_log` it logs to a file there.
    Raises ConfigurationError or StartError as the gateway does.
    """
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    log = folder / "access.log"
    if "listeners:" not in config:
        config = 'listeners: [{bind: "127.0.0.1:0"}]\n' + config
    if "access_log:" not in config:
        config = f'access_log: {{destination: "{log}"}}\n' + config
    path = folder / "gateway.yaml"
    path.write_text(config)
    gateway = Gateway.from_file(path, environ or {})
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

    thread = threading.Thread(target=lambda: uvloop.run(serve()), name="gateway")
    thread.start()
    started.wait(STOP_SECONDS)
    if failure:
        thread.join(STOP_SECONDS)
        raise failure[0]
    try:
        yield RunningGateway(gateway, loops[0], log)
    finally:
        loops[0].call_soon_threadsafe(stop[0].set)
        thread.join(STOP_SECONDS)
        assert not thread.is_alive(), "the gateway did not stop"
