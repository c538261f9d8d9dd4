"""An address that clients connect to."""

import asyncio
import ssl

from gatewright.core.clock import Clock
from gatewright.core.limits import Limits
from gatewright.core.peer import Network
from gatewright.net.answering import AnsweringConnection, Handler
from gatewright.net.downstream import ClientConnection
from gatewright.net.timers import Timers

_BACKLOG = 2048


class Listener:
    """Accepts connections on one address and keeps account of them."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        handler: Handler,
        limits: Limits,
        clock: Clock,
        timers: Timers,
        trusted: tuple[Network, ...] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`host` without brackets; `port` 0 takes a free one."""
        self.host = host
        self.port = port
        self.handler = handler
        self.limits = limits
        self.clock = clock
        self.timers = timers
        self.trusted = trusted
        self.connections: set[AnsweringConnection] = set()
        self.draining = False
        self.emptied = asyncio.Event()  # draining, and the last connection is gone
        self._tls = tls
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ClientConnection(self), self.host, self.port, ssl=self._tls, backlog=_BACKLOG, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """Where to connect, as text for people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    def close(self) -> None:
        """Accept no more; connections end as soon as no exchange is under way on them."""
        self.draining = True
        if not self.connections:
            self.emptied.set()
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.drain()

    def forget(self, connection: AnsweringConnection) -> None:
        """The connection is gone."""
        self.connections.discard(connection)
        if self.draining and not self.connections:
            self.emptied.set()

    def abort(self) -> None:
        """Break what is left."""
        for connection in list(self.connections):
            connection.transport.abort()
