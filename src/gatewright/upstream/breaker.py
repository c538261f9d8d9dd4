"""The circuit breaker of one target: stops asking it when too many of its answers fail, then asks it once.

The states and what leads from one to another are the table `TRANSITIONS`; whatever it does not name does not
happen. It knows neither HTTP nor what a failure is; the service tells it the verdict on each attempt.
"""

import math
from collections import deque
from enum import Enum

_NEVER = -math.inf
_ALWAYS = math.inf


class State(Enum):
    """Where a breaker stands."""

    CLOSED = "closed"  # attempts pass and are counted
    OPEN = "open"  # nothing passes
    HALF_OPEN = "half_open"  # one attempt passes, the probe; its verdict decides


class Event(Enum):
    """What moves a breaker from one state to another."""

    TRIPPED = "tripped"  # the failures of the window reached the rate
    PROBED = "probed"  # the time was up and somebody asked
    SUCCEEDED = "succeeded"  # the probe did
    FAILED = "failed"  # the probe did


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.CLOSED, Event.TRIPPED): State.OPEN,
    (State.OPEN, Event.PROBED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.SUCCEEDED): State.CLOSED,
    (State.HALF_OPEN, Event.FAILED): State.OPEN,
}

# Attempts look at these; a global costs 20 ns less than the attribute of an Enum.
_CLOSED = State.CLOSED

BUCKETS = 10  # the window slides by a tenth of its length


class Breaker:
    """Counts the verdicts of the last `window` seconds and opens when too many are failures.

    An attempt calls `acquire` before it starts and then exactly one of `record` and `release`, each at the
    time `now` in seconds. `started` is the `now` of its `acquire`: an attempt that began before the present
    state says nothing about it, so the late failures of an outage neither reopen a breaker nor end another
    attempt's probe.
    """

    __slots__ = (
        "_bucket",
        "_bucket_end",
        "_calls",
        "_failures",
        "_history",
        "_past_calls",
        "_past_failures",
        "_probing",
        "_since",
        "_until",
        "_width",
        "failure_rate",
        "minimum",
        "open_seconds",
        "state",
        "window",
    )

    def __init__(self, failure_rate: float, minimum: int, window: float, open_seconds: float) -> None:
        """Open for `open_seconds` if `failure_rate` (0 to 1) of at least `minimum` calls in `window` fail."""
        self.failure_rate = failure_rate
        self.minimum = minimum
        self.window = window
        self.open_seconds = open_seconds
        self.state = State.CLOSED
        self._width = window / BUCKETS
        self._history: deque[tuple[int, int, int]] = deque()  # (bucket, calls, failures), the oldest first
        self._clear()
        self._since = _NEVER  # when the present state began
        self._until = _NEVER  # when an open breaker lets a probe through
        self._probing = False

    def allows(self, now: float) -> bool:
        """Tell whether an attempt would pass, and change nothing."""
        if self.state is _CLOSED:
            return True
        if self.state is State.OPEN:
            return now >= self._until
        return not self._probing

    def acquire(self, now: float) -> bool:
        """Let an attempt pass, or not. Half open, and when the open time is up, it becomes the probe."""
        if self.state is _CLOSED:
            return True
        if not self.allows(now):
            return False
        if self.state is State.OPEN:
            self._move(Event.PROBED, now)
        self._probing = True
        return True

    def record(self, success: bool, now: float, started: float = _ALWAYS) -> None:
        """Take the verdict on an attempt. The rate is judged at failures: a success never opens a breaker."""
        # The common case, 0.1 us: `_bucket_end` lies in the past unless the breaker is closed and the bucket
        # current.
        if success and now < self._bucket_end:
            self._calls += 1
            return
        if started < self._since:
            return
        if self.state is _CLOSED:
            self._count(success, now)
        elif self.state is State.HALF_OPEN:
            self._move(Event.SUCCEEDED if success else Event.FAILED, now)

    def release(self, started: float = _ALWAYS) -> None:
        """An attempt ended without a verdict (its client went away): if it was the probe, another may be."""
        if started >= self._since:
            self._probing = False

    def retry_after(self, now: float) -> int:
        """Return the whole seconds, at least 1, after which asking again makes sense."""
        return max(1, math.ceil(self._until - now)) if self.state is State.OPEN else 1

    def _move(self, event: Event, now: float) -> None:
        self.state = TRANSITIONS[self.state, event]
        self._since = now
        self._clear()
        if self.state is State.OPEN:
            self._until = now + self.open_seconds

    def _clear(self) -> None:
        self._history.clear()
        self._past_calls = self._past_failures = 0  # sums over the history
        self._calls = self._failures = 0  # of the current bucket
        self._bucket = 0
        self._bucket_end = _NEVER

    def _count(self, success: bool, now: float) -> None:
        if now >= self._bucket_end:
            self._turn(now)
        self._calls += 1
        if success:
            return
        self._failures += 1
        calls = self._past_calls + self._calls
        failures = self._past_failures + self._failures
        if calls >= self.minimum and failures >= self.failure_rate * calls:
            self._move(Event.TRIPPED, now)

    def _turn(self, now: float) -> None:
        """Begin the bucket that `now` lies in and forget those that left the window. Amortised O(1)."""
        if self._calls:
            self._history.append((self._bucket, self._calls, self._failures))
            self._past_calls += self._calls
            self._past_failures += self._failures
        self._calls = self._failures = 0
        self._bucket = math.floor(now / self._width)
        self._bucket_end = (self._bucket + 1) * self._width
        while self._history and self._history[0][0] <= self._bucket - BUCKETS:
            _, calls, failures = self._history.popleft()
            self._past_calls -= calls
            self._past_failures -= failures
