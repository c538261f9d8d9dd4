"""Entries in a real Redis: several gateways see one cache, a purge holds everywhere, a Redis that fails is a miss."""

import asyncio
from contextlib import ExitStack, asynccontextmanager

import pytest

from gatewright.core.headers import Headers
from gatewright.plugins.cache.entry import Entry, Terms
from gatewright.plugins.cache.redis_store import RedisStore
from gatewright.plugins.cache.store import make_slot
from tests.kit.caching import FRESH, Bench, ManualClock, told
from tests.kit.servers import redis_cluster, redis_sentinel, redis_server

URL = "http://h/a*[x]"


@asynccontextmanager
async def opened(url, clock=None, bound=2.0):
    store = RedisStore(url, clock or ManualClock(), bound)
    store.open()
    try:
        yield store
    finally:
        await store.close()


async def settled(store):
    """Wait for what goes on beside the requests."""
    if store._beside:
        await asyncio.wait(store._beside)


def entry(url=URL, scope="r", body=b"body", tags=("red",), vary=(("a", "1"), ("b", None)), lifetime=60.0):
    fields = Headers.of([("X-A", "1"), ("ETag", '"e"'), ("x-a", "\xe4")]).fields
    made = Entry(
        url,
        scope,
        vary,
        200,
        b"Fine",
        fields,
        body,
        1000.0,
        Terms(lifetime, 5.0, 7.0, False, True, 3),
        '"e"',
        None,
        frozenset(tags),
    )
    made.loaded = 1000.0
    return made


async def saved(store, *entries):
    for each in entries:
        _, token = await store.load(make_slot(each.url, each.scope))
        store.save(each, token)
        await settled(store)


def test_what_goes_in_comes_out(redis):
    async def main():
        there = ManualClock()
        async with opened(redis.url) as one, opened(redis.url, there) as other:
            there.passed = 20_000.0  # another machine has been up for longer; its date is the same
            there._wall -= 20_000.0 - 10.0
            await saved(one, entry())
            (found,), _ = await other.load(make_slot(URL, "r"))
            assert there.now() - found.born == pytest.approx(10.0)
            for name in (
                "url",
                "scope",
                "vary",
                "status",
                "phrase",
                "fields",
                "body",
                "terms",
                "etag",
                "modified",
                "tags",
            ):
                assert getattr(found, name) == getattr(entry(), name), name

    asyncio.run(main())


@pytest.mark.parametrize("step", [5 * 3600.0, -5 * 3600.0, 30.0, -30.0])
def test_after_a_step_of_the_date_nothing_is_younger_than_it_may_be(redis, step):
    """By hours: forwards it counts as old, backwards as not there. By less: machines differ by that."""

    async def main():
        clock = ManualClock()
        async with opened(redis.url, clock) as store:
            await saved(store, entry())
            clock._wall += step
            found, _ = await store.load(make_slot(URL, "r"))
            ages = [clock.now() - each.born for each in found]
            assert ages == ([] if step < -60.0 else [pytest.approx(max(0.0, step))])
            await saved(store, entry())  # what is made after it is kept as ever
            (found,), _ = await store.load(make_slot(URL, "r"))
            assert clock.now() - found.born == pytest.approx(0.0)

    asyncio.run(main())


def test_variants_and_scopes_are_apart(redis):
    async def main():
        async with opened(redis.url) as store:
            await saved(
                store, entry(vary=(("a", "1"),)), entry(vary=(("a", "2"),)), entry(vary=(("a", "2"),)), entry(scope="s")
            )
            found, _ = await store.load(make_slot(URL, "r"))
            assert sorted(each.vary for each in found) == [(("a", "1"),), (("a", "2"),)]
            store.drop(found[0])
            await settled(store)
            assert len((await store.load(make_slot(URL, "r")))[0]) == 1

    asyncio.run(main())


def test_too_many_variants_begin_anew(redis):
    async def main():
        async with opened(redis.url) as store:
            await saved(store, *[entry(vary=(("a", str(number)),)) for number in range(70)])
            assert len((await store.load(make_slot(URL, "r")))[0]) == 6

    asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "value", "left"),
    [("url", URL, {"http://h/ab", "http://i/"}), ("prefix", "http://h/a*[", {"http://h/ab", "http://i/"}), ("prefix", "http://h/", {"http://i/"}), ("tag", "red", {"http://i/"}), ("all", "", set())],
)  # fmt: skip
def test_purges(redis, kind, value, left):
    async def main():
        async with opened(redis.url) as store:
            await saved(store, entry(), entry(scope="s"), entry("http://h/ab"), entry("http://i/", tags=()))
            store.purge(kind, value)
            urls = [URL, "http://h/ab", "http://i/"]
            assert {url for url in urls if (await store.load(make_slot(url, "r")))[0]} == left
            assert bool((await store.load(make_slot(URL, "s")))[0]) is False

    asyncio.run(main())


async def save_too_late(one, other, kind, value):
    """Save an answer in `one` that was asked for before a purge in `other`."""
    _, token = await one.load(make_slot(URL, "r"))
    other.purge(kind, value)
    await settled(other)
    one.save(entry(), token)
    await settled(one)


@pytest.mark.parametrize(("kind", "value"), [("url", URL), ("prefix", "http://h/"), ("tag", "red"), ("all", "")])
def test_what_was_asked_for_before_a_purge_elsewhere_is_not_stored(redis, kind, value):
    async def main():
        async with opened(redis.url) as one, opened(redis.url) as other:
            await save_too_late(one, other, kind, value)
            assert (await one.load(make_slot(URL, "r")))[0] == []
            await saved(one, entry())
            assert len((await one.load(make_slot(URL, "r")))[0]) == 1

    asyncio.run(main())


def test_nothing_stays_for_ever(redis):
    async def main():
        async with opened(redis.url) as store:
            await saved(store, entry())
            store.purge("url", "http://h/other")
            await settled(store)
            keys = [key for key in redis.ask("KEYS", "*") if not key.endswith(":g")]
            assert len(keys) == 4
            assert all(redis.ask("PTTL", key) > 0 for key in keys)
            assert redis.ask("TTL", f"gatewright:{{cache}}:e:{URL}\nr") == pytest.approx(86400 + 67, abs=2)

    asyncio.run(main())


def test_what_is_not_ours_is_not_read(redis):
    async def main():
        async with opened(redis.url) as store:
            for number, value in enumerate(["x", "", "\x96\x02\x01\x02\x03\x04\x05"]):
                redis.ask("HSET", f"gatewright:{{cache}}:e:{URL}\nr", f"f{number}", value)
            assert (await store.load(make_slot(URL, "r")))[0] == []

    asyncio.run(main())


def test_a_redis_that_is_silent_is_a_miss_within_the_bound(caplog):
    async def main():
        with redis_server() as own:
            clock = ManualClock()
            async with opened(own.url, clock, bound=0.05) as store:
                own.pause()
                assert await store.load("u\nr") == ([], None)
                store.bound = 1000.0
                assert await store.load("u\nr") == ([], None)  # it is left alone for a while
                own.resume()
                clock.passed += 2
                assert (await store.load("u\nr"))[1] is not None

    asyncio.run(main())
    said = [record.message for record in caplog.records if record.name == "gatewright.plugins.cache"]
    assert [text.split(": ")[0].split("127")[0] for text in said] == [
        "the cache goes on without the Redis at ",
        "the Redis at ",
    ]


# Where a Redis can be


@pytest.fixture(scope="module")
def cluster():
    with redis_cluster() as nodes:
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


@pytest.mark.parametrize(("kind", "value"), [("url", URL), ("prefix", "http://h/"), ("tag", "red"), ("all", "")])
def test_in_a_cluster(cluster, kind, value):
    async def main():
        async with opened(cluster) as one, opened(cluster) as other:
            await saved(one, entry())
            assert len((await other.load(make_slot(URL, "r")))[0]) == 1
            await save_too_late(one, other, kind, value)
            assert (await one.load(make_slot(URL, "r")))[0] == []
            assert not one._failing

    asyncio.run(main())


def test_behind_sentinels(server):
    async def main(url):
        async with opened(url) as store:
            await saved(store, entry())
            assert len((await store.load(make_slot(URL, "r")))[0]) == 1

    with redis_sentinel(server) as sentinel:
        asyncio.run(main(f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0"))


def test_one_that_no_plugin_uses_any_more_is_left_alone(redis):
    async def main():
        async with opened(redis.url) as store:
            await saved(store, entry())
        store.purge("all", "")
        assert not store._beside
        async with opened(redis.url) as other:
            assert len((await other.load(make_slot(URL, "r")))[0]) == 1

    asyncio.run(main())


# Through a gateway


@pytest.fixture
def bench(tmp_path_factory):
    with ExitStack() as stack:
        yield lambda settings, redis: Bench(settings, stack, tmp_path_factory.mktemp("gateway"), redis=redis)


@pytest.fixture
def two(bench, redis):
    """Two gateways on one Redis, whose machines have the same date."""
    one, other = (bench("{store: redis, redis_timeout: 2s}", redis.url) for _ in range(2))
    other.clock._wall = one.clock._wall
    return one, other


def test_another_gateway_serves_what_one_has_stored(redis, two):
    one, other = two
    path = one.path()
    one.origin.replies[path] = [one.reply(200, [*FRESH, "Vary: Foo"], b"x")]
    assert told(one.ask(path)) == "gatewright; fwd=uri-miss; fwd-status=200; stored"
    redis.until(lambda: redis.ask("EXISTS", f"gatewright:{{cache}}:e:http://test{path}\nall"), "the answer")
    assert told(other.ask(path)) == "gatewright; hit; ttl=60"
    assert told(other.ask(path, "Cache-Control: only-if-cached\r\n")) == "gatewright; hit; ttl=60"
    other.clock.passed += 10
    assert told(other.ask(path)) == "gatewright; hit; ttl=50"
    assert other.ask(path, "Foo: 1\r\nCache-Control: only-if-cached\r\n").status == 504
    assert (one.origin.asked(path), other.origin.asked(path)) == (1, 0)


def test_a_purge_by_another_gateway_holds_after_a_second(redis, two):
    one, other = two
    path = one.path()
    one.origin.replies[path] = [one.reply(200, FRESH, b"old"), one.reply(200, FRESH, b"new")]
    one.ask(path)
    key = f"gatewright:{{cache}}:e:http://test{path}\nall"
    redis.until(lambda: redis.ask("EXISTS", key), "the answer")
    other.purge("url", f"http://test{path}")
    redis.until(lambda: not redis.ask("EXISTS", key), "the purge")
    assert one.ask(path).body == b"old"
    one.clock.passed += 1.1
    assert one.ask(path).body == b"new"


def test_after_a_change_the_old_is_gone_here_and_there(redis, bench):
    one = bench("{store: redis, redis_timeout: 2s}", redis.url)
    path = one.path()
    one.origin.replies[path] = [
        one.reply(200, FRESH, b"old"),
        one.reply(200, [], b"done"),
        one.reply(200, FRESH, b"new"),
    ]
    one.ask(path)
    redis.until(lambda: redis.ask("EXISTS", f"gatewright:{{cache}}:e:http://test{path}\nall"), "the answer")
    one.ask(path, method="POST")
    assert one.ask(path).body == b"new"


def test_without_redis_each_worker_goes_on_by_itself(bench):
    with redis_server() as own:
        one = bench("{store: redis}", own.url)
        path = one.path()
        own.kill()
        one.origin.replies[path] = [one.reply(200, FRESH, b"x")]
        assert [one.ask(path).body for _ in range(3)] == [b"x"] * 3
        one.clock.passed += 5
        assert one.ask(path).body == b"x"
        assert one.origin.asked(path) == 1
        one.purge("all", "")
        assert one.ask(path).status == 200
