"""What lives with a snapshot, and how it ends: not before the last exchange that began on it is over.

`Built` is one snapshot with its plugins, services and users' code. `Generations` knows the present one and those before
it that still have exchanges; event streams may keep one for hours. The gateway calls it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gatewright.control.errors import StartError
from gatewright.control.services import BuiltService
from gatewright.core.tasks import spawn
from gatewright.plugins.base import AnyPlugin
from gatewright.plugins.registry import Source
from gatewright.proxy.route import Snapshot
from gatewright.upstream.asgi_target import AsgiPool
from gatewright.upstream.target import Target

_log = logging.getLogger("gatewright.control")
START_SECONDS = 30.0
STOP_SECONDS = 10.0
_LOOK_SECONDS = 0.1  # between two looks at whether the last exchange on an earlier snapshot is over


@dataclass(eq=False)
class Built:
    """A snapshot and what lives with it. Nothing of it runs before `start`."""

    snapshot: Snapshot
    services: dict[str, BuiltService]
    plugins: list[AnyPlugin]
    source: Source
    _started: list[AnyPlugin | AsgiPool] = field(default_factory=list)

    @property
    def pools(self) -> set[Any]:
        """The pools of all its targets."""
        return {pool for built in self.services.values() for pool in built.pools}

    async def start(self, running: "Built | None" = None) -> None:
        """Start applications and plugins, but for the applications that run for `running`.

        Raises StartError; what was started by then has ended again, also what failed half-way.
        """
        known = running.pools if running is not None else set()
        startable: list[AnyPlugin | AsgiPool] = [each for each in self.pools - known if isinstance(each, AsgiPool)]
        startable += self.plugins
        for one in startable:
            self._started.append(one)
            starting = spawn(_begin(one))  # a Task of its own: users' code may even cancel the one that it runs in
            try:
                await asyncio.wait((starting,), timeout=START_SECONDS)
            except asyncio.CancelledError:
                starting.cancel()
                await self.stop()
                raise
            if (why := _why_not(one, starting)) is not None:
                await self.stop()
                raise StartError(f"starting failed: {why}")

    async def stop(self) -> None:
        """End what `start` began, the last first, and close all pools; the snapshot never went into use, or has no
        exchange any more and nothing of it is taken over by another.
        """
        await self.end(())

    async def end(self, living: "Sequence[Built]") -> None:
        """End what nothing that is `living` has taken over; what fails to end is logged."""
        for pool in self.pools:
            if not any(pool in other.pools for other in living):
                pool.close()
        while self._started:
            one = self._started.pop()
            heir = next((other for other in living if one in other.pools), None)
            if heir is not None:
                heir._started.append(one)
            else:
                await _quietly(_name(one), one.stop)

    def hand_on(self, successor: "Built") -> None:
        """Leave to `successor` what it has taken over, and let the rest serve only what is under way."""
        kept = successor.pools
        successor._started += [one for one in self._started if one in kept]
        self._started = [one for one in self._started if one not in kept]
        for pool in self.pools - kept:
            pool.retire()

    def targets(self, service: str, name: str) -> list[Target]:
        """Return the targets of that name in a service."""
        built = self.services.get(service)
        return [target for target in built.service.targets if target.name == name] if built is not None else []


async def _begin(one: AnyPlugin | AsgiPool) -> str | None:
    """Start it; return why that failed. The code is the users', so it may raise anything, SystemExit too."""
    try:
        await one.start()
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        try:
            return str(error) or type(error).__name__
        except Exception:
            return type(error).__name__
    return None


def _why_not(one: AnyPlugin | AsgiPool, starting: asyncio.Task[str | None]) -> str | None:
    """Return why what was to be started does not run; None: it does."""
    if not starting.done():
        starting.cancel()
        return f"{_name(one)} was not up within {START_SECONDS:g} s"
    return f"{_name(one)} was cancelled" if starting.cancelled() else starting.result()


def _name(one: AnyPlugin | AsgiPool) -> str:
    return "the in-process application" if isinstance(one, AsgiPool) else f"plugin {one.name}"


async def _quietly(name: str, stop: Callable[[], Awaitable[None]]) -> None:
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await stop()
    except asyncio.CancelledError:
        raise
    except BaseException:
        _log.exception("%s did not stop cleanly", name)


class Generations:
    """The snapshot in use, and the earlier ones that still have exchanges."""

    def __init__(self, present: Built) -> None:
        self.present = present
        self.earlier: list[Built] = []
        self._ending: asyncio.Task[None] | None = None
        self._stopping = False

    def replace(self, successor: Built) -> None:
        """Make `successor` the present one; its predecessor ends when its last exchange is over."""
        self.present.hand_on(successor)
        self.earlier.append(self.present)
        self.present = successor
        if self._ending is None or self._ending.done():
            self._ending = spawn(self._end_earlier())

    async def _end_earlier(self) -> None:
        while self.earlier and not self._stopping:
            await asyncio.sleep(_LOOK_SECONDS)
            for built in [each for each in self.earlier if not each.snapshot.generation.in_flight]:
                self.earlier.remove(built)
                await built.end((self.present, *self.earlier))
                del built  # nothing here may keep it alive until the next one ends

    async def stop(self) -> None:
        """End all of them, whatever is under way."""
        self._stopping = True
        if self._ending is not None:
            await asyncio.wait((self._ending,))
        for built in (*self.earlier, self.present):
            await built.end(())
        self.earlier = []
