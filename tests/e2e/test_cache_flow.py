"""The cache where time and order matter: streams, collapse, revalidation beside requests, invalidation, limits, purges."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from gatewright.plugins.cache.plugin import PURGES
from tests.kit.answers import hang_up
from tests.kit.caching import WHO, Bench, Step, sent
from tests.kit.inside import NOTHING, at_rest
from tests.kit.wire import TIMEOUT, RawSocket, request

LATE = "{use: './mine.py:Late'}"
FRESH = ["Cache-Control: max-age=60"]
S = Step


@pytest.fixture
def bench(tmp_path):
    with ExitStack() as stack:

        def start(settings="{}", **options):
            return Bench(settings, stack, tmp_path, **options)

        yield start


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    with ExitStack() as stack:
        yield Bench("{}", stack, tmp_path_factory.mktemp("gateway"))


def told(answer):
    return answer.get("cache-status")


class Gate:
    """A reply that is held back until it is let go."""

    def __init__(self, *pieces):
        self.pieces = pieces
        self.asked = threading.Event()
        self.go = threading.Event()

    def __call__(self, session):
        self.asked.set()
        for piece in self.pieces:
            assert self.go.wait(TIMEOUT)
            session.send(piece)


# What clients are told


def test_cache_status_says_what_was_done(usual):
    path = usual.path()
    usual.origin.replies[path] = [
        usual.reply(200, ["Cache-Control: max-age=60", 'ETag: "a"'], b"x"),
        usual.reply(304, [], b""),
    ]
    assert told(usual.ask(path)) == "gatewright; fwd=uri-miss; fwd-status=200; stored"
    usual.services.clock.passed += 10
    answer = usual.ask(path)
    assert (told(answer), answer.get("age")) == ("gatewright; hit; ttl=50", "10")
    assert told(usual.ask(path, "Cache-Control: max-age=5\r\n")) == "gatewright; fwd=request; fwd-status=304; stored"
    usual.services.clock.passed += 61
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
    date = usual.services.clock.date(-5)
    usual.origin.replies[path] = [usual.reply(200, [*FRESH, f"Date: {date}", "Age: 3"], b"x")]
    assert usual.ask(path).all("age") == ["3"]
    usual.services.clock.passed += 7
    answer = usual.ask(path)
    assert (answer.all("age"), answer.all("date")) == (["12"], [date])


def test_an_answer_without_a_date_gets_that_of_its_arrival(usual):
    path = usual.path()
    usual.origin.replies[path] = [usual.reply(200, FRESH, b"x")]
    usual.ask(path)
    date = usual.services.clock.date()
    usual.services.clock.passed += 7
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
    it.services.clock.passed += 9
    it.ask(path)
    it.services.clock.passed += 9
    it.ask(path)
    it.ask(path, 'If-Match: "a"\r\n')
    it.ask(path, method="POST")
    results = {
        labels[0][1]: count for (name, *labels), count in it.services.counted.items() if name == "cache_requests"
    }
    assert results == {"miss": 1, "hit": 1, "validated": 1, "stale": 1, "pass": 1}


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
    usual.services.clock.passed += 2
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


# Stale, for a while


def test_a_stale_answer_while_a_new_one_is_fetched(bench):
    it = bench(behind=LATE)
    path = it.path()
    gate = Gate(it.reply(200, FRESH, b"new"))
    it.origin.replies[path] = [
        it.reply(200, ["Cache-Control: max-age=2, stale-while-revalidate=60", 'ETag: "a"'], b"old"),
        gate,
    ]
    it.ask(path)
    it.services.clock.passed += 10
    answer = it.ask(path)
    assert (answer.body, told(answer), answer.get("age")) == (b"old", "gatewright; hit; ttl=-8", "10")
    assert gate.asked.wait(TIMEOUT)
    assert it.ask(path).body == b"old"
    gate.go.set()
    assert at_rest(it.running) == NOTHING
    assert it.ask(path).body == b"new"
    assert it.origin.asked(path) == 2
    head = it.origin.heads[path][1]
    assert (sent(head, "if-none-match"), sent(head, "x-late"), sent(head, "host")) == ('"a"', "yes", "test")


def test_a_304_beside_the_requests_freshens(bench):
    it = bench("{stale_while_revalidate: 60s}")
    path = it.path()
    it.origin.replies[path] = [
        it.reply(200, ["Cache-Control: max-age=2", 'ETag: "a"'], b"old"),
        it.reply(304, FRESH, b""),
    ]
    it.ask(path)
    it.services.clock.passed += 10
    it.ask(path)
    assert at_rest(it.running) == NOTHING
    it.services.clock.passed += 30
    assert told(it.ask(path)) == "gatewright; hit; ttl=30"


def test_a_failure_beside_the_requests_changes_nothing(bench):
    it = bench("{stale_while_revalidate: 60s}")
    path = it.path()
    it.origin.replies[path] = [
        it.reply(200, ["Cache-Control: max-age=2"], b"old"),
        hang_up,  # a connection that was used before: the gateway sends it once more
        hang_up,
        it.reply(500, [], b"no"),
        it.reply(200, FRESH, b"new"),
    ]
    it.ask(path)
    it.services.clock.passed += 10
    for _ in range(3):
        assert it.ask(path).body == b"old"
        assert at_rest(it.running) == NOTHING
    assert (it.ask(path).body, it.origin.asked(path)) == (b"new", 5)


@pytest.mark.parametrize("settings", ["{}", "{stale_if_error: 60s}"])
def test_better_stale_than_nothing(bench, settings):
    it = bench(settings)
    path = it.path()
    directive = "" if "stale" in settings else ", stale-if-error=60"
    it.origin.replies[path] = [it.reply(200, [f"Cache-Control: max-age=2{directive}"], b"old"), hang_up]
    it.ask(path)
    it.services.clock.passed += 10
    answer = it.ask(path)
    assert (answer.status, answer.body) == (200, b"old")
    assert told(answer) == "gatewright; fwd=stale; detail=stale-if-error"
    it.services.clock.passed += 60
    assert it.ask(path).status == 502


@pytest.mark.parametrize("directive", ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=2"])
def test_what_may_never_be_stale_is_not(bench, directive):
    it = bench("{stale_if_error: 60s, stale_while_revalidate: 60s}")
    path = it.path()
    it.origin.replies[path] = [it.reply(200, [f"Cache-Control: max-age=2, {directive}", 'ETag: "a"'], b"old"), hang_up]
    it.ask(path)
    it.services.clock.passed += 10
    assert it.ask(path).status == 502


def test_a_304_about_something_else_is_not_believed(usual):
    path = usual.path()
    usual.origin.replies[path] = [
        usual.reply(200, ["Cache-Control: max-age=2", 'ETag: "a"'], b"old"), usual.reply(304, ['ETag: "b"'], b""),
        usual.reply(200, [*FRESH, 'ETag: "b"'], b"new"),
    ]  # fmt: skip
    usual.ask(path)
    usual.services.clock.passed += 3
    assert (usual.ask(path).body, usual.ask(path).body, usual.origin.asked(path)) == (b"new", b"new", 3)


# Many at once


def crowd(it, path, number=10, head=""):
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(lambda each: it.ask(path, head.format(each)), range(number)))


def test_many_misses_are_one_request(bench):
    it = bench()
    path = it.path()
    gate = Gate(it.reply(200, FRESH, b"x"))
    it.origin.replies[path] = [gate]
    threading.Thread(target=lambda: gate.asked.wait(TIMEOUT) and until_waiting(it, 9) and gate.go.set()).start()
    answers = crowd(it, path)
    assert {answer.body for answer in answers} == {b"x"}
    assert it.origin.asked(path) == 1
    status = sorted(told(answer) for answer in answers)
    assert status == ["gatewright; fwd=uri-miss; collapsed"] * 9 + ["gatewright; fwd=uri-miss; fwd-status=200; stored"]


def until_waiting(it, number):
    """Wait until so many requests wait for another's fetch."""

    def waiting():
        return sum(len(fetch._waiters) for fetch in it.store._leading.values())

    while it.running.call(waiting) < number:
        pass
    return True


def test_nobody_gets_what_is_another_s(bench):
    it = bench(before=WHO)
    path = it.path()
    gate = Gate(it.reply(200, FRESH, b"for the first"))
    it.origin.replies[path] = [gate, it.reply(200, ["Cache-Control: private"], b"own")]
    threading.Thread(target=lambda: gate.asked.wait(TIMEOUT) and until_waiting(it, 5) and gate.go.set()).start()
    answers = crowd(it, path, 6, "X-Key: u{}\r\n")
    assert sorted(answer.body for answer in answers) == [b"for the first"] + [b"own"] * 5
    assert it.origin.asked(path) == 6
    assert len(it.store) == 0


def test_after_a_private_answer_nobody_waits_for_a_while(bench):
    it = bench()
    path = it.path()
    gate = Gate(it.reply(200, FRESH, b"second"))
    it.origin.replies[path] = [
        it.reply(200, ["Cache-Control: private"], b"first"),
        gate,
        it.reply(200, FRESH, b"third"),
    ]
    it.ask(path)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(it.ask, path)
        assert gate.asked.wait(TIMEOUT)
        assert it.ask(path).body == b"third"
        gate.go.set()
        assert second.result().body == b"second"


def test_when_the_first_fails_the_next_goes(bench):
    it = bench()
    path = it.path()
    first, second = threading.Event(), threading.Event()

    def fail(session):
        first.set()
        assert second.wait(TIMEOUT)
        raise EOFError

    it.origin.replies[path] = [fail, it.reply(200, FRESH, b"x")]
    threading.Thread(target=lambda: first.wait(TIMEOUT) and until_waiting(it, 5) and second.set()).start()
    answers = crowd(it, path, 6)
    assert sorted(answer.status for answer in answers) == [200] * 5 + [502]
    assert it.origin.asked(path) == 2


def test_nobody_waits_for_ever(bench):
    it = bench("{collapse: 50ms}")
    path = it.path()
    gate = Gate(it.reply(200, FRESH, b"slow"))
    it.origin.replies[path] = [gate, it.reply(200, FRESH, b"quick")]
    with ThreadPoolExecutor() as pool:
        first = pool.submit(it.ask, path)
        assert gate.asked.wait(TIMEOUT)
        assert it.ask(path).body == b"quick"
        gate.go.set()
        assert first.result().body == b"slow"


def test_when_the_first_client_goes_the_next_goes_on(bench):
    it = bench()
    path = it.path()
    gate = Gate(it.reply(200, FRESH, b"never"))
    it.origin.replies[path] = [gate, it.reply(200, FRESH, b"x")]
    with RawSocket.connect(it.port) as client, ThreadPoolExecutor() as pool:
        client.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        assert gate.asked.wait(TIMEOUT)
        other = pool.submit(it.ask, path)
        until_waiting(it, 1)
        client.reset()
        assert other.result().body == b"x"
    gate.go.set()


# Streams


def stream(it, path, *pieces, fields=FRESH):
    it.origin.replies[path] = [b"".join([it.reply(200, [*fields, "Transfer-Encoding: chunked"], b""), *pieces])]


def test_a_stream_is_stored_when_it_is_complete(usual):
    path = usual.path()
    stream(usual, path, b"3\r\nabc\r\n", b"3\r\ndef\r\n", b"0\r\nX: trailer\r\n\r\n")
    assert usual.ask(path).body == b"abcdef"
    answer = usual.ask(path)
    assert (answer.body, answer.get("content-length"), answer.trailers) == (b"abcdef", "6", [])
    assert usual.origin.asked(path) == 1


@pytest.mark.parametrize("fields", [["Transfer-Encoding: chunked"], ["Content-Length: 100"]])
def test_what_breaks_off_is_never_stored(usual, fields):
    path = usual.path()

    def break_off(session):
        session.send(usual.reply(200, [*FRESH, *fields], b"") + b"3\r\nabc\r\n")
        raise EOFError

    usual.origin.replies[path] = [break_off, usual.reply(200, FRESH, b"whole")]
    with pytest.raises(EOFError):
        usual.ask(path)
    assert usual.ask(path).body == b"whole"


def test_what_ends_with_its_connection_is_not_stored(usual):
    path = usual.path()

    def until_close(session):
        session.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n\r\nabc")
        raise EOFError

    usual.origin.replies[path] = [until_close]
    assert [usual.ask(path).body, usual.ask(path).body, usual.origin.asked(path)] == [b"abc", b"abc", 2]


def test_what_the_client_breaks_off_is_not_stored(usual):
    path = usual.path()
    gate = Gate(b"3\r\nabc\r\n0\r\n\r\n")

    def begin(session):
        session.send(usual.reply(200, [*FRESH, "Transfer-Encoding: chunked"], b"") + b"3\r\nabc\r\n")
        gate(session)

    usual.origin.replies[path] = [begin, usual.reply(200, FRESH, b"whole")]
    with RawSocket.connect(usual.port) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        client.read_until(b"abc")
    assert at_rest(usual.running) == NOTHING
    assert usual.running.call(lambda: (usual.store._leading, usual.store._fetches)) == ({}, {})
    gate.go.set()
    assert usual.ask(path).body == b"whole"


def test_what_is_too_large_goes_by(bench):
    it = bench("{max_entry: 10}")
    path = it.path()
    it.origin.replies[path] = [it.reply(200, FRESH, b"abcdef" * 2)]
    assert [it.ask(path).body, it.ask(path).body, it.origin.asked(path)] == [b"abcdef" * 2] * 2 + [2]
    assert it.running.call(lambda: (len(it.store), it.store._fetches, it.store._leading)) == (0, {}, {})


def test_what_turns_out_too_large_goes_by(bench):
    it = bench("{max_entry: 10}")
    path = it.path()
    gate = Gate(b"6\r\nghijkl\r\n0\r\n\r\n")

    def begin(session):
        session.send(it.reply(200, [*FRESH, "Transfer-Encoding: chunked"], b"") + b"6\r\nabcdef\r\n")
        gate(session)

    it.origin.replies[path] = [begin]
    with RawSocket.connect(it.port) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        client.read_until(b"abcdef\r\n")
        gate.go.set()
        client.read_until(b"0\r\n\r\n")
    assert it.ask(path).body == b"abcdefghijkl"
    assert it.origin.asked(path) == 2
    assert it.running.call(lambda: (len(it.store), it.store._fetches, it.store._leading)) == (0, {}, {})


def test_events_go_by_one_by_one(usual):
    path = usual.path()
    gate = Gate(b"5\r\ndata:\r\n", b"0\r\n\r\n")
    fields = [*FRESH, "Content-Type: text/event-stream", "Transfer-Encoding: chunked"]

    def begin(session):
        session.send(usual.reply(200, fields, b"") + b"2\r\n: \r\n")
        gate(session)

    usual.origin.replies[path] = [begin]
    with RawSocket.connect(usual.port) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        client.read_until(b"2\r\n: \r\n")
        gate.go.set()
        client.read_until(b"0\r\n\r\n")
    assert usual.running.call(usual.store.purge, "url", f"http://test{path}") == 0


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
    it.services.clock.passed += 3
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
    it.running.call(it.services.publish, PURGES, [kind, value])
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
        it.running.call(it.services.publish, PURGES, ["tag", "red"])
        gate.go.set()
        first.result()
    assert it.ask(path).body == b"new"
