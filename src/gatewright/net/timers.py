"""One coarse timer for everything that has a deadline.

Moving a deadline is one comparison, not a timer of the loop: an item is filed under its deadline once, and looked at
again when that time comes; if its deadline has moved on, it is filed anew. Deadlines are kept to RESOLUTION seconds.
"""

import asyncio
import heapq
import logging
from typing import Protocol

from gatewright.core.clock import Clock

_log = logging.getLogger("gatewright.net")
RESOLUTION = 0.05
NEVER = float("inf")


class Expiring(Protocol):
    """Something with a deadline. Both times are seconds of the clock; `filed` belongs to Timers."""

    deadline: float
    filed: float

    def on_deadline(self) -> None:
        """The deadline has passed. It was reset to NEVER before the call."""


class Timers:
    """Files items by deadline and calls `on_deadline` when it has passed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[int, list[Expiring]] = {}
        self._order: list[int] = []
        self._handle: asyncio.TimerHandle | None = None
        self._next = NEVER

    def set(self, item: Expiring, deadline: float) -> None:
        """Give `item` a new deadline (NEVER: none)."""
        item.deadline = deadline
        if deadline < item.filed:
            self.file(item)

    def file(self, item: Expiring) -> None:
        """File `item` under its deadline; `set` does when that is earlier than `filed`, and so do hot paths."""
        number = int(item.deadline / RESOLUTION) + 1
        item.filed = number * RESOLUTION
        bucket = self._buckets.get(number)
        if bucket is not None:
            bucket.append(item)
            return
        self._buckets[number] = [item]
        heapq.heappush(self._order, number)
        if item.filed < self._next:
            self._arm()

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._next = self._order[0] * RESOLUTION
        delay = max(0.0, self._next - self._clock.now())
        self._handle = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._handle = None
        self._next = NEVER
        self.expire(self._clock.now())
        if self._order:
            self._arm()

    def expire(self, now: float) -> None:
        """Look at every item that was filed for a time up to `now`."""
        while self._order and self._order[0] * RESOLUTION <= now:
            number = heapq.heappop(self._order)
            for item in self._buckets.pop(number):
                if item.filed != number * RESOLUTION:
                    continue  # filed again, for an earlier time; that entry was or will be looked at
                item.filed = NEVER
                if item.deadline <= now:
                    item.deadline = NEVER
                    try:
                        item.on_deadline()
                    except Exception:  # a defect; the others of the bucket have deadlines too
                        _log.exception("the deadline of %r failed", item)
                elif item.deadline != NEVER:
                    self.file(item)

    def close(self) -> None:
        """Stop looking, until the next `set`."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._next = NEVER
        self._buckets.clear()
        self._order.clear()
