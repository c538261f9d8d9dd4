"""Run: one coroutine that waits for events of the network, by hand or in a Task."""

import asyncio

import pytest

from gatewright.core.errors import GatewayError, Reason
from gatewright.core.tasks import Run, spawn

GONE = GatewayError(Reason.CLIENT_GONE, "gone")


@pytest.fixture(params=[False, True], ids=["by hand", "task"])
def scenario(request):
    """Run `script(run, seen, turn)` beside a coroutine that notes what it waits for; `turn` lets Tasks go on."""

    def play(coroutine, script):
        async def main():
            run, seen = Run(), []

            async def turn():
                for _ in range(5):
                    ready = asyncio.get_running_loop().create_future()
                    asyncio.get_running_loop().call_soon(ready.set_result, None)
                    await ready

            run.start(coroutine(run, seen), in_task=request.param)
            await turn()
            await script(run, seen, turn)
            await turn()
            return seen

        return asyncio.run(main())

    play.in_task = request.param
    return play


async def three_events(run, seen):
    try:
        for _ in range(3):
            seen.append(await run)
    except GatewayError as error:
        seen.append(error)
    except asyncio.CancelledError:
        seen.append(run.cancelled_by())
    seen.append("end")


def test_each_event_wakes_it(scenario):
    async def script(run, seen, turn):
        for event in "abc":
            run.wake(event)
            await turn()

    assert scenario(three_events, script) == ["a", "b", "c", "end"]


def test_an_error_is_raised_where_it_waits(scenario):
    async def script(run, seen, turn):
        run.wake("a")
        await turn()
        run.fail(GONE)

    assert scenario(three_events, script) == ["a", GONE, "end"]


def test_an_error_right_behind_an_event_ends_it(scenario):
    async def script(run, seen, turn):
        run.wake("a")
        run.fail(GONE)

    seen = scenario(three_events, script)
    assert seen[-2:] == [GONE, "end"]


def test_an_event_that_comes_before_the_wait_is_kept(scenario):
    async def coroutine(run, seen):
        run.wake("early")
        await three_events(run, seen)

    async def script(run, seen, turn):
        run.wake("b")
        await turn()
        run.wake("c")

    assert scenario(coroutine, script) == ["early", "b", "c", "end"]


def test_clear_forgets_it(scenario):
    async def coroutine(run, seen):
        run.wake("early")
        run.clear()
        await three_events(run, seen)

    async def script(run, seen, turn):
        for event in "abc":
            run.wake(event)
            await turn()

    assert scenario(coroutine, script) == ["a", "b", "c", "end"]


def test_what_comes_after_the_end_harms_nobody(scenario):
    async def coroutine(run, seen):
        seen.append(await run)

    async def script(run, seen, turn):
        run.wake("a")
        await turn()
        run.wake("late")
        run.fail(GONE)

    assert scenario(coroutine, script) == ["a"]


def test_a_wait_of_its_own_is_cancelled_in_a_task():
    async def main():
        run, seen = Run(), []

        async def coroutine():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append(run.cancelled_by())
                seen.append(run.cancelled_by())

        run.start(coroutine(), in_task=True)
        ready = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(ready.set_result, None)
        await ready
        run.fail(GONE)
        await asyncio.wait_for(asyncio.gather(run._task, return_exceptions=True), 5)
        return seen

    assert asyncio.run(main()) == [GONE, None]


def test_spawn_tells_of_the_end():
    async def main():
        ended = asyncio.get_running_loop().create_future()

        async def work():
            return 7

        spawn(work(), lambda task: ended.set_result(task.result()))
        return await ended

    assert asyncio.run(main()) == 7
