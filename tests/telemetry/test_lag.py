"""How late an event loop is: seen for as long as a scrape may take to come, and forgotten after that."""

import asyncio

import pytest

from gatewright.telemetry.lag import INTERVAL, LoopLag


class Loop:
    """A loop whose timer fires when the test says so."""

    def __init__(self):
        self.now = 100.0
        self.cancelled = False

    def time(self):
        return self.now

    def call_later(self, delay, callback, *args):
        self.due, self.fire = self.now + delay, lambda: callback(*args)
        return self

    def cancel(self):
        self.cancelled = True

    def run(self, late=0.0):
        self.now = self.due + late
        self.fire()


@pytest.fixture
def loop(monkeypatch):
    made = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    return made


def test_the_worst_of_the_last_ten_seconds(loop):
    lag = LoopLag()
    lag.start()
    assert lag.worst == 0
    for late in (0.001, 0.25, 0.002):
        loop.run(late)
    assert lag.worst == pytest.approx(0.25)
    began = loop.now
    while loop.now < began + 9:
        loop.run()
    assert lag.worst == pytest.approx(0.25)
    while loop.now < began + 21:
        loop.run()
    assert lag.worst < 0.001
    lag.stop()
    assert loop.cancelled


def test_a_real_loop_that_is_held_up():
    async def main():
        loop, seen = asyncio.get_running_loop(), asyncio.Event()
        lag = LoopLag()
        lag.start()
        loop.call_later(INTERVAL + 0.001, seen.set)  # after its look
        end = loop.time() + INTERVAL + 0.2
        while loop.time() < end:
            pass
        await seen.wait()
        lag.stop()
        return lag.worst

    assert 0.19 < asyncio.run(main()) < 5
