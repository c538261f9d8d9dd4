"""What lives with a snapshot, and how it ends: not before the last exchange that began on it is over.

`Built` is one snapshot with its plugins, services and users' code. `Generations` knows the present one and those before
it that still have exchanges; event streams may keep one for hours. The gateway calls it.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gatewright.control.errors import StartError
from gatewright.control.services import BuiltService
from gatewright.core.tasks import spawn
from gatewright.plugins.base import AnyPlugin
from gatewright.plugins.registry import Source
from gatewright.proxy.route import Snapshot
from gatewright.upstream.asgi_target import AsgiPool, AsgiPools
from gatewright.upstream.target import Target

_log = logging.getLogger("gatewright.control")
START_SECONDS = 30.0
STOP_SECONDS = 10.0  # for all that ends with a configuration
BACKGROUND_SECONDS = 300.0  # after a reload, for what an application still does after its last answer
_CANCELLED_SECONDS = 1.0  # for users' code to clean up after it was cancelled
_LOOK_SECONDS = 0.1  # between two looks at whether the last exchange on an earlier snapshot is over


@dataclass(eq=False)
class Built:
    """A snapshot and what lives with it. Nothing of it runs before `start`."""

    snapshot: Snapshot
    services: dict[str, BuiltService]
    plugins: list[AnyPlugin]
    source: Source
    applications: AsgiPools  # all there are, also those of other configurations
    _started: list[AnyPlugin | AsgiPool] = field(default_factory=list)
    _over_since: float | None = None  # in seconds of the event loop: when its last exchange was found to be over

    @property
    def pools(self) -> set[Any]:
        """The pools of all its targets."""
        return {pool for built in self.services.values() for pool in built.pools}

    @property
    def calls(self) -> list[asyncio.Task[Any]]:
        """What its applications are doing, also after an answer."""
        return [call for pool in self.pools if isinstance(pool, AsgiPool) for call in pool.calls]

    async def start(self) -> None:
        """Start applications and plugins. Raises StartError; what has begun by then is for `end`, also what failed
        half-way.
        """
        startable: list[AnyPlugin | AsgiPool] = [pool for pool in self.pools if isinstance(pool, AsgiPool)]
        for one in (*startable, *self.plugins):
            self._started.append(one)
            starting = spawn(_begin(one))  # a Task of its own: users' code may even cancel the one that it runs in
            try:
                await asyncio.wait((starting,), timeout=START_SECONDS)
            except asyncio.CancelledError:
                starting.cancel()
                raise
            if (why := _why_not(one, starting)) is not None:
                raise StartError(f"starting failed: {why}")

    def is_over(self, living: "Sequence[Built]") -> bool:
        """Tell whether nothing happens on it any more that should be waited for, `living` being all others: neither
        an exchange, nor for BACKGROUND_SECONDS after the last one what its applications still do.
        """
        if self.snapshot.generation.in_flight:
            return False
        now = asyncio.get_running_loop().time()
        if self._over_since is None:
            self._over_since = now
        busy = any(pool.calls for pool in self._own_pools(living) if isinstance(pool, AsgiPool))
        return not busy or now - self._over_since >= BACKGROUND_SECONDS

    def _own_pools(self, living: "Sequence[Built]") -> set[Any]:
        """Return the pools that nothing that is `living` has taken over."""
        return self.pools.difference(*(other.pools for other in living))

    async def end(self, living: "Sequence[Built]") -> None:
        """End what `start` began, and close the pools that nothing that is `living` has taken over. No exchange is
        under way any more.

        One ends after the other, the last first. After half of STOP_SECONDS the rest ends at once, beside what hangs;
        what has not ended after STOP_SECONDS is cancelled. What fails to end is logged.
        """
        for pool in self._own_pools(living):
            pool.close()
        clock = asyncio.get_running_loop().time
        began = clock()
        ending: dict[asyncio.Task[None], str] = {}
        while self._started:
            one = self._started.pop()
            stopping = spawn(_stop(one))  # in a Task of its own, as it was started
            ending[stopping] = _name(one)
            await asyncio.wait((stopping,), timeout=max(0.0, began + STOP_SECONDS / 2 - clock()))
        if not ending:
            return
        _, late = await asyncio.wait(ending, timeout=max(0.0, began + STOP_SECONDS - clock()))
        for stopping in late:
            _log.error("%s did not stop within %g s", ending[stopping], STOP_SECONDS)
            stopping.cancel()
        if late:
            await asyncio.wait(late, timeout=_CANCELLED_SECONDS)

    def hand_on(self, successor: "Built") -> None:
        """Let what `successor` has not taken over serve only what is under way."""
        for pool in self.pools - successor.pools:
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
        except BaseException:
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


async def _stop(one: AnyPlugin | AsgiPool) -> None:
    """Stop it. The code is the users', so it may raise anything, also a CancelledError that is nobody else's."""
    try:
        await one.stop()
    except BaseException:
        _log.exception("%s did not stop cleanly", _name(one))


class Generations:
    """The snapshot in use, the earlier ones that still have exchanges, and those that are ending."""

    def __init__(self, present: Built) -> None:
        self.present = present
        self.earlier: list[Built] = []
        self._looking: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def replace(self, successor: Built) -> None:
        """Make `successor` the present one; its predecessor ends when its last exchange is over."""
        self.present.hand_on(successor)
        self.earlier.append(self.present)
        self.present = successor
        if self._looking is None or self._looking.done():
            self._looking = spawn(self._look())

    async def _look(self) -> None:
        while self.earlier:
            await asyncio.sleep(_LOOK_SECONDS)
            for built in [each for each in self.earlier if each.is_over(self._others(each))]:
                self.earlier.remove(built)
                self.end(built)  # type: ignore[unused-awaitable]
                del built  # nothing here may keep it alive until the next one ends

    def _others(self, built: Built) -> list[Built]:
        return [each for each in (self.present, *self.earlier) if each is not built]

    def end(self, built: Built) -> asyncio.Task[None]:
        """Begin to end `built`, on which nothing happens any more, beside what else is ending. Return what is done when
        it has ended; who waits for it may be cancelled.
        """
        ending = spawn(built.end(self._others(built)), self._ending.discard)
        self._ending.add(ending)
        return ending

    async def quiet(self) -> None:
        """Return when no application does anything any more: what one does after an answer belongs to no exchange."""
        while calls := [call for built in (self.present, *self.earlier) for call in built.calls]:
            await asyncio.wait(calls)

    async def stop(self) -> None:
        """End all of them at the same time, whatever is under way."""
        if self._looking is not None:
            self._looking.cancel()
        last, self.earlier = [*self.earlier, self.present], []
        await asyncio.wait([*self._ending, *map(self.end, last)])
