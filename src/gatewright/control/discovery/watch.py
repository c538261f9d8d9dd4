"""One thing that is looked for: asks its source over and over, keeps the last good answer, and account of failures.

It owns when to ask again after a failure, and when an answer goes to disk. `discovery` holds one for each service.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Protocol

from gatewright.control.discovery.memory import Memory
from gatewright.control.discovery.wanted import DiscoveryError, Instance, Wanted, identity, in_words
from gatewright.core.clock import Clock
from gatewright.core.tasks import spawn

_log = logging.getLogger("gatewright.discovery")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0
_SAVE_SECONDS = 3600.0  # an answer that stays the same is saved again, so that it does not look old


def pause_after(failures: int) -> float:
    """Return how many seconds to wait after so many failures in a row: more each time, and not in step with others."""
    longest = min(_FIRST_PAUSE * 2 ** min(failures, 10), _LONGEST_PAUSE)
    return random.uniform(longest / 2, longest)


class Source(Protocol):
    """Where instances are found."""

    async def next(self) -> tuple[Instance, ...]:
        """Return the instances when it is time to, or there is news. Raises DiscoveryError."""


class Watch:
    """Watches one service's instances. `known` is the last good answer, None before there was any."""

    def __init__(
        self,
        service: str,
        wanted: Wanted,
        source: Source,
        memory: Memory,
        clock: Clock,
        changed: Callable[["Watch"], None],
    ) -> None:
        """`changed` is called with each answer that differs from the one before. It begins with what `memory` has."""
        self.service = service
        self.wanted = wanted
        self.identity = identity(wanted)
        self.known = memory.load(self.identity)
        self.started_at = clock.now()
        self.answered_at: float | None = None  # seconds of the clock: the last good answer, since it was started
        self.errors = 0
        self.error: str | None = None  # of the last try, None when that was good
        self.answered = asyncio.Event()
        self._source = source
        self._memory = memory
        self._clock = clock
        self._changed = changed
        self._saved: tuple[Instance, ...] | None = None
        self._saved_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.TimerHandle | None = None  # of the instances that are used although there are none

    def start(self) -> None:
        """Ask now, and from now on."""
        self._task = spawn(self._run())

    def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
        self._stay()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                found = await self._source.next()
            except DiscoveryError as error:
                self._failed(str(error))
            except Exception as error:  # a defect must not end discovery
                _log.exception("service %s: its instances could not be looked for", self.service)
                self._failed(repr(error))
            else:
                failures = 0
                await self._take(found)
                continue
            failures += 1
            await asyncio.sleep(pause_after(failures))

    def _failed(self, why: str) -> None:
        self.errors += 1
        if why != self.error:
            kept = "none are known yet" if self.known is None else f"the {len(self.known)} known ones stay"
            _log.warning("service %s: %s gives no instances, %s: %s", self.service, in_words(self.wanted), kept, why)
        self.error = why

    async def _take(self, found: tuple[Instance, ...]) -> None:
        if self.error is not None:
            _log.info("service %s: %s answers again", self.service, in_words(self.wanted))
        self.error = None
        self.answered_at = self._clock.now()
        if not found and self.known and self.wanted.keep:
            if self._ending is None:
                _log.info(
                    "service %s: it has no instances; the last ones stay for %g s", self.service, self.wanted.keep
                )
                self._ending = asyncio.get_running_loop().call_later(self.wanted.keep, self._end)
            return
        self._stay()
        if found != self.known:
            self._adopt(found)
        self.answered.set()
        if found != self._saved or self.answered_at - self._saved_at >= _SAVE_SECONDS:
            self._saved, self._saved_at = found, self.answered_at
            await asyncio.to_thread(self._memory.save, self.identity, in_words(self.wanted), found)

    def _adopt(self, found: tuple[Instance, ...]) -> None:
        self.known = found
        _log.info("service %s: %s", self.service, ", ".join(each.url for each in found) or "it has no instances")
        self._changed(self)

    def _end(self) -> None:
        """It has had no instances for as long as the last ones may stay."""
        self._ending = None
        self._adopt(())

    def _stay(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
