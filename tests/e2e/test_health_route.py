"""A route with `health`: what it says while services are well, some are not, none is; and that it asks nobody."""

import json
from typing import Any

import pytest

from tests.e2e.test_health import Patient
from tests.kit.answers import closed_port, reply
from tests.kit.gateway import RunningGateway
from tests.kit.inside import target as inner
from tests.kit.inside import until
from tests.kit.wire import get, request

HEALTH = "health: {path: /health, interval: 50ms, timeout: 2s, healthy: 1, unhealthy: 1}"
ROUTES = """
routes:
  - {name: health, match: {path: /health, methods: [GET]}, health: {}}
  - {name: a, match: {path: "/{rest...}"}, service: service-a}
"""


def services(a: str, b: str, health: str = HEALTH) -> str:
    return f"services:\n  service-a:\n    targets: ['{a}']\n    {health}\n  service-b:\n    targets: ['{b}']\n    {health}\n"


def ask(running: RunningGateway, path: str = "/health") -> tuple[int, Any]:
    answer = get(running.port, path)
    assert answer.get("content-type") == "application/json"
    assert answer.get("cache-control") == "no-store"
    return answer.status, json.loads(answer.body)


def test_a_service_that_dies_is_seen_and_comes_back(gateway, target):
    a, b = Patient(b"a"), Patient(b"b")
    running = gateway(services(target(a).url, target(b).url) + ROUTES)
    one = {"healthy": True, "targets": {"healthy": 1, "total": 1}}
    assert ask(running) == (
        200,
        {
            "status": "healthy",
            "service_a_healthy": True,
            "service_b_healthy": True,
            "services": {"service-a": one, "service-b": one},
        },
    )
    b.check = reply(500)
    until(running, lambda: not inner(running, name="service-b").healthy)
    status, report = ask(running)
    assert (status, report["status"]) == (200, "degraded")
    assert (report["service_a_healthy"], report["service_b_healthy"]) == (True, False)
    assert report["services"]["service-b"] == {"healthy": False, "targets": {"healthy": 0, "total": 1}}
    a.check = reply(500)
    until(running, lambda: not inner(running, name="service-a").healthy)
    status, report = ask(running)
    assert (status, report["status"]) == (503, "unhealthy")
    a.check = b.check = reply(200)
    until(running, lambda: inner(running, name="service-a").healthy and inner(running, name="service-b").healthy)
    assert ask(running)[1]["status"] == "healthy"


def test_it_asks_nobody(gateway, target):
    a, b = target(), target()
    running = gateway(services(a.url, b.url, "health: {path: /health, interval: 1h}") + ROUTES)
    until(running, lambda: len(a.sessions) == len(b.sessions) == 1)
    for _ in range(20):
        assert ask(running)[0] == 200
    assert len(a.sessions) == len(b.sessions) == 1, "the first check of each, and nothing since"


@pytest.mark.parametrize("change", [{"draining": True}, {"weight": 0}])
def test_a_target_that_gets_nothing_serves_nobody(gateway, target, change):
    running = gateway(services(target().url, target().url, "") + ROUTES)
    running.call(lambda: running.gateway.set_target("service-a", inner(running, name="service-a").name, **change))
    report = ask(running)[1]
    assert (report["status"], report["service_a_healthy"]) == ("degraded", False)


def test_services_can_be_chosen_and_applications_count(gateway, target):
    routes = ROUTES.replace("health: {}", "health: {services: [service-b, my.own]}")
    app = "async def app(scope, receive, send): pass\n"
    text = services("http://127.0.0.1:1", target().url, "") + "  my.own: {app: 'own:app'}\n" + routes
    running = gateway(text, files={"own.py": app})
    status, report = ask(running)
    assert status == 200
    assert report.keys() == {"status", "service_b_healthy", "my_own_healthy", "services"}
    assert report["services"]["my.own"] == {"healthy": True, "targets": {"healthy": 1, "total": 1}}


def test_two_names_that_look_alike_are_well_together_only(gateway, target):
    text = f"services:\n  a_b:\n    targets: ['http://127.0.0.1:{closed_port()}']\n    {HEALTH}\n  a-b: {{targets: ['{target().url}']}}\n"
    running = gateway(text + "routes: [{name: health, match: {path: /health}, health: {}}]")
    until(running, lambda: not inner(running, name="a_b").healthy)
    assert ask(running)[1]["a_b_healthy"] is False


def test_without_services_there_is_nothing_ill(gateway):
    running = gateway("routes: [{name: health, match: {path: /health}, health: {}}]")
    assert ask(running) == (200, {"status": "healthy", "services": {}})


def test_it_is_a_route_as_others_are(gateway, target):
    running = gateway(
        services(target().url, target().url, "") + ROUTES + "plugins: [{headers: {response: {set: {x-a: b}}}}]\n"
    )
    head = request(running.port, b"HEAD /health HTTP/1.1\r\nHost: test\r\n\r\n", "HEAD")
    assert (head.status, head.body, head.get("x-a")) == (200, b"", "b")
    assert head.get("content-length") == str(len(get(running.port, "/health").body))
    assert running.access_log()[-1]["route"] == "health"
