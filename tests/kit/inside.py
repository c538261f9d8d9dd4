"""What a running gateway holds at a moment, and when: read on its own loop, so that nothing moves meanwhile."""

import asyncio
import contextlib
import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gatewright.core.exchange import Exchange
from gatewright.upstream.breaker import State
from gatewright.upstream.service import Service
from gatewright.upstream.target import Target
from tests.kit.gateway import STOP_SECONDS, RunningGateway

_LOOK_SECONDS = 0.002


def service(running: RunningGateway, name: str = "s") -> Service:
    """The service at run time."""
    proxy = running.gateway._proxy
    assert proxy is not None
    return proxy.snapshot.services[name]


def target(running: RunningGateway, index: int = 0, name: str = "s") -> Target:
    """One of its targets."""
    return service(running, name).targets[index]


@dataclass
class Held:
    """What exchanges take and must give back."""

    exchanges: int = 0
    service: int = 0
    targets: int = 0
    retries: int = 0
    waiting: int = 0
    busy: int = 0  # connections to targets that are open and not idle
    probes: int = 0


def held(running: RunningGateway, name: str = "s") -> Held:
    """Return what is held now."""

    def look() -> Held:
        found = service(running, name)
        proxy = running.gateway._proxy
        assert proxy is not None
        pools = [each.pool for each in found.targets if hasattr(each.pool, "size")]
        return Held(
            exchanges=proxy.in_flight,
            service=found.in_flight,
            targets=sum(each.in_flight for each in found.targets),
            retries=found.retry.budget.in_use,
            waiting=sum(not ticket.settled for pool in pools for ticket in pool._waiting),
            busy=sum(pool.size - pool.idle for pool in pools),
            probes=sum(_is_probed(each) for each in found.targets),
        )

    result: Held = running.call(look)
    return result


def _is_probed(target: Target) -> bool:
    return target.breaker is not None and target.breaker.state is State.HALF_OPEN and target.breaker._probing


NOTHING = Held()


def at_rest(running: RunningGateway, name: str = "s") -> Held:
    """Wait until nothing is held, and return what was held last: compare it with NOTHING to see what is stuck."""
    with contextlib.suppress(TimeoutError):
        until(running, lambda: running.gateway._proxy is not None and running.gateway._proxy.in_flight == 0)
    return held(running, name)


def until(running: RunningGateway, holds: Callable[[], Any], seconds: float = STOP_SECONDS) -> Any:
    """Return what `holds` gives once that is true; it is asked on the gateway's loop. TimeoutError if it never is."""

    async def wait() -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not (result := holds()):
            if loop.time() > deadline:
                raise TimeoutError("it did not come to that")
            turn = loop.create_future()
            loop.call_later(_LOOK_SECONDS, turn.set_result, None)
            await turn
        return result

    return running.call(wait)


class Finished:
    """Tells of each exchange when it is over: `next()` waits for one."""

    def __init__(self, running: RunningGateway) -> None:
        self._queue: queue.SimpleQueue[Exchange] = queue.SimpleQueue()
        proxy = running.gateway._proxy
        assert proxy is not None
        assert proxy.telemetry is not None
        self._before = proxy.telemetry
        proxy.telemetry = self

    def record(self, exchange: Exchange, seconds: float) -> None:
        self._before.record(exchange, seconds)
        asyncio.get_running_loop().call_soon(self._queue.put, exchange)  # when the turn that ended it is over

    def next(self) -> Exchange:
        """Return the next exchange that is over."""
        return self._queue.get(timeout=STOP_SECONDS)
