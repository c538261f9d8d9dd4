"""The composition root: the only place that wires a configuration to sockets.

`Gateway` is the whole gateway in one process: `start` listens, `stop` drains. `asgi` serves the same pipeline behind
another server.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from gatewright.asgi import AsgiGateway
from gatewright.control.errors import ConfigError
from gatewright.control.loader import load
from gatewright.control.models import GatewayConfig, ListenerConfig
from gatewright.control.snapshot import Built, SnapshotError, build
from gatewright.core.clock import Clock, SystemClock
from gatewright.core.limits import Limits
from gatewright.net.listener import Listener
from gatewright.net.timers import Timers
from gatewright.net.tls import server_context
from gatewright.proxy.life import Proxy, Telemetry
from gatewright.telemetry.access_log import AccessLog
from gatewright.telemetry.sink import LineSink

_log = logging.getLogger("gatewright")
_LAST_TURNS = 100  # of the loop: one that ends in a Task takes a few, one whose plugin clings to it is not waited for


class ConfigurationError(Exception):
    """A configuration cannot be used. `errors` has every reason, with its place; the text is a line for each."""

    def __init__(self, errors: list[ConfigError] | str) -> None:
        self.errors = [] if isinstance(errors, str) else errors
        super().__init__(errors if isinstance(errors, str) else "\n".join(str(error) for error in errors))


class StartError(Exception):
    """The gateway cannot start; the message says why, and what to do."""


class Gateway:
    """One gateway. Made from a checked configuration; `from_file` checks one."""

    def __init__(self, config: GatewayConfig, base_dir: Path, clock: Clock | None = None) -> None:
        """`base_dir` is where relative paths and imports start from."""
        self.config = config
        self.listeners: list[Listener] = []
        self._base_dir = base_dir
        self._clock: Clock = clock or SystemClock()
        self._timers = Timers(self._clock)
        self._built: Built | None = None
        self._proxy: Proxy | None = None
        self._sink: LineSink | None = None

    @classmethod
    def from_file(cls, path: str | Path, environ: Mapping[str, str] | None = None) -> "Gateway":
        """Return the gateway that the file at `path` configures. Raises ConfigurationError with all that is wrong."""
        loaded = load(Path(path), environ)
        if loaded.config is None:
            raise ConfigurationError(loaded.errors)
        return cls(loaded.config, loaded.base_dir)

    @cached_property
    def asgi(self) -> AsgiGateway:
        """This gateway as an ASGI application; its listeners are not used then, the server has its own."""
        return AsgiGateway(self.start_pipeline, self.stop_pipeline, self._clock)

    async def start_pipeline(self) -> Proxy:
        """Bring everything up but the listeners. Raises StartError."""
        try:
            self._built = build(self.config, self._base_dir, self._clock, self._timers)
            telemetry = self._telemetry()
            await self._built.start()
        except (SnapshotError, OSError) as error:
            await self.stop_pipeline()
            raise StartError(str(error)) from error
        except Exception as error:  # from a plugin's `start` or an application's lifespan
            await self.stop_pipeline()
            raise StartError(f"starting failed: {error}") from error
        self._proxy = Proxy(self._built.snapshot, self._clock, telemetry)
        return self._proxy

    async def stop_pipeline(self) -> None:
        """End what `start_pipeline` began."""
        if self._built is not None:
            await self._built.stop()
            self._built = None
        self._timers.close()
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    def _telemetry(self) -> Telemetry | None:
        log = self.config.access_log
        if log is None:
            return None
        self._sink = LineSink(str(log.destination))
        return AccessLog(self._sink, self._clock)

    async def start(self) -> None:
        """Bring everything up and listen. Raises StartError; nothing is left running then."""
        proxy = await self.start_pipeline()
        limits = _limits(self.config)
        for index, config in enumerate(self.config.listeners):
            try:
                listener = self._listener(config, proxy, limits)
                await listener.start()
            except OSError as error:
                await self.stop(grace=0)
                reason = (os.strerror(error.errno) if error.errno else str(error)).lower()
                raise StartError(f"cannot listen on {config.bind} (listeners[{index}].bind): {reason}") from error
            except StartError:
                await self.stop(grace=0)
                raise
            self.listeners.append(listener)

    def _listener(self, config: ListenerConfig, proxy: Proxy, limits: Limits) -> Listener:
        host, port = config.bind
        try:
            tls = server_context(str(config.tls.cert), str(config.tls.key)) if config.tls is not None else None
        except OSError as error:  # ssl.SSLError is one
            raise StartError(f"the certificate or key of the listener on {config.bind} is no good: {error}") from error
        return Listener(
            host,
            port,
            handler=proxy,
            limits=limits,
            clock=self._clock,
            timers=self._timers,
            trusted=config.trusted_proxies,
            tls=tls,
        )

    async def stop(self, grace: float = 30.0) -> None:
        """Accept no more, give the exchanges under way `grace` seconds, then break what is left and end."""
        for listener in self.listeners:
            listener.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                for listener in self.listeners:
                    await listener.emptied.wait()
        for listener in self.listeners:
            if listener.connections:
                _log.warning("%d connections were still busy after %g s", len(listener.connections), grace)
            listener.abort()
        for _ in range(_LAST_TURNS):  # the exchanges that were broken off come to their end and are logged
            await asyncio.sleep(0)
            if self._proxy is None or not self._proxy.in_flight:
                break
        self.listeners = []
        await self.stop_pipeline()


def _limits(config: GatewayConfig) -> Limits:
    limits = config.limits
    return Limits(
        request_line=limits.request_line,
        headers=limits.headers,
        header_count=limits.header_count,
        body=limits.body,
        header_timeout=limits.header_timeout,
        body_timeout=limits.body_timeout or float("inf"),
        keepalive_timeout=limits.keepalive_timeout,
        write_timeout=limits.write_timeout or float("inf"),
    )
