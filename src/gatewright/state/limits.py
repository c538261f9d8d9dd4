"""The limiter algorithms, as arithmetic: a key's state and the time in, a verdict and the next state out.

They own what a state means and know nothing of where it is kept: the stores (`shared`, `redis`) call `decide` while
they hold the state. Everything is a whole number: times and spans in microseconds, so that every store comes to the
same verdict. A state that this code cannot have written (a damaged file) counts as used up, never as fresh, and never
for longer than one window. One that lies in the future (Redis has the wall clock, which may be set back) counts as of
now: what was used stays used for one window at most, and nobody waits for the clock to come round again.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Protocol

SECOND = 1_000_000
LONGEST = 100 * 366 * 86_400 * SECOND  # sums of times stay exact in 53 bits, which is what Redis computes with

State = tuple[int, ...]
"""A key's state. Its first number is when it can be forgotten."""

Verdict = tuple[bool, int, int, int]
"""Allowed; how many are left; microseconds until there are more (0: not known); microseconds to wait (0: allowed)."""

CELLS = 12  # of a sliding window
ENTRIES = CELLS + 1  # that a window can touch
_NOTHING = (0,) * (2 * ENTRIES)


class Algorithm(Protocol):
    """How requests are counted."""

    kind: str
    words: int  # numbers in a state

    def decide(self, state: State, now: int, cost: int) -> tuple[Verdict, State | None]:
        """Return the verdict on `cost` more, and the state to keep (None: as it was).

        A state that comes with a refusal only puts right what was wrong; it takes nothing from the key.
        """

    def spent(self, now: int) -> State:
        """Return the state of a key that has just used up its limit."""


class Gcra:
    """Generic cell rate algorithm: `burst` at once, then one each `window / quota`.

    The state is the theoretical arrival time: when the key will be as good as new. In any span of time at most
    `burst + span * quota / window` pass.
    """

    kind = "gcra"
    words = 1

    def __init__(self, quota: int, window: int, burst: int | None = None) -> None:
        """`window` in microseconds; `burst` is the quota unless it is given. Raises ValueError for one too large."""
        self.quota = quota
        self.window = window
        self.burst = quota if burst is None else burst
        self.interval = -(-window // quota)  # rounded up: a limit is never exceeded by a rounding
        self.depth = self.burst * self.interval
        if self.depth > LONGEST:
            raise ValueError("the burst is worth more than 100 years of the limit")

    def decide(self, state: State, now: int, cost: int) -> tuple[Verdict, State | None]:
        """See `Algorithm`."""
        arrival = state[0]
        interval = self.interval
        room = self.depth - (arrival - now if arrival > now else 0)
        mended: State | None = None
        if room < 0:
            room = 0
            mended = (now + self.depth,)
        wanted = cost * interval
        if wanted <= room:
            room -= wanted
            left = room // interval
            return (True, left, (left + 1) * interval - room, 0), (now + self.depth - room,)
        left = room // interval
        return (False, left, (left + 1) * interval - room, wanted - room), mended

    def spent(self, now: int) -> State:
        """See `Algorithm`."""
        return (now + self.depth,)


class FixedWindow:
    """At most `quota` in a window that begins with a key's first request; the next one begins after its end.

    Around the border of two windows, twice the quota may pass within one window's length.
    """

    kind = "fixed_window"
    words = 2

    def __init__(self, quota: int, window: int) -> None:
        """`window` in microseconds."""
        self.quota = quota
        self.window = window

    def decide(self, state: State, now: int, cost: int) -> tuple[Verdict, State | None]:
        """See `Algorithm`."""
        end, used = state
        mended: State | None = None
        if end <= now:
            end, used = now + self.window, 0
        elif end > now + self.window or used < 0:
            end, used = mended = now + self.window, used if used >= 0 else self.quota
        if used + cost <= self.quota:
            used += cost
            return (True, self.quota - used, end - now, 0), (end, used)
        return (False, max(0, self.quota - used), end - now, end - now), mended

    def spent(self, now: int) -> State:
        """See `Algorithm`."""
        return now + self.window, self.quota


class SlidingWindow:
    """At most `quota` in any window, wherever it begins.

    A quota of up to 13 keeps each request's time and is exact. A larger one keeps a twelfth of the window as one entry,
    at the time of its last request: never more than the quota pass, and what was used comes back at most a twelfth of
    the window late. The state is when it can be forgotten, and (time, count) pairs in no order.
    """

    kind = "sliding_window"
    words = 1 + 2 * ENTRIES

    def __init__(self, quota: int, window: int) -> None:
        """`window` in microseconds."""
        self.quota = quota
        self.window = window
        self.cell = -(-window // CELLS) if quota > ENTRIES else 0  # 0: every request is an entry of its own

    def decide(self, state: State, now: int, cost: int) -> tuple[Verdict, State | None]:
        """See `Algorithm`."""
        return self._decide_at_once(state, now, cost) or self._decide(state, now, cost)

    def _decide_at_once(self, state: State, now: int, cost: int) -> tuple[Verdict, State | None] | None:
        """Decide the usual case: nothing is over, and what is allowed falls into the last cell. It takes a third."""
        cell = self.cell
        times, counts = state[1::2], state[2::2]
        if not cell or times[0] <= now - self.window or min(counts) < 0:
            return None
        last = ENTRIES - 1 if counts[-1] else counts.index(0) - 1
        left = self.quota - sum(counts) - cost
        if left < 0 or times[last] > now or times[last] // cell != now // cell:
            return None
        at = 1 + 2 * last
        after = (now + self.window, *state[1:at], now, counts[last] + cost, *state[at + 2 :])
        return (True, left, (times[0] if last else now) - now + self.window, 0), after

    def _decide(self, state: State, now: int, cost: int) -> tuple[Verdict, State | None]:
        horizon = now - self.window
        live: list[tuple[int, int]] = []
        used = 0
        damaged = False
        for entry in zip(state[1::2], state[2::2], strict=True):
            time, count = entry
            if count and time > horizon:
                if time > now or count < 0:
                    count = count if count > 0 else self.quota
                    entry, damaged = (now, count), True
                live.append(entry)
                used += count
        live.sort()
        if used + cost > self.quota:
            mended = self._state(live, now) if damaged else None
            reset = live[0][0] - horizon if live else 0
            return (False, max(0, self.quota - used), reset, self._wait(live, used + cost, horizon)), mended
        cell = self.cell
        if (live and cell and live[-1][0] // cell == now // cell) or len(live) == ENTRIES:
            live[-1] = (now, live[-1][1] + cost)
        else:
            live.append((now, cost))
        return (True, self.quota - used - cost, live[0][0] - horizon, 0), self._state(live, now)

    def _wait(self, live: Sequence[tuple[int, int]], wanted: int, horizon: int) -> int:
        for time, count in live:
            wanted -= count
            if wanted <= self.quota:
                return time - horizon
        return self.window

    def _state(self, live: Sequence[tuple[int, int]], now: int) -> State:
        return (now + self.window, *chain.from_iterable(live), *_NOTHING[2 * len(live) :])

    def spent(self, now: int) -> State:
        """See `Algorithm`."""
        return self._state([(now, self.quota)], now)


class Concurrency:
    """At most `quota` at the same time. Stores keep who holds how many; here is only what that means."""

    kind = "concurrency"

    def __init__(self, quota: int) -> None:
        self.quota = quota

    def verdict(self, held: int, cost: int) -> Verdict:
        """Return the verdict on `cost` more while `held` are held."""
        left = self.quota - held
        if cost <= left:
            return True, left - cost, 0, 0
        return False, max(0, left), 0, SECOND  # nobody knows when one ends


class Limit:
    """One limit as stores are asked about it. `scope` tells its counts from those of every other limit."""

    __slots__ = ("algorithm", "cost", "name", "scope", "shadow")

    def __init__(
        self,
        algorithm: Gcra | FixedWindow | SlidingWindow | Concurrency,
        *,
        name: str = "default",
        scope: str = "",
        cost: int = 1,
        shadow: bool = False,
    ) -> None:
        """With `shadow` its refusal does not count: it never keeps other limits from being charged."""
        self.algorithm = algorithm
        self.name = name
        self.scope = f"{scope}\0{algorithm.kind}\0"
        self.cost = cost
        self.shadow = shadow


Check = tuple[Limit, str]
"""A limit and whom it counts."""


class StoreUnavailable(Exception):
    """A store cannot answer now; the message says why."""
