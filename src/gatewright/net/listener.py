"""An address that clients connect to: its sockets, and the account of its connections.

It serves listening sockets that it is given, or binds its own (`bind`). While it serves, sockets, TLS, limits and trust
may change without a client noticing. Closing it loses nobody who has connected: what waits in the kernel's queue is
accepted first. The control plane's `listeners` makes and drives it.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence
from typing import Any

from gatewright.core.clock import Clock
from gatewright.core.errors import GatewayError
from gatewright.core.limits import Limits
from gatewright.core.peer import Network
from gatewright.core.tasks import background
from gatewright.net.answering import AnsweringConnection, Handler
from gatewright.net.downstream import ClientConnection
from gatewright.net.timers import Timers

_BACKLOG = 2048
_ARRIVAL_SECONDS = 2.0  # closing: how long a client that has connected may still take for TLS
_FAREWELL_SECONDS = 2.0  # how long a client may take to end TLS that has been ended here; asyncio's own is 30
_HANDSHAKE_SECONDS = 60.0  # after which asyncio gives a handshake up
_MANY = 1024
_TURNS = 3  # of the loop, after which whoever was accepted has its connection


async def bind(host: str, port: int) -> list[socket.socket]:
    """Listen on `host` (without brackets; a name may stand for several addresses) and `port`, 0 for a free one.

    Raises OSError when the address cannot be had.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, place in dict.fromkeys((family, place) for family, _, _, _, place in found):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(place)
            sock.listen(_BACKLOG)
            sock.setblocking(False)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


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
        self._servers: list[asyncio.Server] = []
        # By identity, those that were accepted and are in their TLS handshake, with the time: closing waits for them.
        self._arriving: dict[int, float] = {}
        self._settled = False  # nobody is accepted any more

    async def start(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Serve `sockets`, which listen and belong to the listener from now on; None: bind.

        Raises OSError when the address cannot be had.
        """
        await self.serve(await bind(self.host, self.port) if sockets is None else sockets)

    async def serve(self, sockets: Sequence[socket.socket]) -> None:
        """Serve further sockets."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            sock.setblocking(False)
            self.port = sock.getsockname()[1]
            server = await loop.create_server(self._connection, sock=sock, backlog=_BACKLOG, **self._secured())
            self._servers.append(server)

    def _secured(self) -> dict[str, Any]:
        return {} if self._tls is None else {"ssl": self._tls, "ssl_shutdown_timeout": _FAREWELL_SECONDS}

    def duplicates(self) -> list[socket.socket]:
        """Return duplicates of the sockets that are served. Raises OSError."""
        copies: list[socket.socket] = []
        try:
            for server in self._servers:
                copies += [socket.socket(fileno=os.dup(sock.fileno())) for sock in server.sockets]
        except OSError:
            for copy in copies:
                copy.close()
            raise
        return copies

    async def change_tls(self, tls: ssl.SSLContext | None, duplicates: Sequence[socket.socket]) -> None:
        """Let new connections speak TLS by `tls`, or none, on `duplicates`: the address stays open all the time."""
        self._tls = tls
        before, self._servers = self._servers, []
        await self.serve(duplicates)
        await _end(before)

    def change(self, limits: Limits, trusted: tuple[Network, ...]) -> None:
        """Let other limits and another trust hold, for each connection from its next request on."""
        if limits == self.limits and trusted == self.trusted:
            return
        self.limits = limits
        self.trusted = trusted
        for connection in self.connections:
            connection.change()

    @property
    def url(self) -> str:
        """Where to connect, as text for people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    def _connection(self) -> ClientConnection:
        connection = ClientConnection(self)
        if self._tls is not None or self.draining:
            if len(self._arriving) > _MANY:
                self._forget_arrivals(_HANDSHAKE_SECONDS)
            self._arriving[id(connection)] = self.clock.now()
        return connection

    def arrived(self, connection: AnsweringConnection) -> None:
        """A connection stands."""
        self._arriving.pop(id(connection), None)
        self.connections.add(connection)

    def forget(self, connection: AnsweringConnection) -> None:
        """The connection is gone."""
        self.connections.discard(connection)
        self._look()

    # The end

    def close(self) -> None:
        """Accept who has connected by now, and no more; connections end as soon as no exchange is under way on them."""
        if self.draining:
            return
        self.draining = True
        for connection in list(self.connections):
            connection.drain()
        background(self._close())

    async def _close(self) -> None:
        try:
            waiting = self.duplicates()
        except OSError:  # no file is free: those that wait are lost
            waiting = []
        await _end(self._servers)
        self._servers = []
        for sock in waiting:
            self._accept_rest(sock)
        self._forget_arrivals(_ARRIVAL_SECONDS)
        self._settled = True
        self._look()
        if self._arriving:
            asyncio.get_running_loop().call_later(_ARRIVAL_SECONDS, self._expect_no_more)

    def _accept_rest(self, sock: socket.socket) -> None:
        with sock:
            while True:
                try:
                    accepted, _ = sock.accept()
                except OSError:  # nobody waits (BlockingIOError), or nobody can be taken
                    return
                accepted.setblocking(False)
                background(self._take(self._connection(), accepted))

    async def _take(self, connection: ClientConnection, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: connection, accepted, **self._secured())
        except OSError:  # ssl.SSLError is one; the client was no good, or went away
            accepted.close()
        finally:
            self._arriving.pop(id(connection), None)
            self._look()

    def _forget_arrivals(self, seconds: float) -> None:
        """Expect nobody any more who began to arrive longer ago: a handshake that fails is not told."""
        now = self.clock.now()
        self._arriving = {key: began for key, began in self._arriving.items() if now - began < seconds}

    def _expect_no_more(self) -> None:
        self._arriving.clear()
        self._look()

    def _look(self) -> None:
        if self._settled and not self.connections and not self._arriving:
            self.emptied.set()

    def break_off(self, error: GatewayError) -> None:
        """End what is under way by `error`: as an answer where none has begun, else so that the break is seen."""
        for connection in list(self.connections):
            connection.break_off(error)

    def abort(self) -> None:
        """Break what is left."""
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.cut()


async def _end(servers: Sequence[asyncio.Server]) -> None:
    """Accept no more on `servers`, and close them when whoever was accepted has its connection.

    asyncio's own loop takes a turn to make one, and drops it when its server has been closed by then.
    """
    loop = asyncio.get_running_loop()
    for server in servers:
        for sock in server.sockets:
            loop.remove_reader(sock.fileno())
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    for server in servers:
        server.close()
