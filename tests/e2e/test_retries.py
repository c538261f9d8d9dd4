"""What is tried again, what never is, and that nothing is left over whatever happens in between."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.kit.answers import closed_port, full_port, hang_up, keep_silent, plan, reply, services, why
from tests.kit.inside import NOTHING, Finished, at_rest, held, until
from tests.kit.inside import service as service_of
from tests.kit.wire import OK, TIMEOUT, RawSocket, answer_all, get, request

RETRY = "retry: {attempts: 2, on: [connect_failure, reset, timeout, 502, 503, 504], backoff: {base: 1ms, max: 2ms}}\n"
CALM = RETRY + "breaker: false\noutlier: false\n"


def message(method="GET", body=b"", chunked=False):
    head = f"{method} /x HTTP/1.1\r\nHost: test\r\n"
    if chunked:
        return (head + "Transfer-Encoding: chunked\r\n\r\n").encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return (head + (f"Content-Length: {len(body)}\r\n" if body else "") + "\r\n").encode() + body


def attempts(running):
    return running.access_log()[-1]["attempts"]


@pytest.mark.parametrize("status", [502, 503, 504])
def test_statuses_that_another_try_may_mend(proxy, target, status):
    running = proxy(target(plan(reply(status, b"no"), reply(status))), CALM)
    assert (get(running.port).status, attempts(running)) == (200, 3)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 501])
def test_other_statuses_are_passed_on(proxy, target, status):
    running = proxy(target(plan(reply(status, b"no"))), CALM)
    answer = get(running.port)
    assert (answer.status, answer.body, attempts(running)) == (status, b"no", 1)


def test_the_last_answer_is_passed_on_when_all_tries_fail(proxy, target):
    running = proxy(target(plan(reply(503), reply(502, b"two"), reply(504, b"three"))), CALM)
    answer = get(running.port)
    assert (answer.status, answer.body, attempts(running)) == (504, b"three", 3)
    assert running.access_log()[-1]["upstream_status"] == 504
    assert at_rest(running) == NOTHING


def test_an_answer_that_is_given_up_does_not_disturb_the_next_one(proxy, target):
    def endless(session):
        session.send(b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        session.read_to_end()

    running = proxy(target(plan(endless)), CALM)
    assert get(running.port).body == b"ok"
    assert at_rest(running) == NOTHING


@pytest.mark.parametrize("step", [hang_up, keep_silent], ids=["reset", "timeout"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_idempotent_methods_are_tried_again(proxy, target, method, step):
    upstream = target(plan(step))
    running = proxy(upstream, CALM + "timeouts: {response: 100ms}")
    assert request(running.port, message(method), method).status == 200
    assert attempts(running) == 2
    assert at_rest(running) == NOTHING


@pytest.mark.parametrize(
    ("step", "status", "reason"),
    [(hang_up, 502, "upstream_reset"), (keep_silent, 504, "response_timeout")],
    ids=["reset", "timeout"],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_others_are_sent_once(proxy, target, method, step, status, reason):
    upstream = target(plan(step))
    running = proxy(upstream, CALM + "timeouts: {response: 100ms}")
    assert why(request(running.port, message(method, b"data"))) == (status, reason)
    assert (attempts(running), upstream.received.count(method.encode() + b" /x")) == (1, 1)
    assert at_rest(running) == NOTHING


def test_a_post_is_not_repeated_for_a_status_either(proxy, target):
    upstream = target(plan(reply(503, b"no")))
    running = proxy(upstream, CALM)
    assert request(running.port, message("POST", b"data")).status == 503
    assert upstream.received.count(b"POST /x") == 1


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [1, 1000, 65536])
def test_a_body_up_to_64_kib_is_sent_again_intact(proxy, target, size, chunked):
    bodies = queue.SimpleQueue()
    body = bytes(number % 251 for number in range(size))

    def script(session):
        bodies.put(session.read_request()[1])
        session.send(reply(503) if len(upstream.sessions) == 1 else OK)

    upstream = target(script)
    running = proxy(upstream, CALM)
    assert request(running.port, message("PUT", body, chunked)).status == 200
    assert [bodies.get(timeout=TIMEOUT) == body for _ in range(2)] == [True, True]
    assert at_rest(running) == NOTHING


def test_a_body_that_is_still_coming_is_sent_again_from_its_beginning(proxy, target):
    half, bodies = threading.Event(), queue.SimpleQueue()

    def script(session):
        if len(upstream.sessions) == 1:
            session.read_until(b"first")
            half.set()
            return
        bodies.put(session.read_request()[1])
        session.send(OK)

    upstream = target(script)
    running = proxy(upstream, CALM)
    with RawSocket.connect(running.port) as client:
        client.send(b"PUT /x HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\nfirst")
        assert half.wait(TIMEOUT)
        until(running, lambda: len(upstream.sessions) == 2)
        client.send(b"second")
        assert client.read_answer().status == 200
    assert bodies.get(timeout=TIMEOUT) == b"firstsecond"


def test_a_larger_body_is_sent_once(proxy, target):
    upstream = target(plan(reply(503, b"no")))
    running = proxy(upstream, CALM)
    assert request(running.port, message("PUT", b"x" * 600_000)).status == 503
    assert (attempts(running), upstream.received.count(b"PUT /x")) == (1, 1)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_after_a_connect_failure_another_target_is_asked_for_any_method(gateway, target, method):
    good = target()
    lines = CALM + "balance: round_robin"
    running = gateway(services({"s": [f"http://127.0.0.1:{closed_port()}", good.url]}, lines))
    answers = [request(running.port, message(method, b"data")) for _ in range(4)]
    assert [answer.status for answer in answers] == [200] * 4
    assert {line["attempts"] for line in running.access_log()} == {
        2
    }  # each in turn: the first one is the one that is down
    assert good.received.count(method.encode() + b" /x") == 4


@pytest.mark.parametrize(
    "balance", ["p2c", "round_robin", "weighted", "least_requests", "{hash: {by: path}}", "sticky"]
)
def test_what_cannot_connect_goes_on_until_a_target_is_met_that_answers(gateway, target, balance):
    """With nothing said about retries: the one that a request may have would not do."""
    good = target()
    urls = [f"http://127.0.0.1:{closed_port()}" for _ in range(4)] + [good.url]
    running = gateway(services({"s": urls}, f"balance: {balance}\noutlier: false\nbreaker: false"))

    def ask(number):
        return request(running.port, message("POST", b"data", number % 2 == 0).replace(b"/x", b"/%d" % number)).status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(40))) == {200}
    tries = [line["attempts"] for line in running.access_log()]
    assert 3 <= max(tries) <= 5  # none is met twice
    assert good.received.count(b"POST /") == 40
    assert at_rest(running) == NOTHING


def test_what_has_met_all_targets_in_vain_is_retried_as_any_other(gateway):
    urls = [f"http://127.0.0.1:{closed_port()}" for _ in range(3)]
    running = gateway(
        services({"s": urls}, "retry: {attempts: 2, backoff: {base: 1ms}}\noutlier: false\nbreaker: false")
    )
    assert why(request(running.port, message("POST", b"data"))) == (502, "connect_failed")
    assert attempts(running) == 3 + 2


def test_a_request_that_was_sent_in_vain_and_then_cannot_connect_goes_on_too(gateway, target):
    """Its only retry is used up by then."""
    urls = [target(plan(hang_up)).url, f"http://127.0.0.1:{closed_port()}", target().url]
    running = gateway(services({"s": urls}, "balance: round_robin\nretry: {backoff: {base: 1ms}}"))
    statuses = {get(running.port).status for _ in range(6)}
    assert (statuses, max(line["attempts"] for line in running.access_log())) == ({200}, 3)


@pytest.mark.parametrize("policy", ["{attempts: 0}", "{on: [reset]}"])
def test_nothing_goes_on_where_connect_failures_are_not_retried(gateway, target, policy):
    urls = [f"http://127.0.0.1:{closed_port()}", target().url]
    running = gateway(services({"s": urls}, f"retry: {policy}\nbalance: round_robin\noutlier: false"))
    assert [get(running.port).status for _ in range(4)] == [502, 200, 502, 200]


def test_going_on_ends_with_the_total_time(gateway, target):
    """Targets whose connections nobody takes: each costs the time to connect."""
    with ExitStack() as stack:
        urls = [f"http://127.0.0.1:{stack.enter_context(full_port())}" for _ in range(3)]
        running = gateway(services({"s": urls}, "timeouts: {connect: 150ms, total: 250ms}\nbreaker: false"))
        assert why(get(running.port)) == (504, "total_timeout")
    assert attempts(running) == 2


def test_a_retry_prefers_a_target_that_was_not_tried(gateway, target):
    bad = [target(answer_all(reply(503, b"no"))) for _ in range(2)]
    running = gateway(services({"s": [each.url for each in bad] + [target().url]}, CALM))
    assert {get(running.port).status for _ in range(10)} == {200}


def test_only_what_on_names_is_retried(proxy, target):
    running = proxy(target(plan(reply(503, b"no"))), "retry: {attempts: 2, on: [reset]}")
    assert (get(running.port).status, attempts(running)) == (503, 1)


def test_attempts_0_turns_retries_off(proxy, target):
    running = proxy(target(plan(reply(503, b"no"))), "retry: {attempts: 0}")
    assert (get(running.port).status, attempts(running)) == (503, 1)


def test_the_budget_bounds_retries_that_run_at_the_same_time(proxy, target):
    """Ten requests fail at once; with a budget of 0 % three retries may run, and seven answers are passed on."""
    count = 10
    all_here, go = threading.Barrier(count), threading.Event()
    held_back = queue.SimpleQueue()

    def fail(session):
        all_here.wait(TIMEOUT)
        session.send(reply(503, b"no"))

    def retried(session):
        held_back.put(session)
        assert go.wait(TIMEOUT)
        session.send(OK)

    policy = "retry: {attempts: 1, budget: 0%, backoff: {base: 1ms, max: 1ms}}\nbreaker: false"
    running = proxy(target(plan(*[fail] * count, then=retried)), policy)
    with ThreadPoolExecutor(count) as pool:
        answers = [pool.submit(get, running.port) for _ in range(count)]
        for _ in range(3):
            held_back.get(timeout=TIMEOUT)
        until(running, lambda: running.gateway._proxy.in_flight == 3)  # the seven are answered
        assert held(running).retries == 3
        go.set()
        assert sorted(answer.result().status for answer in answers) == [200] * 3 + [503] * 7
    assert at_rest(running) == NOTHING


def test_the_pause_before_a_retry_is_bounded_and_ends_with_the_total_time(proxy, target):
    lines = "retry: {attempts: 5, backoff: {base: 30s, max: 30s}}\ntimeouts: {total: 300ms}\nbreaker: false"
    running = proxy(target(plan(then=reply(503, b"no"))), lines)

    answers = [get(running.port) for _ in range(3)]
    assert {answer.status for answer in answers} == {503}
    assert all(line["duration_ms"] < 400 for line in running.access_log())


def test_a_client_that_goes_during_the_pause_leaves_nothing(proxy, target):
    lines = "retry: {attempts: 1, backoff: {base: 1h, max: 1h}}\ntimeouts: {total: 0}\nbreaker: false"
    running = proxy(target(plan(reply(503))), lines)
    finished = Finished(running)
    with RawSocket.connect(running.port) as client:
        client.send(message())
        until(running, lambda: service_of(running).retry.budget.in_use == 1)
    assert finished.next().reason == "client_gone"
    assert at_rest(running) == NOTHING


def break_off(session):
    session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
    raise EOFError


def test_after_a_storm_of_failures_nothing_is_held(gateway, target):
    """Every kind of end at once, several times over: all that was taken is given back."""
    steps = [
        reply(503),
        hang_up,
        reply(200, b"fine"),
        b"nonsense\r\n\r\n",
        keep_silent,
        break_off,
        reply(500, b"bad"),
    ]
    one, two = target(plan(*steps * 6)), target(plan(*steps[::-1] * 6))
    lines = RETRY + (
        "breaker: {failure_rate: 90%, minimum: 5, window: 1s, open: 50ms}\noutlier: {consecutive: 2, eject: 50ms}\n"
        "timeouts: {response: 100ms, connect: 200ms, total: 400ms}\npool: {max_connections: 3}\nmax_in_flight: 6"
    )
    urls = [one.url, two.url, f"http://127.0.0.1:{closed_port()}"]
    running = gateway(services({"s": urls}, lines))

    def client(number):
        with RawSocket.connect(running.port) as sock:
            sock.send(message(("GET", "POST", "PUT")[number % 3], b"data" if number % 3 else b""))
            if number % 5:
                try:
                    return sock.read_answer().status
                except EOFError:
                    return 0
            sock.reset()
            return 0

    with ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(client, range(60)))
    assert 200 in statuses
    assert statuses <= {0, 200, 500, 502, 503, 504}
    assert at_rest(running) == NOTHING
    assert len(running.access_log()) == 60
