"""Timers: deadlines that move, with a clock that the test moves."""

import asyncio

import pytest

from gatewright.net.timers import NEVER, RESOLUTION, Timers


class ManualClock:
    def __init__(self):
        self.time = 1000.0

    def now(self):
        return self.time

    def wall(self):
        return self.time


class Item:
    def __init__(self):
        self.deadline = self.filed = NEVER
        self.fired = 0
        self.then = None

    def on_deadline(self):
        self.fired += 1
        if self.then is not None:
            self.then()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def timers(clock):
    """Timers in a loop that never turns: `expire` is called by hand."""
    loop = asyncio.new_event_loop()

    async def make():
        return Timers(clock)

    timers = loop.run_until_complete(make())
    asyncio._set_running_loop(loop)
    yield timers
    timers.close()
    asyncio._set_running_loop(None)
    loop.close()


def at(timers, clock, seconds):
    clock.time = 1000.0 + seconds
    timers.expire(clock.now())


def test_a_deadline_fires_once_and_not_early(timers, clock):
    item = Item()
    timers.set(item, 1001.0)
    at(timers, clock, 0.999)
    assert item.fired == 0
    at(timers, clock, 1.0 + RESOLUTION)
    at(timers, clock, 5)
    assert (item.fired, item.deadline, item.filed) == (1, NEVER, NEVER)


def test_a_deadline_that_moves_on_fires_at_the_later_time(timers, clock):
    item = Item()
    timers.set(item, 1001.0)
    timers.set(item, 1003.0)
    at(timers, clock, 2)
    assert item.fired == 0
    at(timers, clock, 3.1)
    assert item.fired == 1


def test_a_deadline_that_comes_nearer_fires_at_the_earlier_time_only(timers, clock):
    item = Item()
    timers.set(item, 1010.0)
    timers.set(item, 1001.0)
    at(timers, clock, 1.1)
    at(timers, clock, 11)
    assert item.fired == 1


def test_back_and_forth_fires_once(timers, clock):
    item = Item()
    for deadline in (1010.0, 1001.0, 1010.0, 1002.0, 1010.0):
        timers.set(item, deadline)
    for second in (1.1, 2.1, 9.9):
        at(timers, clock, second)
    assert item.fired == 0
    at(timers, clock, 10.1)
    at(timers, clock, 20)
    assert item.fired == 1


def test_never_takes_a_deadline_back(timers, clock):
    item = Item()
    timers.set(item, 1001.0)
    timers.set(item, NEVER)
    at(timers, clock, 2)
    assert item.fired == 0
    timers.set(item, 1003.0)
    at(timers, clock, 3.1)
    assert item.fired == 1


def test_a_deadline_may_be_set_anew_when_it_fires(timers, clock):
    item = Item()
    item.then = lambda: timers.set(item, clock.now() + 1)
    timers.set(item, 1001.0)
    for second in (1.1, 2.2, 3.3):
        at(timers, clock, second)
    assert item.fired == 3


def test_a_deadline_in_the_past_fires_at_the_next_look(timers, clock):
    item = Item()
    timers.set(item, 990.0)
    at(timers, clock, 0)
    assert item.fired == 1


def test_all_items_of_a_time_fire_although_one_of_them_fails(timers, clock):
    items = [Item() for _ in range(3)]

    def fail():
        raise RuntimeError("a defect")

    items[1].then = fail
    for item in items:
        timers.set(item, 1001.0)
    at(timers, clock, 2)
    assert [item.fired for item in items] == [1, 1, 1]


def test_the_loop_is_asked_for_the_earliest_time_only(timers):
    delays = []
    loop = asyncio.get_running_loop()
    loop.call_later = lambda delay, callback: (delays.append(delay), type(loop).call_later(loop, delay, callback))[1]
    for deadline in (1010.0, 1011.0, 1005.0, 1012.0):
        timers.set(Item(), deadline)
    assert [round(delay) for delay in delays] == [10, 5]


def test_a_real_loop_fires_it():
    async def run():
        clock = ManualClock()
        timers = Timers(clock)
        fired = asyncio.Event()
        item = Item()
        item.then = fired.set
        timers.set(item, clock.now() + 0.01)
        clock.time += 1
        await asyncio.wait_for(fired.wait(), 5)
        later = Item()
        timers.set(later, clock.now() + 100)
        timers.close()
        return item.fired

    assert asyncio.run(run()) == 1
