"""What the gateway does for plugins (`plugins.services`), on its own clock, connections and counters.

The builder hands them to each plugin.
"""

import logging
import ssl
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from gatewright.control.models import GatewayConfig
from gatewright.core.clock import Clock
from gatewright.core.errors import GatewayError
from gatewright.core.exchange import Exchange
from gatewright.core.headers import Headers
from gatewright.core.messages import Response
from gatewright.net.connect import connect
from gatewright.net.timers import Timers
from gatewright.net.tls import TargetTls, client_context
from gatewright.plugins.base import AnyPlugin
from gatewright.plugins.services import Fetched, FetchError
from gatewright.proxy.asking import ask
from gatewright.proxy.route import Snapshot
from gatewright.state.stores import Stores
from gatewright.telemetry.counters import Age, Counters
from gatewright.upstream import client

_log = logging.getLogger("gatewright.plugins")
T = TypeVar("T")
_PORTS = {"http": 80, "https": 443}


class Links:
    """What plugins' services are connected to while the gateway runs."""

    snapshot: Callable[[], Snapshot] | None = None  # gives the present one
    relay: Callable[[str, Any], None] | None = None  # tells the other workers, if there are any


class PluginServices:
    """Implements `GatewayServices`: one for the process, and a view of it for each configuration."""

    def __init__(
        self, clock: Clock, timers: Timers, base_dir: Path, counters: Counters | None, folder: Path | None
    ) -> None:
        """`folder` is where the gateway's workers keep what they share; None: this process is all of it."""
        self.clock = clock
        self.base_dir = base_dir
        self.links = Links()
        self._owned = Stores(folder, clock)
        self.stores = self._owned.for_configuration("")
        self._timers = timers
        self._counters = counters
        self._tls: ssl.SSLContext | None = None
        self._shared: dict[str, Any] = {}
        self._subscribed: dict[str, list[Callable[[Any], None]]] = {}

    def for_configuration(self, config: GatewayConfig) -> "PluginServices":
        """Return what the plugins of a configuration are given: all of this, with the stores that it says."""
        view = copy(self)
        view.stores = self._owned.for_configuration(config.state.redis)
        return view

    async def close(self) -> None:
        """Close what was opened; no plugin uses it any more."""
        await self._owned.close()

    async def fetch(
        self, url: str, *, headers: Sequence[tuple[str, str]] = (), timeout: float = 5.0, max_body: int = 1024 * 1024
    ) -> Fetched:
        """GET an http or https URL, see `GatewayServices.fetch`. Raises FetchError."""
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS[parts.scheme]
            host = parts.hostname or ""
            if not host or any(ord(char) <= 32 or ord(char) > 126 for char in url):
                raise ValueError("it names no host, or holds a blank")
        except (ValueError, KeyError) as error:
            raise FetchError(f"{url!r} is not an http or https URL: {error}") from None
        tls = self._context() if parts.scheme == "https" else None
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            response = await client.fetch(
                lambda owner: connect(owner, self.clock, self._timers, host, port, tls, host),
                parts.netloc.rpartition("@")[2],
                path,
                timeout,
                [("User-Agent", "gatewright"), *headers],
                max_body,
            )
        except GatewayError as error:
            raise FetchError(f"{error.detail} ({error.cause})" if error.cause else error.detail) from error
        assert isinstance(response.content, bytes)
        fields = {name.lower(): value for name, value in response.headers.items()}
        return Fetched(response.status, fields, response.content)

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = client_context(TargetTls())
        return self._tls

    def count(self, name: str, **labels: str) -> None:
        """Add one to a plugin's counter, see `GatewayServices.count`."""
        if self._counters is not None:
            self._counters.cell(name, labels).add()

    def counter(self, name: str, **labels: str) -> Callable[[], None]:
        """Return what adds one to a plugin's counter, see `GatewayServices.counter`."""
        return self._counters.cell(name, labels).add if self._counters is not None else _ignore

    def age(self, name: str, **labels: str) -> Age:
        """Return what a plugin's age is told of, see `GatewayServices.age`."""
        return (self._counters or Counters()).age(self, name, labels)

    def shared(self, key: str, factory: Callable[[], T]) -> T:
        """Return the one object that this process has for `key`, see `GatewayServices.shared`."""
        if key not in self._shared:
            self._shared[key] = factory()
        found: T = self._shared[key]
        return found

    async def ask(self, plugin: AnyPlugin, exchange: Exchange, headers: Headers, max_body: int) -> Response:
        """Ask the exchange's service once more, see `GatewayServices.ask`. Raises GatewayError."""
        assert self.links.snapshot is not None, "an exchange has a snapshot"
        return await ask(self.links.snapshot(), self.clock, plugin, exchange, headers, max_body)

    def publish(self, topic: str, message: Any) -> None:
        """Tell all workers, see `GatewayServices.publish`."""
        if not isinstance(topic, str):
            raise TypeError(f"a topic is text, not {topic!r}")
        if self.links.relay is not None:
            self.links.relay(topic, message)  # first: what it refuses nobody hears
        self.hear(topic, message)

    def hear(self, topic: str, message: Any) -> None:
        """Tell this worker's subscribers. What one of them raises is logged."""
        for hear in self._subscribed.get(topic, ()):
            try:
                hear(message)
            except Exception:
                _log.exception("a subscriber to %s failed", topic)

    def subscribe(self, topic: str, hear: Callable[[Any], None]) -> None:
        """Have `hear` called with each message of `topic`, see `GatewayServices.subscribe`."""
        self._subscribed.setdefault(topic, []).append(hear)


def _ignore() -> None:
    """Nobody counts."""
