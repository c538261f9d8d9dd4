"""The cache by its settings and beside other plugins; room for answers, and purges."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kit.caching import FRESH, LATE, WHO, Gate, Step, sent, told
from tests.kit.wire import TIMEOUT, request

S = Step


# Settings


def test_a_lifetime_for_answers_that_say_nothing(bench):
    it = bench("{ttl: 60s}", before=WHO)
    it.play([S([]), S([], "stored", later=59), S([], later=2)])
    it.play([S(["Cache-Control: max-age=5"]), S([], later=6)])
    for directive in ("no-store", "private", "no-cache", "max-age=0"):
        it.play([S([f"Cache-Control: {directive}"]), S([])])
    it.play([S(["Pragma: no-cache"]), S([])])
    it.play([S([], status=404), S([], status=404)])
    it.play([S([], ask="Authorization: x\r\n"), S([])])
    it.play([S([]), S([], ask="X-Key: ann\r\n")])
    it.play([S(["Set-Cookie: a=b"]), S([])])


def test_a_guess_by_the_last_change(bench):
    it = bench("{heuristic: 10%}")
    it.play([S(["Last-Modified: {-1000}"]), S([], "stored", later=90), S([], later=20)])
    it.play([S(["Last-Modified: {-100000000}"]), S([], "stored", later=86000), S([], later=1000)])
    it.play([S(["Last-Modified: {-1000}"], status=404), S([], status=404)])
    it.play([S([]), S([])])


def test_each_consumer_has_answers_of_his_own(bench):
    it = bench("{each_consumer: true, ttl: 60s}", before=WHO)
    it.play([
        S([], ask="X-Key: ann\r\n"), S([], ask="X-Key: bob\r\n"), S([], "stored", "X-Key: ann\r\n", of=0), S([]),
        S([], ask="X-Key: ann\r\nAuthorization: other\r\n"), S([], "stored", "X-Key: bob\r\n", of=1), S([], "stored", of=3),
        S([], ask="Cookie: a=b\r\n"), S([], ask="Cookie: a=c\r\n"),
    ])  # fmt: skip
    it.play([S(["Cache-Control: private"], ask="X-Key: ann\r\n"), S([], ask="X-Key: ann\r\n")])


def test_a_plugin_behind_that_says_who_calls_comes_too_late(bench):
    it = bench("{ttl: 60s}", behind=WHO)
    it.play(
        [
            S(
                [],
                ask="X-Key: ann\r\n",
                has={"cache-status": "gatewright; fwd=uri-miss; fwd-status=200; detail=consumer-came-later"},
            ),
            S([]),
        ]
    )


def test_plugins_behind_edit_each_answer_once(bench):
    it = bench(behind=LATE)
    path = it.path()
    it.origin.replies[path] = [it.reply(200, FRESH, b"x")]
    assert [it.ask(path).all("x-seen") for _ in range(3)] == [["once"]] * 3


def test_an_answer_that_varies_by_what_a_plugin_behind_has_set_is_not_stored(bench):
    it = bench(behind=LATE)
    it.play([S([*FRESH, "Vary: X-Late"]), S([*FRESH, "Vary: Other"]), S([], "stored")])


def test_an_answer_of_a_plugin_behind_says_nothing_of_the_target(bench):
    it = bench(behind="{use: './mine.py:Refuse'}")
    path = it.path()
    answer = it.ask(path)
    assert (answer.status, told(answer), it.origin.asked(path)) == (403, None, 0)


def test_a_get_with_a_body_goes_by(usual):
    path = usual.path()
    usual.origin.replies[path] = [usual.reply(200, FRESH, b"x")]
    for _ in range(2):
        assert told(usual.ask(path, "Content-Length: 0\r\n")) != "gatewright; fwd=bypass; fwd-status=200"
    data = f"GET {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx".encode()
    assert told(request(usual.port, data)) == "gatewright; fwd=bypass; fwd-status=200"


def test_what_a_trusted_proxy_says_of_the_place_keeps_answers_apart(bench):
    it = bench(listener="trusted_proxies: [127.0.0.1]")
    it.play([
        S(FRESH, ask="X-Forwarded-Host: a\r\n"), S(FRESH, ask="X-Forwarded-Host: b\r\n"),
        S([], "stored", "X-Forwarded-Host: a\r\n", of=0), S(FRESH, ask="X-Forwarded-Proto: https\r\n"), S(FRESH),
    ])  # fmt: skip


def test_what_anybody_says_of_the_place_means_nothing(usual):
    usual.play(
        [
            S(FRESH, ask="X-Forwarded-Host: a\r\n"),
            S([], "stored", "X-Forwarded-Host: b\r\nX-Forwarded-Proto: https\r\n"),
        ]
    )


def test_plugins_see_the_client_s_own_conditions(bench):
    it = bench(behind=LATE)
    path = it.path()
    it.origin.replies[path] = [it.reply(200, ["Cache-Control: max-age=2", 'ETag: "a"'], b"x"), it.reply(304, [], b"")]
    it.ask(path)
    it.clock.passed += 3
    assert it.ask(path, "X-Own: 1\r\n").get("x-condition") == "none"
    assert sent(it.origin.heads[path][1], "x-own") == "1"


# Room, and purges


def test_what_was_not_used_for_longest_goes_first(bench):
    it = bench("{memory: 10KiB, max_entry: 10KiB}")
    paths = [it.path() for _ in range(4)]
    for path in paths:
        it.origin.replies[path] = [it.reply(200, FRESH, b"x" * 2000)]
    for index in (0, 1, 2, 0, 3):
        it.ask(paths[index])
    for index in (0, 2, 3, 1):
        it.ask(paths[index])
    assert [it.origin.asked(path) for path in paths] == [1, 2, 1, 1]
    assert it.store.size <= 10 * 1024


@pytest.mark.parametrize(
    ("kind", "value", "left"),
    [
        ("url", "http://test/a/1", [2, 1, 1]),
        ("prefix", "http://test/a/", [2, 2, 1]),
        ("tag", "red", [2, 1, 2]),
        ("tag", "blue", [1, 2, 1]),
        ("all", "", [2, 2, 2]),
    ],
)
def test_purges(bench, kind, value, left):
    it = bench()
    paths = ["/a/1", "/a/2", "/b"]
    for path, field in zip(
        paths, ["Surrogate-Key: red green", "Cache-Tag: blue, green", "Cache-Tag: red"], strict=True
    ):
        it.origin.replies[path] = [it.reply(200, [*FRESH, field], b"x")]
        it.ask(path)
    it.purge(kind, value)
    for path in paths:
        it.ask(path)
    assert [it.origin.asked(path) for path in paths] == left


def test_what_is_fetched_during_a_purge_is_not_stored(bench):
    it = bench()
    path = it.path()
    gate = Gate(it.reply(200, [*FRESH, "Cache-Tag: red"], b"old"))
    it.origin.replies[path] = [gate, it.reply(200, FRESH, b"new")]
    with ThreadPoolExecutor() as pool:
        first = pool.submit(it.ask, path)
        assert gate.asked.wait(TIMEOUT)
        it.purge("tag", "red")
        gate.go.set()
        first.result()
    assert it.ask(path).body == b"new"
