"""The cache where time and order matter: revalidation beside requests, collapse, streams."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kit.answers import hang_up
from tests.kit.caching import FRESH, LATE, WHO, Gate, Step, sent, told
from tests.kit.inside import NOTHING, at_rest
from tests.kit.wire import TIMEOUT, RawSocket

S = Step


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
    it.clock.passed += 10
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
    it.clock.passed += 10
    it.ask(path)
    assert at_rest(it.running) == NOTHING
    it.clock.passed += 30
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
    it.clock.passed += 10
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
    it.clock.passed += 10
    answer = it.ask(path)
    assert (answer.status, answer.body) == (200, b"old")
    assert told(answer) == "gatewright; fwd=stale; detail=stale-if-error"
    it.clock.passed += 60
    assert it.ask(path).status == 502


@pytest.mark.parametrize("directive", ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=2"])
def test_what_may_never_be_stale_is_not(bench, directive):
    it = bench("{stale_if_error: 60s, stale_while_revalidate: 60s}")
    path = it.path()
    it.origin.replies[path] = [it.reply(200, [f"Cache-Control: max-age=2, {directive}", 'ETag: "a"'], b"old"), hang_up]
    it.ask(path)
    it.clock.passed += 10
    assert it.ask(path).status == 502


def test_a_304_about_something_else_is_not_believed(usual):
    path = usual.path()
    usual.origin.replies[path] = [
        usual.reply(200, ["Cache-Control: max-age=2", 'ETag: "a"'], b"old"), usual.reply(304, ['ETag: "b"'], b""),
        usual.reply(200, [*FRESH, 'ETag: "b"'], b"new"),
    ]  # fmt: skip
    usual.ask(path)
    usual.clock.passed += 3
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
