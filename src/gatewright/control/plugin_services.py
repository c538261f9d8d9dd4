"""What the gateway does for plugins (`plugins.services`), on its own clock, connections and counters.

One object for the process: plugins of every generation share it. The builder hands it to each plugin.
"""

import ssl
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from gatewright.core.clock import Clock
from gatewright.core.errors import GatewayError
from gatewright.net.connect import connect
from gatewright.net.timers import Timers
from gatewright.net.tls import TargetTls, client_context
from gatewright.plugins.services import Fetched, FetchError
from gatewright.telemetry.counters import Counters
from gatewright.upstream import client

_PORTS = {"http": 80, "https": 443}


class PluginServices:
    """Implements `GatewayServices`."""

    def __init__(self, clock: Clock, timers: Timers, base_dir: Path, counters: Counters | None) -> None:
        self.clock = clock
        self.base_dir = base_dir
        self._timers = timers
        self._counters = counters
        self._tls: ssl.SSLContext | None = None

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
            self._counters.count(name, labels)
