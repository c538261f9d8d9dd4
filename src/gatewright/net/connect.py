"""Opening a connection to a target. Nothing above this file sees what sockets, names and TLS raise.

`control.snapshot` gives it to the pools, one for each target.
"""

import asyncio
import errno
import logging
import socket
import ssl

from gatewright.core.clock import Clock
from gatewright.core.errors import Reason, Retry, UpstreamError
from gatewright.net.timers import Timers
from gatewright.net.upstream import Owner, TargetConnection

_log = logging.getLogger("gatewright.net")
_LOG_EVERY = 60.0
# What is the gateway's own lack and says nothing of the target.
_LACKS = {
    errno.EMFILE: "no file descriptor is free; raise the limit of the process (ulimit -n, systemd's LimitNOFILE)",
    errno.ENFILE: "no file descriptor is free in the whole system; raise fs.file-max",
    errno.EADDRNOTAVAIL: "no local port or address is free; widen net.ipv4.ip_local_port_range",
    errno.ENOBUFS: "the system has no memory for a socket",
    errno.ENOMEM: "the system has no memory for a socket",
}
_quiet_until = 0.0  # by the clock of `connect`


async def connect(
    owner: Owner,
    clock: Clock,
    timers: Timers,
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    server_name: str | None,
) -> TargetConnection:
    """Open a connection. Raises UpstreamError (connect_failed, dns_failed, tls_failed; sockets_exhausted by a lack of
    the gateway's own): the target has seen nothing.
    """
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
        if exc.errno in _LACKS:
            _tell(_LACKS[exc.errno], clock.now())
            raise UpstreamError(Reason.SOCKETS_EXHAUSTED, "No socket is free", Retry.SAFE, str(exc)) from exc
        raise UpstreamError(Reason.CONNECT_FAILED, "The target cannot be reached", Retry.SAFE, str(exc)) from exc
    return connection


def _tell(lack: str, now: float) -> None:
    """Log it now and then: every request meets it until it is over."""
    global _quiet_until
    if now >= _quiet_until:
        _quiet_until = now + _LOG_EVERY
        _log.error("a target cannot be connected to: %s", lack)
