"""The latency mode's client: requests at a constant rate, whether or not earlier ones were answered.

Owns one loop over a few keep-alive connections (an open loop). Latency counts from the moment a request was
due, so a stall in the proxy is seen by every request that it delays. Knows nothing of processes. Called by
latency. One thread and select(), because its timeout has microseconds; those of epoll and of libuv's timers
have milliseconds, which is as much as what is measured here. Busy waiting would take the core that the
upstream needs.
"""

import gc
import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field

from benchmarks import wire
from benchmarks.process import BenchmarkError

_GRACE_SECONDS = 5.0


@dataclass(slots=True)
class _Pending:
    due: float
    received: bytearray = field(default_factory=bytearray)


def latencies(port: int, *, rate: int, seconds: float, connections: int) -> list[float]:
    """Send `rate` requests a second for `seconds` to 127.0.0.1:`port`; gives every latency in milliseconds.

    Raises BenchmarkError when an answer is not a 200, a connection breaks, or an answer does not come at all.
    """
    sockets = [wire.connect(port) for _ in range(connections)]
    collects = gc.isenabled()
    gc.disable()  # a collection here would be charged to the proxy
    try:
        for connection in sockets:
            wire.exchange(connection, wire.request_bytes(port))  # opens the proxy's own connection as well
            connection.setblocking(False)
        return _run(sockets, wire.request_bytes(port), rate, round(rate * seconds))
    except (OSError, wire.WireError) as error:
        raise BenchmarkError(f"the latency run failed: {error}") from error
    finally:
        if collects:
            gc.enable()
        for connection in sockets:
            connection.close()


def _run(sockets: list[socket.socket], request: bytes, rate: int, total: int) -> list[float]:
    idle = deque(sockets)
    busy: dict[socket.socket, _Pending] = {}
    found: list[float] = []
    began = time.perf_counter()
    last_due = began + total / rate
    sent = 0
    while len(found) < total:
        now = time.perf_counter()
        if now > last_due + _GRACE_SECONDS:
            raise wire.WireError(f"{total - len(found)} of {total} answers did not come")
        while sent < total and idle and (due := began + sent / rate) <= now:
            connection = idle.popleft()
            connection.send(request)
            busy[connection] = _Pending(due)
            sent += 1
        waiting_for_time = sent < total and bool(idle)
        timeout = max(0.0, began + sent / rate - time.perf_counter()) if waiting_for_time else 1.0
        for connection in select.select(busy, [], [], timeout)[0]:
            if _complete(connection, busy[connection]):
                found.append((time.perf_counter() - busy.pop(connection).due) * 1e3)
                idle.append(connection)
    return found


def _complete(connection: socket.socket, pending: _Pending) -> bool:
    data = connection.recv(65536)
    if not data:
        raise wire.WireError("a connection was closed in the middle of an answer")
    pending.received += data
    answer = wire.parse(pending.received)
    if answer is None:
        return False
    if answer.status != 200:
        raise wire.WireError(f"status {answer.status}")
    return True
