"""What protects a target that fails, and the clients from it: ejection, breaker, the bound on requests in flight."""

import asyncio
import errno
import os
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gatewright.upstream.breaker import State
from tests.kit.answers import closed_port, hang_up, plan, reply, services, why
from tests.kit.inside import NOTHING, Finished, at_rest, held, until
from tests.kit.inside import service as service_of
from tests.kit.inside import target as inner
from tests.kit.wire import OK, TIMEOUT, RawSocket, answer_all, get, request

BAD = reply(500, b"bad")
QUIET = "retry: {attempts: 0}\n"
POST = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi"


# Ejection


def test_a_target_that_fails_in_a_row_is_left_alone_and_comes_back(gateway, target):
    bad, good = target(plan(BAD, BAD, BAD)), target()
    lines = QUIET + "balance: round_robin\noutlier: {consecutive: 3, eject: 30s}"
    running = gateway(services({"s": [bad.url, good.url]}, lines))
    assert [get(running.port).status for _ in range(6)] == [500, 200] * 3
    assert [get(running.port).status for _ in range(4)] == [200] * 4
    assert bad.received.count(b"GET /") == 3

    def time_passes():
        inner(running).ejected_until -= 31

    running.call(time_passes)
    get(running.port), get(running.port)
    assert bad.received.count(b"GET /") == 4


def test_a_success_between_failures_saves_a_target(gateway, target):
    shaky, good = target(plan(BAD, BAD, OK, BAD, BAD)), target()
    lines = QUIET + "balance: round_robin\noutlier: {consecutive: 3, eject: 30s}"
    running = gateway(services({"s": [shaky.url, good.url]}, lines))
    for _ in range(12):
        get(running.port)
    assert shaky.received.count(b"GET /") == 6


class LackingLoop(asyncio.SelectorEventLoop):
    """Opens no connection while it has an `error` for that."""

    error: int | None = None
    asked = 0

    async def create_connection(self, *args, **options):
        if self.error is not None:
            self.asked += 1
            raise OSError(self.error, os.strerror(self.error))
        return await super().create_connection(*args, **options)


@pytest.mark.parametrize("lack", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL])
def test_what_the_gateway_lacks_says_nothing_against_its_targets(gateway, target, lack):
    loop = LackingLoop()
    health = "health: {path: /, interval: 50ms, unhealthy: 1}\n"
    lines = BREAKER + "\noutlier: {consecutive: 1, eject: 30s}\n" + health
    running = gateway(services({"s": [target().url, target().url]}, lines), loop=lambda: loop)
    loop.error = lack
    refused = [get(running.port) for _ in range(4)]
    assert {why(answer) for answer in refused} == {(503, "sockets_exhausted")}
    assert {answer.get("retry-after") for answer in refused} == {"1"}
    assert os.strerror(lack) in running.access_log()[-1]["cause"]
    asked = loop.asked
    until(running, lambda: loop.asked > asked + 4)  # by the health checks
    loop.error = None
    assert [get(running.port).status for _ in range(4)] == [200] * 4
    assert at_rest(running) == NOTHING


@pytest.mark.parametrize("failing", ["refuses", "hangs up", "nonsense"])
def test_a_target_that_cannot_be_asked_is_ejected_too(gateway, target, failing):
    url = f"http://127.0.0.1:{closed_port()}"
    if failing != "refuses":
        url = target(plan(then=hang_up if failing == "hangs up" else b"nonsense\r\n\r\n")).url
    lines = QUIET + "balance: round_robin\noutlier: {consecutive: 2, eject: 30s}"
    running = gateway(services({"s": [url, target().url]}, lines))
    assert [get(running.port).status for _ in range(4)] == [502, 200] * 2
    assert [get(running.port).status for _ in range(4)] == [200] * 4


def test_max_ejected_is_a_ceiling(gateway, target):
    targets = [target(answer_all(BAD)) for _ in range(3)] + [target()]
    lines = QUIET + "balance: round_robin\nbreaker: false\noutlier: {consecutive: 1, eject: 30s, max_ejected: 25%}"
    running = gateway(services({"s": [each.url for each in targets]}, lines))
    for _ in range(12):
        get(running.port)
    now = running.gateway._clock.now()
    assert running.call(lambda: sum(each.ejected_until > now for each in service_of(running).targets)) == 1


def test_the_only_target_is_never_ejected(proxy, target):
    running = proxy(target(answer_all(BAD)), QUIET + "breaker: false\noutlier: {consecutive: 1}")
    assert [get(running.port).body for _ in range(5)] == [b"bad"] * 5


def test_a_client_that_goes_says_nothing_against_a_target(proxy, target):
    running = proxy(target(plan(then=lambda session: session.read_to_end())), QUIET)
    finished = Finished(running)
    with RawSocket.connect(running.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        until(running, lambda: inner(running).pool.size)
    assert finished.next().reason == "client_gone"
    assert running.call(lambda: inner(running).consecutive_failures) == 0
    assert at_rest(running) == NOTHING


# The breaker

BREAKER = QUIET + "breaker: {failure_rate: 50%, minimum: 2, window: 60s, open: 30s}"


def time_passes(running, seconds):
    def move():
        inner(running).breaker._until -= seconds

    running.call(move)


def state(running):
    return running.call(lambda: inner(running).breaker.state)


def test_closed_open_half_open_closed_over_the_wire(proxy, target):
    upstream = target(plan(OK, BAD))
    running = proxy(upstream, BREAKER)
    assert [get(running.port).status for _ in range(2)] == [200, 500]
    refused = get(running.port)
    assert why(refused) == (503, "circuit_open")
    assert 28 <= int(refused.get("retry-after")) <= 30
    assert refused.get("proxy-status").startswith("gatewright; error=destination_unavailable")
    assert upstream.received.count(b"GET /") == 2
    assert running.access_log()[-1]["attempts"] == 0
    time_passes(running, 31)
    assert get(running.port).status == 200
    assert state(running) is State.CLOSED
    assert get(running.port).status == 200


def test_a_probe_that_fails_opens_it_again(proxy, target):
    running = proxy(target(plan(BAD, BAD, BAD)), BREAKER)
    assert [get(running.port).status for _ in range(3)] == [500, 500, 503]
    time_passes(running, 31)
    assert [get(running.port).status for _ in range(2)] == [500, 503]
    time_passes(running, 31)
    assert [get(running.port).status for _ in range(2)] == [200, 200]


class Probe:
    """Two failures; then a request that is held until `answer` is given; then all is well."""

    def __init__(self):
        self.here = queue.SimpleQueue()
        self.answers = queue.SimpleQueue()
        self.script = plan(BAD, BAD, self._hold)

    def _hold(self, session):
        self.here.put(session)
        session.send(self.answers.get(timeout=TIMEOUT))


@pytest.fixture
def probing(proxy, target):
    """A gateway whose breaker is half open, with its probe under way: (running, probe, the client's answer)."""
    probe = Probe()
    running = proxy(target(probe.script), BREAKER)
    assert [get(running.port).status for _ in range(3)] == [500, 500, 503]
    time_passes(running, 31)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(get, running.port)
        probe.session = probe.here.get(timeout=TIMEOUT)
        yield running, probe, answer


def test_half_open_lets_one_request_through(probing):
    running, probe, answer = probing
    assert state(running) is State.HALF_OPEN
    refused = get(running.port)
    assert why(refused) == (503, "circuit_open")
    assert refused.get("retry-after") == "1"
    probe.answers.put(OK)
    assert answer.result().status == 200
    assert state(running) is State.CLOSED


def test_a_stream_that_begins_well_ends_the_probe(probing):
    running, probe, answer = probing
    probe.answers.put(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
    until(running, lambda: inner(running).breaker.state is State.CLOSED)
    assert not answer.done()
    assert get(running.port).status == 200
    probe.session.send(b"lf")
    assert answer.result().body == b"half"


def test_a_client_that_goes_gives_the_probe_to_another(proxy, target):
    probe = Probe()
    running = proxy(target(probe.script), BREAKER)
    assert [get(running.port).status for _ in range(3)] == [500, 500, 503]
    time_passes(running, 31)
    finished = Finished(running)
    with RawSocket.connect(running.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        probe.here.get(timeout=TIMEOUT)
        assert held(running).probes == 1
    assert finished.next().reason == "client_gone"
    assert at_rest(running) == NOTHING
    assert state(running) is State.HALF_OPEN
    probe.answers.put(OK)
    assert get(running.port).status == 200
    assert state(running) is State.CLOSED


def test_a_probe_that_is_replayed_is_still_the_only_one(proxy, target):
    """It meets a stale connection: the attempt that replaces it is the probe now, and its verdict counts."""
    here, go = queue.SimpleQueue(), threading.Event()

    def hold(session):
        here.put(session)
        assert go.wait(TIMEOUT)
        session.send(OK)

    running = proxy(target(plan(BAD, BAD, hang_up, hold)), BREAKER)
    assert [get(running.port).status for _ in range(3)] == [500, 500, 503]
    time_passes(running, 31)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(get, running.port)
        here.get(timeout=TIMEOUT)
        assert held(running).probes == 1
        assert why(get(running.port)) == (503, "circuit_open")
        go.set()
        assert answer.result().status == 200
    assert state(running) is State.CLOSED
    assert at_rest(running) == NOTHING


def test_another_target_serves_while_one_is_open(gateway, target):
    bad, good = target(answer_all(BAD)), target()
    lines = BREAKER + "\nbalance: round_robin\noutlier: false"
    running = gateway(services({"s": [bad.url, good.url]}, lines))
    assert [get(running.port).status for _ in range(4)] == [500, 200] * 2
    assert [get(running.port).status for _ in range(4)] == [200] * 4


def test_false_turns_it_off(proxy, target):
    running = proxy(target(answer_all(BAD)), QUIET + "breaker: false")
    assert {get(running.port).status for _ in range(25)} == {500}


# max_in_flight


def test_past_max_in_flight_the_answer_is_503_and_retry_after(proxy, target):
    here, go = queue.SimpleQueue(), threading.Event()

    def hold(session):
        here.put(session)
        assert go.wait(TIMEOUT)
        session.send(OK)

    running = proxy(target(plan(then=hold)), QUIET + "max_in_flight: 2")
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(get, running.port) for _ in range(2)]
        for _ in answers:
            here.get(timeout=TIMEOUT)
        refused = request(running.port, POST)
        assert (why(refused), refused.get("retry-after")) == ((503, "overloaded"), "1")
        go.set()
        assert [answer.result().status for answer in answers] == [200, 200]
    assert get(running.port).status == 200
    assert at_rest(running) == NOTHING
