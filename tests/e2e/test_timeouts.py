"""How long a target may take: to connect, to answer, between two pieces of an answer, and all in all."""

import contextlib
import queue
import threading

import pytest

from tests.kit.answers import keep_silent, plan, reply, why
from tests.kit.inside import NOTHING, Finished, at_rest, until
from tests.kit.inside import service as service_of
from tests.kit.inside import target as inner
from tests.kit.wire import OK, TIMEOUT, RawSocket, get, request

NO_RETRY = "retry: {attempts: 0}\n"
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def seconds(running):
    return running.access_log()[-1]["duration_ms"] / 1000


def test_response_bounds_the_wait_for_the_head(proxy, target):
    running = proxy(target(plan(keep_silent)), NO_RETRY + "timeouts: {response: 200ms}")
    assert why(get(running.port)) == (504, "response_timeout")
    assert 0.2 <= seconds(running) < 1
    assert get(running.port).status == 200
    assert at_rest(running) == NOTHING


def test_an_interim_answer_is_not_the_answer(proxy, target):
    def hint(session):
        session.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        keep_silent(session)

    running = proxy(target(plan(hint)), NO_RETRY + "timeouts: {response: 200ms}")
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        assert client.read_answer().status == 103
        assert why(client.read_answer()) == (504, "response_timeout")


def test_idle_bounds_the_pauses_within_an_answer(proxy, target):
    def stall(session):
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        keep_silent(session)

    running = proxy(target(plan(stall)), NO_RETRY + "timeouts: {idle: 200ms}")
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        with pytest.raises(EOFError):
            client.read_answer()
    assert running.access_log()[-1]["reason"] == "idle_timeout"
    assert at_rest(running) == NOTHING


def test_idle_begins_anew_with_each_piece(proxy, target):
    acks = queue.SimpleQueue()

    def slowly(session):
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        for _ in range(4):
            acks.get(timeout=TIMEOUT)
            session.send(b"x")

    running = proxy(target(plan(slowly)), NO_RETRY + "timeouts: {idle: 300ms, response: 300ms, total: 300ms}")
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        client.read_until(b"\r\n\r\n")
        clock = running.gateway._clock
        for _ in range(4):  # 4 times 200 ms: past each of the three, and never idle for as long as one
            begun = clock.now()
            until(running, lambda begun=begun: clock.now() - begun > 0.2)
            acks.put(None)
            assert client.read_exactly(1) == b"x"


def test_a_client_that_reads_slowly_does_not_make_the_target_idle(proxy, target):
    size = 20_000_000
    upstream = target(plan(reply(200, b"x" * size)))
    running = proxy(upstream, NO_RETRY + "timeouts: {idle: 100ms}")
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        client.read_until(b"\r\n\r\n")
        until(running, lambda: any(not session._reading for session in busy_connections(running)))
        clock, begun = running.gateway._clock, running.gateway._clock.now()
        until(running, lambda: clock.now() - begun > 0.3)
        assert len(client.read_exactly(size)) == size


def busy_connections(running):
    exchanges = [connection._exchange for connection in running.listeners[0].connections]
    return [exchange.response.content._source for exchange in exchanges if exchange and exchange.response]


@pytest.mark.parametrize("framing", [b"Content-Length: 6\r\n\r\n%b", b"Transfer-Encoding: chunked\r\n\r\n3\r\n%b\r\n"])
def test_a_client_that_sends_slowly_is_not_the_targets_fault(proxy, target, framing):
    """The target's time runs from the last byte of the request on; before, the client has its own limit."""
    running = proxy(target(), NO_RETRY + "timeouts: {response: 100ms}")
    rest = b"def" if b"Length" in framing else b"3\r\ndef\r\n0\r\n\r\n"
    with RawSocket.connect(running.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\n" + framing % b"abc")
        clock, begun = running.gateway._clock, running.gateway._clock.now()
        until(running, lambda: clock.now() - begun > 0.35)
        client.send(rest)
        assert client.read_answer().status == 200


def test_a_target_that_does_not_read_is_its_own_fault(proxy, target):
    stop = threading.Event()

    def deaf(session):
        session.read_head()
        stop.wait(TIMEOUT)

    running = proxy(target(deaf), NO_RETRY + "timeouts: {response: 200ms}")
    with RawSocket.connect(running.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9000000\r\n\r\n")
        sender = threading.Thread(target=lambda: swallow(client, b"x" * 9_000_000), daemon=True)
        sender.start()
        assert why(client.read_answer()) == (504, "response_timeout")
    stop.set()
    sender.join(TIMEOUT)
    assert at_rest(running) == NOTHING


def swallow(client, data):
    with contextlib.suppress(OSError):
        client.sock.sendall(data)


def test_the_target_has_its_full_time_from_the_last_byte_of_the_request(proxy, target):
    running = proxy(target(plan(keep_silent)), NO_RETRY + "timeouts: {response: 200ms}")
    with RawSocket.connect(running.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        until(running, lambda: inner(running).pool.size == 1)
        client.send(b"0\r\n\r\n")
        assert why(client.read_answer()) == (504, "response_timeout")


def test_total_covers_all_tries(proxy, target):
    upstream = target(plan(then=keep_silent))
    policy = "retry: {attempts: 10, on: [timeout], backoff: {base: 1ms, max: 1ms}}\nbreaker: false\n"
    running = proxy(upstream, policy + "timeouts: {response: 150ms, total: 400ms}")
    assert why(get(running.port)) == (504, "total_timeout")
    assert 0.4 <= seconds(running) < 1
    assert 2 <= running.access_log()[-1]["attempts"] <= 4
    assert at_rest(running) == NOTHING


def test_total_ends_with_the_head_of_the_answer(proxy, target):
    go = threading.Event()

    def long_answer(session):
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        assert go.wait(TIMEOUT)
        session.send(b"k")

    running = proxy(target(plan(long_answer)), NO_RETRY + "timeouts: {total: 100ms}")
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        client.read_until(b"\r\n\r\no")
        clock, begun = running.gateway._clock, running.gateway._clock.now()
        until(running, lambda: clock.now() - begun > 0.25)
        go.set()
        assert client.read_exactly(1) == b"k"


def test_0_waits_for_ever(proxy, target):
    running = proxy(target(plan(keep_silent)), NO_RETRY + "timeouts: {response: 0, idle: 0, total: 0}")
    finished = Finished(running)
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        until(running, lambda: inner(running).pool.size == 1)
        found = service_of(running).timeouts
        assert (found.response, found.idle, found.total) == (float("inf"),) * 3
    assert finished.next().reason == "client_gone"
    assert at_rest(running) == NOTHING


@pytest.mark.parametrize(
    ("sent", "came"),
    [
        (GET, b""),
        (b"PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nhalf", b""),
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
    ],
    ids=["before the head", "within the request's body", "within the answer's body"],
)
def test_a_client_that_goes_cancels_its_attempt_in_any_phase(proxy, target, sent, came):
    here, ended = threading.Event(), threading.Event()

    def script(session):
        session.read_head()
        if came:
            session.send(came)
        here.set()
        while session.fill():
            pass
        ended.set()

    running = proxy(target(script))
    finished = Finished(running)
    with RawSocket.connect(running.port) as client:
        client.send(sent)
        assert here.wait(TIMEOUT)
        if came:
            client.read_until(b"half")
    exchange = finished.next()
    assert exchange.reason == "client_gone"
    assert ended.wait(TIMEOUT)
    assert at_rest(running) == NOTHING
    assert running.access_log()[-1]["status"] == (200 if came else 499)
    assert running.call(lambda: inner(running).consecutive_failures) == 0


def test_no_timeout_is_left_behind_by_a_request_that_is_over(proxy, target):
    running = proxy(target(plan(OK)), NO_RETRY + "timeouts: {response: 100ms}\npool: {idle_timeout: 60s}")
    with RawSocket.connect(running.port) as client:
        for _ in range(2):
            client.send(GET)
            assert client.read_answer().status == 200
            begun = running.gateway._clock.now()
            until(running, lambda begun=begun: running.gateway._clock.now() - begun > 0.25)
    assert inner(running).pool.size == 1
    assert request(running.port, GET).status == 200
