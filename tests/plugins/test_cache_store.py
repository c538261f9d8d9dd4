"""Entries in memory: the bound, the indexes, who fetches what. Whatever is done, the books are right."""

import asyncio
import random

import pytest

from gatewright.core.headers import Headers
from gatewright.core.tasks import spawn
from gatewright.plugins.cache.entry import Entry, Terms
from gatewright.plugins.cache.request import Facts
from gatewright.plugins.cache.store import MemoryStore, make_slot

NOTHING = Facts(Headers())


def entry(url, scope="r", body=b"", tags=(), vary=()):
    return Entry(url, scope, tuple(vary), 200, b"", [], body, 0.0, Terms(60.0), tags=frozenset(tags))


def store(limit=1_000_000):
    made = MemoryStore()
    made.reserve(1, limit)
    return made


def check(made):
    """The sums and indexes say what the entries say."""
    entries = [each for slot in made._slots.values() for each in slot]
    assert made.size == sum(each.size for each in entries) <= made.limit
    assert len(made) == len(entries)
    assert {(url, scope) for url, scopes in made._scopes.items() for scope in scopes} == {
        (e.url, e.scope) for e in entries
    }
    tagged = {(tag, make_slot(each.url, each.scope)) for each in entries for tag in each.tags}
    assert {(tag, slot) for tag, slots in made._tagged.items() for slot in slots} == tagged


def test_the_books_are_right_whatever_happens():
    chance = random.Random(7)
    made = store(60_000)
    for _ in range(3000):
        url, scope = f"http://h/{chance.randrange(20)}", f"r{chance.randrange(3)}"
        match chance.randrange(12):
            case 0:
                made.purge("url", url)
            case 1:
                made.purge("tag", f"t{chance.randrange(5)}")
            case 2:
                made.purge("prefix", url)
            case 3:
                found = made.find(make_slot(url, scope), NOTHING, 0)
                if found is not None:
                    made.drop(found)
                    made.drop(found)
            case _:
                tags = {f"t{chance.randrange(5)}" for _ in range(chance.randrange(3))}
                made.put(entry(url, scope, b"x" * chance.randrange(9000), tags, [("a", str(chance.randrange(3)))]))
        check(made)
    assert made.purge("all") > 0
    assert (made.size, len(made), made._slots, made._scopes, made._tagged) == (0, 0, {}, {}, {})


def test_the_largest_wish_for_room_counts():
    made = store(10_000)
    made.reserve(2, 50_000)
    made.put(entry("http://h/a", body=b"x" * 20_000))
    assert len(made) == 1
    made.reserve(2, 0)
    assert (made.limit, len(made)) == (10_000, 0)
    made.reserve(1, 0)
    assert made.limit == 10_000  # a reload's old plugin goes when the new one has come: nothing is lost between


def test_what_is_larger_than_the_room_is_not_stored():
    made = store(10_000)
    made.put(entry("http://h/a"))
    made.put(entry("http://h/b", body=b"x" * 20_000))
    assert len(made) == 1


def test_variants_are_bounded():
    made = store()
    for number in range(200):
        made.put(entry("http://h/a", vary=[("a", str(number))]))
    assert len(made) == 64
    check(made)


def test_a_fetch_that_is_purged_is_void():
    made = store()
    fetches = [made.fetch(make_slot(f"http://h/{name}", "r"), leads=True) for name in ("a/1", "a/2", "b")]
    made.purge("url", "http://h/a/1")
    assert [fetch.void for fetch in fetches] == [True, False, False]
    made.purge("prefix", "http://h/a/")
    assert [fetch.void for fetch in fetches] == [True, True, False]
    made.purge("tag", "whatever")
    assert [fetch.void for fetch in fetches] == [True, True, True]
    for fetch in fetches:
        fetch.end()
        fetch.end()
    assert (made._fetches, made._leading) == ({}, {})


async def turn():
    """Let the loop go round once."""
    passed = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(passed.set_result, None)
    await passed


def test_who_waits_is_told_of_the_end():
    async def run():
        made = store()
        fetch = made.fetch("u\nr", leads=True)
        waits = [spawn(fetch.wait(10)) for _ in range(3)]
        await turn()
        waits[0].cancel()
        await turn()
        assert made.leading("u\nr") is fetch
        fetch.end(failed=True)
        assert made.leading("u\nr") is None
        assert [await wait for wait in waits[1:]] == [True, True]
        assert (await fetch.wait(10), fetch.failed) == (True, True)

    asyncio.run(run())


def test_the_wait_is_bounded():
    async def run():
        fetch = store().fetch("u\nr", leads=True)
        assert await fetch.wait(0.001) is False
        assert fetch._waiters == []

    asyncio.run(run())


def test_refusals_are_forgotten_in_time_and_bounded():
    made = store()
    made.refuse("a", 100.0)
    assert (made.refused("a", 104.9), made.refused("a", 105.0), made.refused("b", 100.0)) == (True, False, False)
    for number in range(10_000):
        made.refuse(str(number), 100.0)
    assert len(made._refused) == 4096


@pytest.mark.parametrize(("personal", "found"), [(0, True), (1, False)])
def test_what_is_for_nobody_in_particular_is_not_for_somebody(personal, found):
    made = store()
    made.put(entry("http://h/a"))
    assert (made.find(make_slot("http://h/a", "r"), NOTHING, personal) is not None) is found
