"""The store in a real Redis: decisions, batches, and what is held at the same time."""

import asyncio
import time

import pytest

from gatewright.core.clock import SystemClock
from gatewright.core.tasks import spawn
from gatewright.state.limits import SECOND, Concurrency, FixedWindow, Gcra, SlidingWindow
from gatewright.state.redis import RedisStore
from tests.state.opened import limit, opened, turn, until


def test_decisions(redis):
    async def main():
        async with opened(redis.url) as store:
            wide, narrow = limit(Gcra(3, 60 * SECOND)), limit(SlidingWindow(1, 60 * SECOND))
            assert [verdict[:2] for verdict in await store.decide([(wide, "a"), (narrow, "a")])] == [
                (True, 2),
                (True, 0),
            ]
            assert [verdict[0] for verdict in await store.decide([(wide, "a"), (narrow, "a")])] == [True, False]
            assert (await store.decide([(wide, "b")]))[0][1] == 2
            assert (await store.decide([(wide, "a")]))[0][1] == 1

    asyncio.run(main())


def test_keys_show_nobody_and_share_the_tag_of_their_decision(redis):
    async def main():
        async with opened(redis.url) as store:
            first, second = limit(Gcra(3, 60 * SECOND)), limit(FixedWindow(3, 60 * SECOND))
            await store.decide([(first, "secret-api-key" * 1000), (second, "secret-api-key" * 1000)])
            await store.decide([(first, "one"), (second, "other")], together="both")

    asyncio.run(main())
    keys = [key for key in redis.ask("KEYS", "*") if not key.endswith(":probe")]
    assert len(keys) == 4
    assert not [key for key in keys if "secret" in key or len(key) > 100]
    assert len({key.partition("{")[2].partition("}")[0] for key in keys}) == 2


def test_calls_that_wait_together_share_one_pipeline(redis):
    async def main():
        async with opened(redis.url) as store:
            sent = []
            pipeline = store._pipeline

            async def noted(commands):
                sent.append(len(commands))
                return await pipeline(commands)

            store._pipeline = noted
            rule = limit(FixedWindow(100, 60 * SECOND))
            verdicts = await asyncio.gather(*[store.decide([(rule, "a")]) for _ in range(120)])
            assert sent == [120]
            assert sorted(verdict[0][1] for verdict in verdicts) == [0] * 21 + list(range(1, 100))

    asyncio.run(main())


def test_a_script_that_was_flushed_is_loaded_again(redis):
    async def main():
        async with opened(redis.url) as store:
            rule = limit(FixedWindow(10, 60 * SECOND))
            for _ in range(3):
                redis.ask("SCRIPT", "FLUSH")
                verdicts = await asyncio.gather(*[store.decide([(rule, "a")]) for _ in range(2)])
            assert sorted(verdict[0][1] for verdict in verdicts) == [4, 5]
            assert store.failures == 0

    asyncio.run(main())


def test_who_must_wait_is_not_asked_about_again(redis):
    class Hands(SystemClock):
        ahead = 0.0

        def now(self):
            return time.monotonic() + self.ahead

    async def main():
        clock = Hands()
        store = RedisStore(redis.url, clock, bound=2.0)
        await store.start()
        rule = limit(FixedWindow(1, 60 * SECOND))
        assert (await store.decide([(rule, "a")]))[0][0]
        first = (await store.decide([(rule, "a")]))[0]
        asked = redis.ask("INFO", "commandstats").partition("cmdstat_evalsha:calls=")[2].partition(",")[0]
        clock.ahead = 30.0
        allowed, _, _, wait = (await store.decide([(rule, "a")]))[0]
        assert (first[0], allowed) == (False, False)
        assert 29 * SECOND < first[3] - wait < 31 * SECOND
        assert redis.ask("INFO", "commandstats").partition("cmdstat_evalsha:calls=")[2].partition(",")[0] == asked
        clock.ahead = 61.0
        assert not (await store.decide([(rule, "a")]))[0][0]  # by Redis' clock it is still too early
        assert redis.ask("INFO", "commandstats").partition("cmdstat_evalsha:calls=")[2].partition(",")[0] != asked
        await store.stop()

    asyncio.run(main())


# Held at the same time


def test_what_is_held_is_given_back(redis):
    async def main():
        async with opened(redis.url) as store, opened(redis.url) as other:
            rule = limit(Concurrency(3), cost=1)
            for name in "abc":
                assert (await store.decide([(rule, "k")], name))[0][0]
            assert not (await other.decide([(rule, "k")], "d"))[0][0]
            store.release("b")
            store.release("b")
            await store.decide([(limit(Gcra(9, SECOND)), "k")])  # behind the release
            assert (await other.decide([(rule, "k")], "d"))[0][0]
            assert not (await other.decide([(rule, "k")], "e"))[0][0]

    asyncio.run(main())


def test_what_is_refused_by_another_limit_is_not_held(redis):
    async def main():
        async with opened(redis.url) as store:
            rule, never = limit(Concurrency(1)), limit(FixedWindow(1, 60 * SECOND))
            await store.decide([(never, "k")])
            assert [verdict[0] for verdict in await store.decide([(rule, "k"), (never, "k")], "a")] == [True, False]
            assert (await store.decide([(rule, "k")], "b"))[0][0]

    asyncio.run(main())


def test_leases_are_renewed_while_held_and_end_with_their_holder(redis):
    async def main():
        rule = limit(Concurrency(1))
        async with opened(redis.url) as other:
            async with opened(redis.url, lease=0.6) as store:
                assert (await store.decide([(rule, "k")], "a"))[0][0]
                begun = time.monotonic()
                while time.monotonic() - begun < 1.5:  # more than two leases
                    assert not (await other.decide([(rule, "k")], "b"))[0][0]
                    await turn(0.05)
            while not (await other.decide([(rule, "k")], "b"))[0][0]:  # it stopped and gave back nothing, as if dead
                assert time.monotonic() - begun < 5
                await turn(0.05)

    asyncio.run(main())


def test_a_lease_that_ended_is_free_while_others_hold_theirs(redis):
    async def main():
        rule = limit(Concurrency(2))
        async with opened(redis.url) as other:
            async with opened(redis.url, lease=0.3) as store:
                assert (await store.decide([(rule, "k")], "a"))[0][0]
            assert (await other.decide([(rule, "k")], "b"))[0][0]
            begun = time.monotonic()
            while not (await other.decide([(rule, "k")], "c"))[0][0]:
                assert time.monotonic() - begun < 5
                await turn(0.05)
            assert not (await other.decide([(rule, "k")], "d"))[0][0]

    asyncio.run(main())


def test_whoever_goes_away_while_waiting_holds_nothing(redis):
    async def main():
        async with opened(redis.url) as store:
            rule = limit(Concurrency(1))
            waiting = spawn(store.decide([(rule, "k")], "a"))
            redis.ask("CLIENT", "PAUSE", 300, "ALL")
            await until(lambda: store._sending)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await store.decide([(limit(Gcra(9, SECOND)), "k")])  # behind it
            await store.decide([(limit(Gcra(9, SECOND)), "k")])
            assert (await store.decide([(rule, "k")], "b"))[0][0]

    asyncio.run(main())
