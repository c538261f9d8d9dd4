"""How late the event loop is: the time by which it misses a timer, because something holds it up or the CPU is busy.

Whatever it is, every exchange of the worker waits as long. The worker runs one, and reports `worst`.
"""

import asyncio

INTERVAL = 0.1  # seconds between looks
_PERIOD = 10.0  # seconds


class LoopLag:
    """Looks at the running loop from `start` on."""

    def __init__(self) -> None:
        self._due = 0.0
        self._worst = 0.0  # since `_began`
        self._before = 0.0  # in the period before that
        self._began = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def worst(self) -> float:
        """The longest delay, in seconds, of the last 10 to 20 seconds: a scrape each 15 s sees nearly every one."""
        return max(self._worst, self._before)

    def start(self) -> None:
        """Begin, on the running loop."""
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        self._wait(loop)

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + INTERVAL
        self._timer = loop.call_later(INTERVAL, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        if now - self._began > _PERIOD:
            self._before, self._worst, self._began = self._worst, 0.0, now
        self._worst = max(self._worst, now - self._due)
        self._wait(loop)
