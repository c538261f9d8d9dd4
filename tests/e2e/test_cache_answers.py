"""The cache on the way of a request: what clients are told, HEAD, ranges, and what a change makes invalid."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from gatewright.plugins.cache.plugin import _RESULTS as RESULTS
from tests.kit.caching import FRESH, Gate, Step, sent, told
from tests.kit.wire import TIMEOUT, RawSocket

S = Step


# What clients are told


def test_cache_status_says_what_was_done(usual):
    path = usual.path()
    usual.origin.replies[path] = [
        usual.reply(200, ["Cache-Control: max-age=60", 'ETag: "a"'], b"x"),
        usual.reply(304, [], b""),
    ]
    assert told(usual.ask(path)) == "gatewright; fwd=uri-miss; fwd-status=200; stored"
    usual.clock.passed += 10
    answer = usual.ask(path)
    assert (told(answer), answer.get("age")) == ("gatewright; hit; ttl=50", "10")
    assert told(usual.ask(path, "Cache-Control: max-age=5\r\n")) == "gatewright; fwd=request; fwd-status=304; stored"
    usual.clock.passed += 61
    assert told(usual.ask(path)) == "gatewright; fwd=stale; fwd-status=304; stored"


@pytest.mark.parametrize(
    ("head", "fields", "status"),
    [
        ("", ["Cache-Control: private"], "fwd=uri-miss; fwd-status=200; detail=private"),
        ("", ["Cache-Control: max-age=60", "Vary: *"], "fwd=uri-miss; fwd-status=200; detail=vary"),
        ("", [], "fwd=uri-miss; fwd-status=200; detail=no-freshness"),
        ('If-Match: "a"\r\n', FRESH, "fwd=bypass; fwd-status=200"),
        ("Cache-Control: no-store\r\n", FRESH, "fwd=request; fwd-status=200; detail=request-no-store"),
    ],
)  # fmt: skip
def test_cache_status_says_why_not(usual, head, fields, status):
    path = usual.path()
    usual.origin.replies[path] = [usual.reply(200, fields, b"x")]
    assert told(usual.ask(path, head)) == f"gatewright; {status}"


def test_other_variants_and_other_methods_are_told_too(usual):
    path = usual.path()
    usual.origin.replies[path] = [usual.reply(200, [*FRESH, "Vary: Foo"], b"x")]
    usual.ask(path)
    assert told(usual.ask(path, "Foo: 1\r\n")) == "gatewright; fwd=vary-miss; fwd-status=200; stored"
    assert told(usual.ask(path, method="DELETE")) == "gatewright; fwd=method; fwd-status=200"


def test_a_cache_before_this_one_is_heard_first(usual):
    path = usual.path()
    usual.origin.replies[path] = [usual.reply(200, [*FRESH, "Cache-Status: origin; hit"], b"x")]
    assert usual.ask(path).all("cache-status") == ["origin; hit", "gatewright; fwd=uri-miss; fwd-status=200; stored"]
    assert usual.ask(path).all("cache-status") == ["origin; hit", "gatewright; hit; ttl=60"]


def test_date_stays_and_age_grows_from_what_it_was(usual):
    path = usual.path()
    date = usual.clock.date(-5)
    usual.origin.replies[path] = [usual.reply(200, [*FRESH, f"Date: {date}", "Age: 3"], b"x")]
    assert usual.ask(path).all("age") == ["3"]
    usual.clock.passed += 7
    answer = usual.ask(path)
    assert (answer.all("age"), answer.all("date")) == (["12"], [date])


def test_an_answer_without_a_date_gets_that_of_its_arrival(usual):
    path = usual.path()
    usual.origin.replies[path] = [usual.reply(200, FRESH, b"x")]
    usual.ask(path)
    date = usual.clock.date()
    usual.clock.passed += 7
    assert usual.ask(path).all("date") == [date]


def test_fields_of_one_connection_are_not_stored(usual):
    path = usual.path()
    fields = ["Connection: a, b", "A: 1", "B: 2", "C: 3", "Keep-Alive: timeout=3", "Proxy-Authenticate: x", "TE: x"]
    usual.origin.replies[path] = [usual.reply(200, [*FRESH, *fields, "Proxy-Connection: x"], b"x")]
    usual.ask(path)
    answer = usual.ask(path)
    names = {name.lower() for name, _ in answer.headers}
    assert names == {"cache-control", "c", "date", "age", "cache-status", "via", "x-request-id", "content-length"}


def test_a_query_is_part_of_the_key(usual):
    path = usual.path()
    usual.origin.replies[path] = [usual.reply(200, FRESH, body) for body in (b"one", b"two")]
    assert [usual.ask(each).body for each in (f"{path}?a", f"{path}?b", f"{path}?a")] == [b"one", b"two", b"one"]


def test_interim_answers_go_by(usual):
    path = usual.path()
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    usual.origin.replies[path] = [early + usual.reply(200, FRESH, b"x")]
    with RawSocket.connect(usual.port) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        assert (client.read_answer().status, client.read_answer().status) == (103, 200)
    assert (usual.ask(path).get("link"), usual.origin.asked(path)) == (None, 1)


def test_what_was_done_is_counted(bench):
    it = bench()
    path = it.path()
    it.origin.replies[path] = [
        it.reply(200, ["Cache-Control: max-age=5, stale-if-error=60, stale-while-revalidate=3", 'ETag: "a"'], b"x"),
        it.reply(304, [], b""), it.reply(503, [], b"no"), it.reply(200, [], b"y"),
    ]  # fmt: skip
    it.ask(path)
    it.ask(path)
    it.clock.passed += 9
    it.ask(path)
    it.clock.passed += 9
    it.ask(path)
    it.ask(path, 'If-Match: "a"\r\n')
    it.ask(path, method="POST")
    counted = {word: it.running.counted("cache_requests", result=word) for word in RESULTS}
    assert counted == {"miss": 1, "hit": 1, "validated": 1, "stale": 1, "pass": 1, "collapsed": 0}


# HEAD


def test_head_is_answered_from_a_get(usual):
    path = usual.path()
    usual.origin.replies[path] = [usual.reply(200, FRESH, b"12345")]
    usual.ask(path)
    answer = usual.ask(path, method="HEAD")
    assert (answer.get("content-length"), answer.body, usual.origin.asked(path)) == ("5", b"", 1)


def test_the_answer_to_a_head_is_not_stored(usual):
    usual.play([S(FRESH, method="HEAD"), S(FRESH), S([], "stored", method="HEAD")])


def test_a_head_freshens_what_it_agrees_with(usual):
    tagged = ["Cache-Control: max-age=2", 'ETag: "a"', "X: 1"]
    usual.play([
        S(tagged), S([*FRESH, 'ETag: "a"', "X: 2"], method="HEAD", later=3),
        S([], "stored", later=30, has={"x": "2"}),
    ])  # fmt: skip


def test_a_head_that_disagrees_makes_invalid(usual):
    usual.play([
        S(["Cache-Control: max-age=2, stale-if-error=60", 'ETag: "a"']),
        S([*FRESH, 'ETag: "b"'], method="HEAD", later=3), S([], status=503),
    ])  # fmt: skip


# Ranges


@pytest.mark.parametrize(
    ("head", "status", "body", "range"),
    [
        ("Range: bytes=0-3\r\n", 206, b"0123", "bytes 0-3/10"),
        ("Range: bytes=4-\r\n", 206, b"456789", "bytes 4-9/10"),
        ("Range: bytes=-3\r\n", 206, b"789", "bytes 7-9/10"),
        ("Range: bytes=5-100\r\n", 206, b"56789", "bytes 5-9/10"),
        ("Range: bytes=-100\r\n", 206, b"0123456789", "bytes 0-9/10"),
        ("Range: bytes=10-\r\n", 416, b"", "bytes */10"),
        ("Range: bytes=-0\r\n", 416, b"", "bytes */10"),
        ("Range: bytes=0-1,3-4\r\n", 200, b"0123456789", None),
        ("Range: bytes=3-1\r\n", 200, b"0123456789", None),
        ("Range: lines=0-1\r\n", 200, b"0123456789", None),
        ('Range: bytes=0-3\r\nIf-Range: "a"\r\n', 206, b"0123", "bytes 0-3/10"),
        ('Range: bytes=0-3\r\nIf-Range: "b"\r\n', 200, b"0123456789", None),
        ('Range: bytes=0-3\r\nIf-Range: W/"a"\r\n', 200, b"0123456789", None),
        ("Range: bytes=0-3\r\nIf-Range: Wed, 01 Jan 2020 00:00:00 GMT\r\n", 206, b"0123", "bytes 0-3/10"),
        ("Range: bytes=0-3\r\nIf-Range: Thu, 02 Jan 2020 00:00:00 GMT\r\n", 200, b"0123456789", None),
        ('Range: bytes=0-3\r\nIf-None-Match: "a"\r\n', 304, b"", None),
    ],
)  # fmt: skip
def test_a_range_of_a_whole_answer(usual, head, status, body, range):
    path = usual.path()
    fields = [*FRESH, 'ETag: "a"', "Last-Modified: Wed, 01 Jan 2020 00:00:00 GMT"]
    usual.origin.replies[path] = [usual.reply(200, fields, b"0123456789")]
    usual.ask(path)
    answer = usual.ask(path, head)
    assert (answer.status, answer.body, answer.get("content-range")) == (status, body, range)
    assert usual.origin.asked(path) == 1


def test_a_range_of_nothing_stored_is_the_targets(usual):
    path = usual.path()
    part = usual.reply(206, [*FRESH, "Content-Range: bytes 0-3/10"], b"0123")
    usual.origin.replies[path] = [part, usual.reply(200, FRESH, b"0123456789")]
    assert usual.ask(path, "Range: bytes=0-3\r\n").body == b"0123"
    assert sent(usual.origin.heads[path][0], "range") == "bytes=0-3"
    assert (usual.ask(path).body, usual.origin.asked(path)) == (b"0123456789", 2)


def test_a_range_of_a_stale_answer_that_is_still_good(usual):
    path = usual.path()
    usual.origin.replies[path] = [
        usual.reply(200, ["Cache-Control: max-age=1", 'ETag: "a"'], b"0123456789"), usual.reply(304, FRESH, b""),
    ]  # fmt: skip
    usual.ask(path)
    usual.clock.passed += 2
    assert usual.ask(path, "Range: bytes=2-3\r\n").body == b"23"
    assert sent(usual.origin.heads[path][1], "range") is None


# Invalidation


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "M-SEARCH"])
def test_what_an_unsafe_request_changes_is_fetched_anew(usual, method):
    usual.play([S(FRESH), S([], method=method), S(FRESH)])


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_a_failed_request_changes_nothing(usual, status):
    usual.play([S(FRESH), S([], method="POST", status=status), S([], "stored", of=0)])


def test_safe_methods_change_nothing(usual):
    usual.play([S(FRESH), S([], method="OPTIONS"), S([], "stored", of=0)])


@pytest.mark.parametrize("field", ["Location", "Content-Location"])
@pytest.mark.parametrize(("form", "gone"), [("{}", True), ("http://test{}", True), ("http://other{}", False)])
def test_other_urls_of_the_same_origin(usual, field, form, gone):
    path, other = usual.path(), usual.path()
    usual.origin.replies[path] = [usual.reply(201, [f"{field}: {form.format(other)}"], b"x")]
    usual.origin.replies[other] = [usual.reply(200, FRESH, b"x")]
    usual.ask(other)
    usual.ask(path, method="POST")
    usual.ask(other)
    assert usual.origin.asked(other) == 1 + gone


def test_what_was_asked_for_before_a_change_is_not_stored_after_it(usual):
    path = usual.path()
    gate = Gate(usual.reply(200, FRESH, b"old"))
    usual.origin.replies[path] = [gate, usual.reply(200, [], b"done"), usual.reply(200, FRESH, b"new")]
    with ThreadPoolExecutor() as pool:
        first = pool.submit(usual.ask, path)
        assert gate.asked.wait(TIMEOUT)
        usual.ask(path, method="POST")
        gate.go.set()
        assert first.result().body == b"old"
    assert usual.ask(path).body == b"new"
