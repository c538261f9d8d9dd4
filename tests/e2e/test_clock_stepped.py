"""The machine's date is set, by hours and both ways, while the gateway runs: only what is about dates may notice."""

import threading
import time

import pytest

from tests.kit.answers import reply, why
from tests.kit.tokens import SECRET, token
from tests.kit.wire import OK, RawSocket, answer_all, get

HOURS = pytest.mark.parametrize("step", [5 * 3600.0, -5 * 3600.0], ids=["forwards", "backwards"])


class SteppedClock:
    """The machine's clock; its date is off by `off` seconds."""

    def __init__(self) -> None:
        self.off = 0.0

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time() + self.off


@pytest.fixture
def clock():
    return SteppedClock()


@pytest.fixture
def stepped(gateway, target, clock):
    """Start a gateway on the clock, with plugins: `stepped(script, plugins, service)`."""

    def start(script=None, plugins="", service=""):
        return gateway(
            f"""
services: {{s: {{targets: ["{target(script).url}"], {service}}}}}
routes: [{{name: all, match: {{path: "/{{rest...}}"}}, service: s}}]
plugins: [{plugins}]
""",
            clock=clock,
        )

    return start


@HOURS
@pytest.mark.parametrize("algorithm", ["gcra", "sliding_window", "fixed_window"])
def test_limits_go_on(stepped, clock, step, algorithm):
    running = stepped(plugins=f"{{rate_limit: {{limit: 3/hour, algorithm: {algorithm}}}}}")
    assert [get(running.port).status for _ in range(2)] == [200, 200]
    clock.off = step
    answers = [get(running.port) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 429]
    assert int(answers[1].get("retry-after")) <= 3600


@HOURS
def test_what_is_cached_is_as_old_as_it_is(stepped, clock, step):
    running = stepped(answer_all(reply(200, b"kept", "Cache-Control: max-age=60")), "{cache: {}}")
    assert get(running.port).get("age") is None
    clock.off = step
    answer = get(running.port)
    assert (answer.body, int(answer.get("age")) < 30) == (b"kept", True)
    assert "hit" in answer.get("cache-status")


@HOURS
def test_a_token_is_held_against_the_date_each_time_also_when_it_was_seen_before(stepped, clock, step):
    running = stepped(plugins=f"{{jwt: {{secret: '{SECRET}', algorithms: [HS256]}}}}")
    now = time.time()
    fields = f"Authorization: Bearer {token(iat=int(now), nbf=int(now), exp=int(now) + 3600)}\r\n"
    assert get(running.port, headers=fields).status == 200
    clock.off = step
    reason = "jwt_expired" if step > 0 else "jwt_invalid"
    assert [why(get(running.port, headers=fields)) for _ in range(2)] == [(401, reason)] * 2
    clock.off = 0.0
    assert get(running.port, headers=fields).status == 200


@HOURS
def test_what_is_under_way_is_not_cut_and_what_hangs_is(stepped, clock, step):
    came, go = threading.Event(), threading.Event()

    def script(session):
        head = session.read_head()
        came.set()
        if b"/slow" in head:
            go.wait(10)
            session.send(OK)
        session.read_to_end()

    running = stepped(script, service="timeouts: {response: 1s}, breaker: false, retry: {attempts: 0}")
    with RawSocket.connect(running.port) as client:
        client.send(b"GET /slow HTTP/1.1\r\nHost: test\r\n\r\n")
        assert came.wait(10)
        clock.off = step
        assert len(running.access_log()) == 0
        go.set()
        assert client.read_answer().status == 200
    begun = time.monotonic()
    assert why(get(running.port, "/hangs")) == (504, "response_timeout")
    assert 0.9 < time.monotonic() - begun < 5
    assert all(0 <= line["duration_ms"] < 5000 for line in running.access_log())


@HOURS
def test_an_open_circuit_stays_open_for_as_long_as_was_said(stepped, clock, step):
    service = "breaker: {minimum: 2, open: 1h}, outlier: false, retry: {attempts: 0}"
    running = stepped(answer_all(reply(500, b"no")), service=service)
    assert [get(running.port).status for _ in range(2)] == [500, 500]
    clock.off = step
    answer = get(running.port)
    assert why(answer) == (503, "circuit_open")
    assert 3500 < int(answer.get("retry-after")) <= 3600
