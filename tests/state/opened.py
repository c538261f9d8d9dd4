"""A store in Redis, opened in the loop of a test; what limits it is asked about, and waiting for it."""

import asyncio
import contextlib
import time

from gatewright.core.clock import SystemClock
from gatewright.core.tasks import spawn
from gatewright.state.limits import Limit
from gatewright.state.redis import RedisStore

TURN = 0.01
SLACK = 0.15  # beyond a stated bound, for what else there is to do


@contextlib.asynccontextmanager
async def opened(url, **options):
    options.setdefault("bound", 2.0)  # only faults are to be quick
    store = RedisStore(url, SystemClock(), **options)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


def limit(algorithm, **options):
    return Limit(algorithm, scope=f"{algorithm.kind} {algorithm.quota}", **options)


async def turn(seconds=0.005):
    """Let the loop go on, before another process is asked again how it is."""
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    loop.call_later(seconds, passed.set_result, None)
    await passed


@contextlib.asynccontextmanager
async def within(seconds):
    """Fail if what is done in it takes longer than `seconds`, counted in turns: a pause of a busy machine is but one."""
    turns = 0

    async def count():
        nonlocal turns
        while True:
            await turn(TURN)
            turns += 1

    counting = spawn(count())
    try:
        yield
    finally:
        counting.cancel()
    assert turns * TURN < seconds + SLACK


async def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await turn()


async def back(store):
    await until(lambda: store.available)
