"""Connections to targets: kept, bounded, retired, and never trusted further than they deserve."""

import json
import queue
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kit.answers import full_port
from tests.kit.inside import NOTHING, Finished, at_rest, until
from tests.kit.inside import target as inner
from tests.kit.wire import OK, TIMEOUT, RawSocket, TargetSession, answer_all, get, request

NO_RETRY = "retry: {attempts: 0}\n"
POST = b"POST /p HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\ndata"
PUT = POST.replace(b"POST", b"PUT")


def reason(answer):
    return json.loads(answer.body)["reason"]


class Gate:
    """A script that holds each request until it is told to answer. `arrived` gets a session for each request."""

    def __init__(self):
        self.arrived = queue.SimpleQueue()
        self.open = threading.Semaphore(0)

    def __call__(self, session):
        while True:
            session.read_request()
            self.arrived.put(session)
            assert self.open.acquire(timeout=TIMEOUT)
            session.send(OK)


@pytest.fixture
def parallel():
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def pool_of(running):
    return inner(running).pool


def test_a_connection_serves_one_request_after_the_other(proxy, target):
    upstream = target()
    running = proxy(upstream)
    assert [get(running.port).status for _ in range(5)] == [200] * 5
    assert len(upstream.sessions) == 1
    assert pool_of(running).size == 1


def test_requests_at_the_same_time_get_connections_of_their_own_and_max_idle_of_them_stay(proxy, target, parallel):
    gate = Gate()
    upstream = target(gate)
    running = proxy(upstream, "pool: {max_idle: 1}")
    answers = [parallel(get, running.port) for _ in range(3)]
    for _ in range(3):
        gate.arrived.get(timeout=TIMEOUT)
    assert pool_of(running).size == 3
    gate.open.release(3)
    assert [answer.result().status for answer in answers] == [200] * 3
    assert until(running, lambda: (pool_of(running).size, pool_of(running).idle) == (1, 1))


def test_an_idle_connection_is_closed_when_its_time_is_up(proxy, target):
    ended = threading.Event()

    def script(session: TargetSession) -> None:
        session.read_request()
        session.send(OK)
        if session.read_to_end() == b"":
            ended.set()

    running = proxy(target(script), "pool: {idle_timeout: 100ms}")
    assert get(running.port).status == 200
    assert ended.wait(TIMEOUT)
    assert until(running, lambda: pool_of(running).size == 0)


def test_an_old_connection_is_not_used_again(proxy, target):
    upstream = target()
    running = proxy(upstream, "pool: {max_age: 60s}")
    get(running.port)

    def age(seconds):
        for connection in pool_of(running)._idle:
            connection.born -= seconds

    running.call(age, 50)
    get(running.port)
    assert len(upstream.sessions) == 1
    running.call(age, 11)
    assert get(running.port).status == 200
    assert len(upstream.sessions) == 2
    assert pool_of(running).size == 1


def test_past_max_connections_requests_queue_and_are_served_in_turn(proxy, target, parallel):
    gate = Gate()
    upstream = target(gate)
    running = proxy(upstream, "pool: {max_connections: 1}")
    first = parallel(get, running.port, "/1")
    gate.arrived.get(timeout=TIMEOUT)
    others = []
    for number in (2, 3):
        others.append(parallel(get, running.port, f"/{number}"))
        until(running, lambda count=number - 1: len(pool_of(running)._waiting) == count)
    gate.open.release(3)
    assert [answer.result().status for answer in (first, *others)] == [200] * 3
    paths = [line.split(b" ")[1] for line in upstream.received.split(b"\r\n") if line.startswith(b"GET")]
    assert paths == [b"/1", b"/2", b"/3"]
    assert len(upstream.sessions) == 1


def test_a_queued_request_gives_up_after_the_connect_timeout(proxy, target, parallel):
    gate = Gate()
    running = proxy(target(gate), NO_RETRY + "pool: {max_connections: 1}\ntimeouts: {connect: 100ms}")
    first = parallel(get, running.port)
    gate.arrived.get(timeout=TIMEOUT)
    refused = get(running.port)
    assert (refused.status, reason(refused), refused.get("retry-after")) == (503, "pool_exhausted", "1")
    assert running.call(lambda: inner(running).consecutive_failures) == 0, (
        "a bound of ours is no failure of the target's"
    )
    gate.open.release()
    assert first.result().status == 200
    assert at_rest(running) == NOTHING


@pytest.mark.parametrize(
    "body", [b"2\r\nok\r\n0\r\n\r\n", b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"], ids=["plain", "trailers"]
)
def test_a_chunked_answer_hands_its_connection_to_who_waits(proxy, target, parallel, body):
    """The whole answer in one segment: its end hands the connection on before its head has been told."""
    gate = Gate()

    def script(session: TargetSession) -> None:
        while True:
            session.read_request()
            gate.arrived.put(session)
            assert gate.open.acquire(timeout=TIMEOUT)
            session.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

    running = proxy(target(script), NO_RETRY + "pool: {max_connections: 1}\ntimeouts: {response: 5s}")
    first = parallel(get, running.port)
    gate.arrived.get(timeout=TIMEOUT)
    second = parallel(get, running.port)
    until(running, lambda: len(pool_of(running)._waiting) == 1)
    gate.open.release(2)
    assert [(answer.result().status, answer.result().body) for answer in (first, second)] == [(200, b"ok")] * 2
    assert at_rest(running) == NOTHING


def test_a_large_chunked_answer_leaves_its_connection_reading(proxy, target):
    body = b"x" * 100_000  # more than a pipe holds, and it may come in one piece
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n" + body + b"\r\n0\r\n\r\n"
    upstream = target(answer_all(reply))
    running = proxy(upstream, NO_RETRY + "timeouts: {response: 2s}")
    for _ in range(4):
        assert get(running.port).body == body
    assert len(upstream.sessions) == 1


def test_a_slow_reader_leaves_the_connection_to_the_target_reading(proxy, target):
    size = 8_000_000
    upstream = target(answer_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size))
    running = proxy(upstream, NO_RETRY + "timeouts: {response: 2s}")
    with RawSocket.connect(running.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        client.read_until(b"\r\n\r\n")
        until(running, lambda: any(not connection._reading for connection in target_connections(running)))
        client.read_exactly(size)
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert len(client.read_answer().body) == size
    assert len(upstream.sessions) == 1


def target_connections(running):
    found = [connection._exchange for listener in running.listeners for connection in listener.connections]
    return [exchange.response.content._source for exchange in found if exchange is not None and exchange.response]


def test_a_connection_that_its_target_closes_while_idle_is_forgotten_at_once(proxy, target):
    def script(session: TargetSession) -> None:
        session.read_request()
        session.send(OK)

    upstream = target(script)
    running = proxy(upstream, NO_RETRY)
    for count in (1, 2):
        assert get(running.port).status == 200
        assert until(running, lambda: pool_of(running).size == 0)
        assert len(upstream.sessions) == count
    assert [line["attempts"] for line in running.access_log()] == [1, 1]


def once_then_hang_up(session: TargetSession) -> None:
    """Answer one request; take the next and close: what a target looks like that closed while it was idle."""
    session.read_request()
    session.send(OK)
    session.read_request()


def stale(sessions_that_hang_up):
    count = 0

    def script(session: TargetSession) -> None:
        nonlocal count
        count += 1
        (once_then_hang_up if count <= sessions_that_hang_up else answer_all())(session)

    return script


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", PUT], ids=["GET", "PUT"])
def test_an_idempotent_request_on_a_stale_connection_is_replayed_on_a_new_one(proxy, target, data):
    upstream = target(stale(1))
    running = proxy(upstream, NO_RETRY)
    get(running.port)
    assert request(running.port, data).body == b"ok"
    assert running.access_log()[-1]["attempts"] == 2
    method = data.split(b" ")[0]
    assert [session.received.count(method + b" ") for session in upstream.sessions] == [1 + (method == b"GET"), 1]
    if method == b"PUT":
        assert all(session.received.endswith(b"data") for session in upstream.sessions)
    assert running.call(lambda: inner(running).consecutive_failures) == 0
    assert at_rest(running) == NOTHING


def test_a_post_on_a_stale_connection_is_sent_once_and_refused(proxy, target):
    upstream = target(stale(1))
    running = proxy(upstream)
    get(running.port)
    answer = request(running.port, POST)
    assert (answer.status, reason(answer)) == (502, "upstream_reset")
    assert upstream.received.count(b"POST /p") == 1
    assert at_rest(running) == NOTHING


def test_a_replay_takes_no_second_stale_connection(proxy, target, parallel):
    gate = threading.Barrier(2)

    def script(session: TargetSession) -> None:
        session.read_request()
        if len(upstream.sessions) <= 2 and session in upstream.sessions[:2]:
            gate.wait(TIMEOUT)
            session.send(OK)
            session.read_request()
        else:
            session.send(OK)

    upstream = target(script)
    running = proxy(upstream, NO_RETRY)
    for answer in [parallel(get, running.port), parallel(get, running.port)]:
        assert answer.result().status == 200
    until(running, lambda: pool_of(running).idle == 2)
    assert get(running.port).status == 200
    assert len(upstream.sessions) == 3


def test_bytes_on_an_idle_connection_close_it_and_reach_nobody(proxy, target):
    sessions = queue.SimpleQueue()

    def script(session: TargetSession) -> None:
        session.read_request()
        session.send(OK)
        sessions.put(session)
        session.read_to_end()

    upstream = target(script)
    running = proxy(upstream, NO_RETRY)
    get(running.port)
    sessions.get(timeout=TIMEOUT).send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    assert until(running, lambda: pool_of(running).size == 0)
    assert get(running.port).body == b"ok"
    assert len(upstream.sessions) == 2


def test_bytes_behind_an_answer_reach_nobody(proxy, target):
    upstream = target(answer_all(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"))
    running = proxy(upstream, NO_RETRY)
    assert [get(running.port).body for _ in range(3)] == [b"ok"] * 3
    assert len(upstream.sessions) == 3


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", POST], ids=["GET", "POST"])
def test_a_refused_connection_is_tried_again_for_any_method_and_then_told(gateway, data):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    running = one(gateway, f"http://127.0.0.1:{port}")
    answer = request(running.port, data)
    assert (answer.status, reason(answer)) == (502, "connect_failed")
    assert str(port) not in answer.body.decode(), "addresses of targets are for the log"
    line = running.access_log()[0]
    assert (line["attempts"], line["upstream_addr"]) == (2, f"127.0.0.1:{port}")
    assert at_rest(running) == NOTHING


def test_requests_that_queue_behind_a_refused_connection_are_told_as_fast(gateway, parallel):
    """Each has a connection tried for it in its turn; none waits for one that nobody opens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    running = one(
        gateway, f"http://127.0.0.1:{port}", NO_RETRY + "    pool: {max_connections: 1}\n    timeouts: {connect: 30s}"
    )
    answers = [parallel(get, running.port) for _ in range(8)]
    assert {reason(answer.result(TIMEOUT)) for answer in answers} == {"connect_failed"}
    assert at_rest(running) == NOTHING


def one(gateway, url, service=""):
    return gateway(
        f'services:\n  s:\n    targets: ["{url}"]\n    {service.lstrip()}\n'
        "routes: [{name: all, match: {path: '/{rest...}'}, service: s}]\n"
    )


@pytest.fixture
def full_backlog(stack):
    return stack.enter_context(full_port())


def test_a_target_that_takes_no_connection_gives_a_connect_timeout(gateway, full_backlog):
    running = one(gateway, f"http://127.0.0.1:{full_backlog}", NO_RETRY + "    timeouts: {connect: 100ms}")
    answer = get(running.port)
    assert (answer.status, reason(answer)) == (504, "connect_timeout")
    assert at_rest(running) == NOTHING


def test_a_connect_that_hangs_is_no_exhausted_pool(gateway, full_backlog, parallel):
    service = NO_RETRY + "    timeouts: {connect: 100ms}\n    pool: {max_connections: 1}"
    running = one(gateway, f"http://127.0.0.1:{full_backlog}", service)
    answers = [parallel(get, running.port) for _ in range(2)]
    assert {reason(answer.result()) for answer in answers} == {"connect_timeout"}


def test_a_client_that_goes_while_it_waits_for_a_connection_leaves_nothing(gateway, full_backlog):
    running = one(gateway, f"http://127.0.0.1:{full_backlog}", NO_RETRY)
    finished = Finished(running)
    with RawSocket.connect(running.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        until(running, lambda: len(pool_of(running)._waiting) == 1)
    assert finished.next().reason == "client_gone"
    assert at_rest(running) == NOTHING


def test_a_name_that_is_not_known_gives_dns_failed(gateway):
    running = one(gateway, "http://no-such-host.invalid:80", NO_RETRY)
    answer = get(running.port)
    assert (answer.status, reason(answer)) == (502, "dns_failed")
    assert "no-such-host" not in answer.body.decode()
