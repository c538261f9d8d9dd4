"""Active health checks: targets go out of rotation when their checks fail and come back when they succeed."""

import threading

import pytest

from tests.kit.answers import closed_port, keep_silent, reply, services, why
from tests.kit.inside import target as inner
from tests.kit.inside import until
from tests.kit.wire import TargetSession, get

HEALTH = "health: {path: /health, interval: 100ms, timeout: 150ms, healthy: 2, unhealthy: 2}\nretry: {attempts: 0}"


class Patient:
    """A target's script with a health that the test sets."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.check = reply(200)
        self.checks: list[bytes] = []
        self.checked = threading.Event()

    def __call__(self, session: TargetSession) -> None:
        while True:
            head, _ = session.read_request()
            if head.startswith(b"GET /health "):
                self.checks.append(head)
                self.checked.set()
                if callable(self.check):
                    self.check(session)
                session.send(self.check)
            else:
                session.send(reply(200, self.name))


@pytest.mark.parametrize("bad", [reply(500), keep_silent, b"nonsense\r\n\r\n"], ids=["status", "silence", "no HTTP"])
def test_a_target_goes_out_and_comes_back(gateway, target, bad):
    a, b = Patient(b"a"), Patient(b"b")
    running = gateway(services({"s": [target(a).url, target(b).url]}, HEALTH + "\nbalance: round_robin"))
    assert {get(running.port).body for _ in range(4)} == {b"a", b"b"}
    a.check = bad
    until(running, lambda: not inner(running, 0).healthy)
    assert {get(running.port).body for _ in range(6)} == {b"b"}
    a.check = reply(204)
    until(running, lambda: inner(running, 0).healthy)
    assert {get(running.port).body for _ in range(6)} == {b"a", b"b"}


def test_a_check_is_a_get_of_the_path_on_a_connection_of_its_own(proxy, target):
    patient = Patient(b"a")
    upstream = target(patient)
    proxy(upstream, HEALTH)
    assert patient.checked.wait(10)
    head = patient.checks[0].decode()
    assert head.startswith("GET /health HTTP/1.1\r\n")
    assert f"\r\nHost: 127.0.0.1:{upstream.port}\r\n" in head
    assert "\r\nConnection: close\r\n" in head


def test_without_a_healthy_target_the_answer_is_503_at_once(gateway):
    running = gateway(services({"s": [f"http://127.0.0.1:{closed_port()}"]}, HEALTH))
    until(running, lambda: not inner(running).healthy)
    answer = get(running.port)
    assert why(answer) == (503, "no_healthy_target")
    assert answer.get("retry-after") == "1"
    assert running.access_log()[-1]["attempts"] == 0


def test_only_the_statuses_that_were_named_are_good(gateway, target):
    patient = Patient(b"a")
    patient.check = reply(404)
    upstream = target(patient)
    health = HEALTH.replace("unhealthy: 2", "unhealthy: 1, statuses: [404]")
    running = gateway(services({"s": [upstream.url]}, health))
    assert patient.checked.wait(10)
    assert get(running.port).body == b"a"
    patient.check = reply(200)
    until(running, lambda: not inner(running).healthy)


def test_checks_end_with_the_gateway(proxy, target):
    patient = Patient(b"a")
    upstream = target(patient)
    running = proxy(upstream, HEALTH)
    assert patient.checked.wait(10)
    running.call(running.gateway.stop_pipeline)
    seen = len(upstream.sessions)
    with pytest.raises(TimeoutError):
        until(running, lambda: len(upstream.sessions) > seen, seconds=0.3)
