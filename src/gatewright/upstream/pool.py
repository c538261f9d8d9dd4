"""The connections to one target: which of them serves the next attempt, and when a new one is opened.

Decides synchronously, so it needs no lock. The most recently used connection is taken first: the others grow old and
are retired. Connections watch themselves while idle (`net.upstream`), so a dead one is gone when asked for.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from gatewright.core.clock import Clock
from gatewright.core.errors import GatewayError, Reason, Retry, UpstreamError
from gatewright.core.tasks import Run, spawn
from gatewright.net.timers import NEVER, Timers
from gatewright.net.upstream import TargetConnection

Opener = Callable[["Pool"], Coroutine[Any, Any, TargetConnection]]


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of a pool: `max_connections` open at once, `max_idle` of them kept, times in seconds."""

    max_connections: int = 1024
    max_idle: int = 128
    idle_timeout: float = 60.0
    max_age: float = 3600.0


class Ticket:
    """One attempt that waits for a connection: it gets one, or an error, through its Run."""

    __slots__ = ("_given", "_pool", "_run", "deadline", "filed", "settled", "timeout")

    def __init__(self, pool: "Pool", run: Run, timeout: float) -> None:
        self._pool = pool
        self._run = run
        self._given: TargetConnection | None = None
        self.timeout = timeout
        self.deadline = NEVER
        self.filed = NEVER
        self.settled = False

    def give(self, connection: TargetConnection) -> None:
        """Hand over a connection."""
        self._settle()
        self._given = connection
        self._run.wake(connection)

    def refuse(self, error: GatewayError) -> None:
        """Tell that there will be none."""
        self._settle()
        self._run.fail(error)

    def cancel(self) -> None:
        """The attempt does not wait any more, and has used no connection: what was or will be opened serves another."""
        self._settle()
        if self._given is not None and not self._given.is_closed:
            self._pool.keep(self._given)

    def _settle(self) -> None:
        self.settled = True
        self.deadline = NEVER

    def on_deadline(self) -> None:
        """Connecting, or waiting for a free connection, took too long."""
        if self.settled:
            return
        if self._pool.is_busy:
            detail = f"All connections to the target were busy for {self.timeout:g} s"
            self.refuse(UpstreamError(Reason.POOL_EXHAUSTED, detail, Retry.SAFE))
        else:
            detail = f"Connecting to the target took over {self.timeout:g} s"
            self.refuse(UpstreamError(Reason.CONNECT_TIMEOUT, detail, Retry.SAFE))


class Pool:
    """The connections to one target."""

    def __init__(self, opener: Opener, clock: Clock, timers: Timers, limits: PoolLimits) -> None:
        self._opener = opener
        self._clock = clock
        self._timers = timers
        self._limits = limits
        self._idle: dict[TargetConnection, None] = {}  # in the order of their last use
        self._waiting: deque[Ticket] = deque()
        self._opening: dict[asyncio.Task[TargetConnection], float] = {}
        self._closed = False
        self.size = 0  # connections that are open

    def __repr__(self) -> str:
        return (
            f"<Pool open={self.size} idle={len(self._idle)} opening={len(self._opening)} waiting={len(self._waiting)}>"
        )

    @property
    def is_full(self) -> bool:
        """Tell whether no connection may be opened now."""
        return self.size + len(self._opening) >= self._limits.max_connections

    @property
    def is_busy(self) -> bool:
        """Tell whether all connections that there may be stand: it is a free one that is waited for, not a new one."""
        return self.size >= self._limits.max_connections

    @property
    def idle(self) -> int:
        """How many connections lie idle."""
        return len(self._idle)

    def take(self, now: float) -> TargetConnection | None:
        """Return an idle connection, or None."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if now - connection.born < self._limits.max_age:
                return connection
            connection.close()
        return None

    def wait(self, run: Run, timeout: float) -> Ticket:
        """Open a connection, or queue for one: `run` gets it within `timeout` seconds, or an UpstreamError."""
        ticket = Ticket(self, run, timeout)
        self._waiting.append(ticket)
        self._timers.set(ticket, self._clock.now() + timeout)
        self._open_for(timeout)
        return ticket

    def _open_for(self, timeout: float) -> None:
        if self.is_full or self._closed:
            return
        self._opening[spawn(self._open(timeout), self._opened)] = timeout

    async def _open(self, timeout: float) -> TargetConnection:
        # The ticket's own deadline answers the client; this one only ends an attempt that hangs in the kernel.
        async with asyncio.timeout(timeout + 1.0):
            return await self._opener(self)

    def _opened(self, task: asyncio.Task[TargetConnection]) -> None:
        self._opening.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            connection = task.result()
            self.size += 1
            if not connection.is_closed:
                self.keep(connection)
                return
            # It was lost before it got here, and `lost` has counted it out already.
            error = UpstreamError(Reason.CONNECT_FAILED, "The target closed the new connection", Retry.SAFE)
        self._waiting = deque(ticket for ticket in self._waiting if not ticket.settled)
        # One connection failed, one attempt is told, unless those that are still being opened are enough for all.
        # After a TimeoutError nobody is: who waited for this connection is past a deadline of its own.
        if len(self._waiting) > len(self._opening) and not isinstance(error, TimeoutError):
            if not isinstance(error, GatewayError):
                error = UpstreamError(Reason.CONNECT_FAILED, "The target cannot be reached", Retry.SAFE, repr(error))
            self._waiting.popleft().refuse(error)
        self._open_for_waiting()

    def _open_for_waiting(self) -> None:
        """Open a connection for one of those that have waited because the pool was full."""
        while self._waiting and self._waiting[0].settled:
            self._waiting.popleft()
        if len(self._waiting) > len(self._opening):
            self._open_for(self._waiting[0].timeout)

    def _next_waiting(self) -> Ticket | None:
        while self._waiting:
            ticket = self._waiting.popleft()
            if not ticket.settled:
                return ticket
        return None

    def keep(self, connection: TargetConnection) -> None:
        """Take a connection that has not been used, as if it were released."""
        self.released(connection, self._clock.now())

    def released(self, connection: TargetConnection, now: float) -> None:
        """A connection is free: hand it to who waits longest, or keep it, or close it."""
        limits = self._limits
        if now - connection.born >= limits.max_age or self._closed:
            connection.close()
            return
        if self._waiting:
            ticket = self._next_waiting()
            if ticket is not None:
                ticket.give(connection)
                return
        if len(self._idle) >= limits.max_idle:
            connection.close()
            return
        self._idle[connection] = None
        connection.deadline = deadline = now + limits.idle_timeout
        if deadline < connection.filed:
            self._timers.file(connection)

    def lost(self, connection: TargetConnection) -> None:
        """A connection was closed: forget it, and open another if somebody waits for one."""
        self.size -= 1
        self._idle.pop(connection, None)
        if self._waiting:
            self._open_for_waiting()

    def retire(self) -> None:
        """Keep no connection any more: the pool serves the exchanges that have it, and no new ones."""
        self._limits = replace(self._limits, max_idle=0)
        for connection in list(self._idle):
            connection.close()

    def close(self) -> None:
        """Close what is idle and open nothing more; connections in use are closed when they are done."""
        self._closed = True
        for task in list(self._opening):
            task.cancel()
        for connection in list(self._idle):
            connection.close()
