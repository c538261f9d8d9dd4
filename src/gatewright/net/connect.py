"""Opening a connection to a target. Nothing above this file sees what sockets, names and TLS raise.

`control.snapshot` gives it to the pools, one for each target.
"""

import asyncio
import socket
import ssl

from gatewright.core.clock import Clock
from gatewright.core.errors import Reason, Retry, UpstreamError
from gatewright.net.timers import Timers
from gatewright.net.upstream import Owner, TargetConnection


async def connect(
    owner: Owner,
    clock: Clock,
    timers: Timers,
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    server_name: str | None,
) -> TargetConnection:
    """Open a connection. Raises UpstreamError (connect_failed, dns_failed, tls_failed): the target has seen nothing."""
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(
            lambda: TargetConnection(owner, clock, timers),
            host,
            port,
            ssl=tls,
            server_hostname=server_name if tls else None,
        )
    except ssl.SSLError as exc:
        raise UpstreamError(Reason.TLS_FAILED, "TLS with the target failed", Retry.SAFE, str(exc)) from exc
    except OSError as exc:
        if isinstance(exc, socket.gaierror):
            raise UpstreamError(Reason.DNS_FAILED, "The target's name was not found", Retry.SAFE, str(exc)) from exc
        raise UpstreamError(Reason.CONNECT_FAILED, "The target cannot be reached", Retry.SAFE, str(exc)) from exc
    return connection
