"""Hits that are answered again by their bytes: the same to everybody as those that are not, and over in time."""

import re
from contextlib import ExitStack

import pytest

from tests.kit.caching import FRESH, Origin, told
from tests.kit.repeating import ENOUGH, bytes_of, learnt
from tests.kit.servers import redis_server
from tests.kit.wire import RawSocket

ID = re.compile(rb"X-Request-ID: ([0-9a-f]{32})\r\n")


# What it looks like


def test_the_same_bytes_but_for_the_id(bench, taken):
    it = bench()
    path = it.path()
    fields = ["X-Note: X-Request-ID: mine", "Vary: Accept", "Date: {0}", "X-Two: 1", "X-Two: 2"]
    it.origin.replies[path] = [it.reply(203, [*FRESH, *fields], b"a body")]
    it.ask(path)
    answers = [it.ask(path) for _ in range(6)]
    assert taken == [True] * 4
    assert len({ID.sub(b"", each.raw_head) + each.body for each in answers}) == 1
    assert len({ID.search(each.raw_head)[1] for each in answers}) == 6
    assert (answers[-1].body, told(answers[-1]), answers[-1].get("x-note")) == (
        b"a body", "gatewright; hit; ttl=60", "X-Request-ID: mine",
    )  # fmt: skip


def test_it_is_counted_and_logged_as_any_hit(bench, taken):
    it = bench()
    path = it.path()
    it.origin.replies[path] = [it.reply(200, FRESH, b"12345")]
    ids = [it.ask(path + "?token=secret").get("x-request-id") for _ in range(7)]
    assert taken == [True] * 4
    miss, *lines = it.running.access_log()
    assert [miss["request_id"], *(line["request_id"] for line in lines)] == ids
    own = ("time", "request_id", "duration_ms", "overhead_ms")
    same = [{key: value for key, value in line.items() if key not in own} for line in lines]
    assert same == [same[0]] * 6
    assert {"status": 200, "bytes_out": 5, "cache_status": "hit", "route": "all", "service": "s"}.items() <= same[
        0
    ].items()
    assert (same[0]["path"], same[0]["query"], same[0]["attempts"]) == (path, miss["query"], 0)
    assert it.running.counted("cache_requests", result="hit") == 6
    rows = [
        row for kind, row, numbers in it.running._counters.changes() if kind == "exchanges" and sum(numbers[:15]) == 7
    ]
    assert rows == [["all", "s", "GET", "200", "http"]]


def test_age_goes_on(bench, taken):
    it = bench()
    path = learnt(it)
    for age in (0, 1, 1, 59):
        it.clock.passed = age + 0.5
        answer = it.ask(path)
        assert (answer.get("age"), told(answer)) == (str(age), f"gatewright; hit; ttl={60 - age}")
    assert taken == [True] * 4


# What ends it


def refetch(it, path):
    it.ask(path, "Cache-Control: no-cache\r\n")


def fill(it, path):
    for _ in range(4):
        other = it.path()
        it.origin.replies[other] = [it.reply(200, FRESH, b"x" * 1000)]
        it.ask(other)


def expire(it, path):
    it.clock.passed += 60


def post(it, path):
    it.origin.replies[path].insert(0, it.reply(200, [], b"changed"))
    it.ask(path, "Content-Length: 0\r\n", "POST")


ENDS = {
    "purge of the URL": lambda it, path: it.purge("url", f"http://test{path}"),
    "purge of a prefix": lambda it, path: it.purge("prefix", f"http://test{path[:-1]}"),
    "purge of a tag": lambda it, path: it.purge("tag", "red"),
    "purge of everything": lambda it, path: it.purge("all", ""),
    "another worker's word": lambda it, path: it.running.call(
        it.running.gateway.services.hear, "cache.purge", ["url", f"http://test{path}"]
    ),
    "its time": expire,
    "an unsafe request": post,
    "another answer in its place": refetch,
    "no room": fill,
    "less room": lambda it, path: it.running.call(it.store.reserve, next(iter(it.store._limits)), 1000),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_it_ends_at_once(bench, taken, end):
    it = bench("{memory: 6KB, max_entry: 3KB}")
    path = learnt(it, "Surrogate-Key: red", size=2000)
    assert it.ask(path).body.strip() == b"old"
    assert taken == [True]
    taken.clear()
    end(it, path)
    assert [it.ask(path).body for _ in range(3)] == [b"new"] * 3
    assert (taken[0], taken.count(False)) == (False, 1), "it was found to be over, and forgotten"


def test_a_new_variant_in_its_place_is_looked_at(bench, taken):
    it = bench()
    path = learnt(it)
    it.origin.replies[path] = [it.reply(200, [*FRESH, "Vary: Accept"], b"for html")]
    it.ask(path, "Accept: text/html\r\nCache-Control: no-cache\r\n")
    assert it.ask(path).body == b"old"
    assert taken == [False], "the slot has changed: the request was read"
    assert [it.ask(path, "Accept: text/html\r\n").body for _ in range(5)] == [b"for html"] * 5


def test_variants_are_kept_apart(bench, taken):
    it = bench()
    path = it.path()
    it.origin.replies[path] = [it.reply(200, [*FRESH, "Vary: Accept"], each) for each in (b"html", b"json")]
    kinds = {b"html": "Accept: text/html\r\n", b"json": "Accept: application/json\r\n"}
    for _ in range(6):
        for body, head in kinds.items():
            assert it.ask(path, head).body == body
    assert taken == [True] * 6


def test_use_keeps_it_from_being_put_out(bench, taken):
    it = bench("{memory: 8KB, max_entry: 3KB}")
    path = learnt(it, size=1000)
    for _ in range(10):
        other = it.path()
        it.origin.replies[other] = [it.reply(200, FRESH, b"x" * 1000)]
        it.ask(other)
        assert it.ask(path).body.strip() == b"old"
    assert taken == [True] * 10
    assert it.origin.asked(path) == 1


def test_what_redis_gave_is_held_for_a_second(bench, taken):
    with redis_server() as redis:
        it = bench("{store: redis}", redis=redis.url)
        path = learnt(it)
        it.clock.passed += 0.9
        assert it.ask(path).body == b"old"
        assert taken == [True]
        it.clock.passed += 0.2
        it.ask(path)
        assert taken == [True, False], "Redis was asked: another gateway may have purged it"


def test_another_worker_ends_it(run, target):
    origin = Origin()
    head = "\r\n".join(["HTTP/1.1 200 OK", *FRESH, "Content-Length: 3", "", ""]).encode()
    origin.replies["/a"] = [head + b"old"]
    gateway = run(
        f"workers: 2\nservices: {{s: {{targets: ['{target(origin).url}']}}}}\n"
        "routes: [{name: all, match: {path: '/{rest...}'}, service: s, plugins: [{cache: {}}]}]\n"
    ).ready()
    with ExitStack() as stack:
        filled = []  # a connection to each worker: the one that had its miss there
        while len(filled) < 2:
            client = stack.enter_context(RawSocket.connect(gateway.port))
            client.send(bytes_of("/a"))
            if "miss" in told(client.read_answer()):
                filled.append(client)
        for client in filled:
            for _ in range(ENOUGH + 2):
                client.send(bytes_of("/a"))
                assert client.read_answer().body == b"old"
        origin.replies["/a"] = [head + b"new"]
        filled[0].send(b"DELETE /a HTTP/1.1\r\nHost: test\r\n\r\n")
        assert filled[0].read_answer().status == 200

        def new_everywhere():
            for client in filled:
                client.send(bytes_of("/a"))
            return [client.read_answer().body for client in filled] == [b"new"] * 2

        gateway.until(new_everywhere, "the new answer from both workers")


def test_a_reload_ends_it(gateway, target, taken):
    def script(text):
        origin = Origin()
        origin.replies["/a"] = [f"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{text}".encode()]
        return target(origin).url

    config = "services: {{s: {{targets: ['{url}']}}}}\nroutes: [{{name: {name}, match: {{path: /a}}, service: s, plugins: [{{cache: {{ttl: 1h}}}}]}}]\n"
    running = gateway(config.format(url=script("old"), name="before"))
    with RawSocket.connect(running.port) as client:

        def ask():
            client.send(bytes_of("/a"))
            return client.read_answer().body

        assert [ask() for _ in range(ENOUGH + 2)] == [b"old"] * (ENOUGH + 2)
        assert taken == [True]
        running.reload(config.format(url=script("new"), name="after"))
        assert [ask() for _ in range(ENOUGH + 2)] == [b"new"] * (ENOUGH + 2)
        assert taken == [True] * 3
        running.reload("routes: [{name: gone, match: {path: /b}, respond: {status: 200}}]\n")
        client.send(bytes_of("/a"))
        assert client.read_answer().status == 404
    assert [line["route"] for line in running.access_log() if "route" in line][-1] == "after"
