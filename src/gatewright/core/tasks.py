"""How coroutines run here: an exchange is driven by hand where nothing but the network makes it wait.

A coroutine per exchange reads top to bottom, but an asyncio Task around each costs microseconds and a turn of the loop
for every wake-up. So an exchange's coroutine is stepped directly by the callback that brings what it waits for (0.8 us
for an exchange). Where a plugin's hook is `async def`, the same coroutine runs in a real Task, because asyncio's own
waits (sleep, timeout, locks) need one. This file is the only one that creates tasks.
"""

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

_log = logging.getLogger("gatewright")
T = TypeVar("T")
_NOTHING: Any = object()


class Run:
    """One coroutine that waits for events of the network: `event = await run`.

    Whoever brings the event calls `wake(event)` or `fail(error)`. An event that comes while the coroutine is not
    waiting is kept for its next wait; there is never more than one.
    """

    __slots__ = ("_coroutine", "_error", "_event", "_future", "_task", "_waiting")

    def __init__(self) -> None:
        self._coroutine: Coroutine[Any, Any, None] | None = None
        self._waiting = False
        self._event: Any = _NOTHING
        self._error: BaseException | None = None
        self._future: asyncio.Future[Any] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, coroutine: Coroutine[Any, Any, None], in_task: bool = False) -> None:
        """Run `coroutine` up to its first wait; `in_task`: inside an asyncio Task."""
        self._coroutine = coroutine
        if in_task:
            self._task = spawn(coroutine)
            return
        try:
            coroutine.send(None)
        except StopIteration:
            self._coroutine = None

    def __await__(self) -> Generator[Any, Any, Any]:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._event is not _NOTHING:
            event, self._event = self._event, _NOTHING
            return event
        if self._task is not None:
            self._future = asyncio.get_running_loop().create_future()
            try:
                return (yield from self._future)
            finally:
                self._future = None
        self._waiting = True
        return (yield)

    def wake(self, event: Any = None) -> None:
        """Give the waiting coroutine its event."""
        if self._waiting:
            self._waiting = False
            assert self._coroutine is not None
            try:
                self._coroutine.send(event)
            except StopIteration:
                self._coroutine = None
        elif self._future is not None and not self._future.done():
            self._future.set_result(event)
        else:
            self._event = event

    def fail(self, error: BaseException) -> None:
        """Raise `error` where the coroutine waits, now or at its next wait.

        In a Task, a hook that waits for something of its own is cancelled; `cancelled_by` then tells the error.
        """
        if self._waiting:
            self._waiting = False
            assert self._coroutine is not None
            try:
                self._coroutine.throw(error)
            except StopIteration:
                self._coroutine = None
        elif self._future is not None and not self._future.done():
            self._future.set_exception(error)
        else:
            self._error = error
            if self._task is None or self._task.done() or self._task is asyncio.current_task():
                return
            # A Task that is cancelled before its first step never runs its coroutine, nor any `finally` in it: that one
            # finds the error with `check`.
            if self._coroutine is None or inspect.getcoroutinestate(self._coroutine) != inspect.CORO_CREATED:
                self._task.cancel()

    def check(self) -> None:
        """Raise the error that came before the coroutine could wait for anything."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def cancelled_by(self) -> BaseException | None:
        """Return the error that `fail` cancelled the Task for, once."""
        error, self._error = self._error, None
        return error

    def clear(self) -> None:
        """Forget an event that came too late to matter."""
        self._event = _NOTHING


_running: set[asyncio.Task[Any]] = set()


def spawn(coroutine: Coroutine[Any, Any, T], done: Callable[[asyncio.Task[T]], None] | None = None) -> asyncio.Task[T]:
    """Run `coroutine` in a Task that is kept alive until it ends; `done` is called with it then."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _running.add(task)
    task.add_done_callback(_running.discard)
    if done is not None:
        task.add_done_callback(done)
    return task


def background(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run `coroutine` in a Task whose outcome nobody asks for; what it raises is logged."""
    spawn(coroutine, _log_failure)  # type: ignore[unused-awaitable]


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a task in the background failed", exc_info=error)


async def within(seconds: float, wait: Callable[[], Coroutine[Any, Any, Any]]) -> bool:
    """Tell whether what `wait` waits for came within `seconds`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wait()
        return True
    return False
