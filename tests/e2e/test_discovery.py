"""Discovered targets in a gateway that serves: they come, stay, go; reloads, health checks and operators beside that."""

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit.answers import closed_port, reply, why
from tests.kit.consul import FakeConsul, entry
from tests.kit.dns import DnsServer
from tests.kit.inside import service as inner
from tests.kit.inside import until
from tests.kit.process import GatewayProcess, is_alive
from tests.kit.wire import RawSocket, TargetSession, answer_all, get

ROUTES = """
routes:
  - {name: all, match: {path: "/{rest...}"}, service: s}
  - {name: elsewhere, match: {path: /*}, respond: {body: elsewhere}, priority: -1}
"""
ROUTE = "routes: [{name: all, match: {path: '/{rest...}'}, service: s}]\n"


@pytest.fixture
def consul(stack) -> FakeConsul:
    return stack.enter_context(FakeConsul())


def config(consul: FakeConsul, folder: Path, lines: str = "", discover: str = "", routes: str = ROUTE) -> str:
    return (
        f"discovery: {{folder: '{folder}'}}\n"
        f"services:\n  s:\n    discover: {{consul: {{service: web, address: '{consul.url}'{discover}}}}}\n"
        + "".join(f"    {line}\n" for line in lines.splitlines())
        + routes
    )


def names(running) -> list[str]:
    return sorted(target.name for target in inner(running).targets)


def places(*targets) -> list[str]:
    return sorted(f"127.0.0.1:{target.port}" for target in targets)


def test_targets_come_and_go(gateway, target, consul, tmp_path):
    a, b = target(answer_all(reply(200, b"a"))), target(answer_all(reply(200, b"b")))
    consul.say([entry(a.port)], 1)
    running = gateway(config(consul, tmp_path, "balance: round_robin"))
    assert {get(running.port).body for _ in range(4)} == {b"a"}, "the start waited for the first answer"
    kept = inner(running).targets[0]
    consul.say([entry(b.port), entry(a.port)], 2)
    until(running, lambda: names(running) == places(a, b))
    assert kept in inner(running).targets
    assert {get(running.port).body for _ in range(4)} == {b"a", b"b"}
    assert len(a.sessions) == 1, "its pooled connection was kept"
    consul.say([entry(b.port, Weights={"Passing": 5})], 3)
    until(running, lambda: names(running) == places(b))
    assert {get(running.port).body for _ in range(4)} == {b"b"}
    assert inner(running).targets[0].weight == 5
    a.join()  # the idle connection to the one that left was closed
    assert kept.pool.size == 0


def test_what_is_under_way_to_a_target_that_leaves_is_finished(gateway, target, consul, tmp_path):
    leave = threading.Event()

    def slow(session: TargetSession) -> None:
        session.read_request()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsl")
        assert leave.wait(10)
        session.send(b"ow")
        assert session.read_to_end() == b""

    a, b = target(slow), target(answer_all(reply(200, b"b")))
    consul.say([entry(a.port)], 1)
    running = gateway(config(consul, tmp_path))
    with RawSocket.connect(running.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        client.read_until(b"sl")
        left = inner(running).targets[0]
        consul.say([entry(b.port)], 2)
        until(running, lambda: names(running) == places(b))
        assert get(running.port).body == b"b"
        assert left.in_flight == 1
        leave.set()
        assert client.read_exactly(2) == b"ow"
    a.join()
    assert (left.in_flight, left.pool.size) == (0, 0)


def test_an_empty_service_answers_503_and_keeps_its_routes(gateway, target, consul, tmp_path):
    consul.say([], 1)
    running = gateway(config(consul, tmp_path, routes=ROUTES.replace("path: /*", "path: '/*', headers: {x-a: true}")))
    assert why(get(running.port)) == (503, "no_healthy_target")
    a = target()
    consul.say([entry(a.port)], 2)
    until(running, lambda: names(running) == places(a))
    assert get(running.port).status == 200
    consul.say([], 3)
    until(running, lambda: names(running) == [])
    answer = get(running.port)
    assert (*why(answer), answer.get("retry-after")) == (503, "no_healthy_target", "1")


@pytest.mark.parametrize(
    "balance", ["p2c", "round_robin", "weighted", "least_requests", "sticky", "{hash: {by: client_ip}}"]
)
def test_every_way_to_balance_bears_no_targets(gateway, target, consul, tmp_path, balance):
    consul.say([], 1)
    running = gateway(config(consul, tmp_path, f"balance: {balance}"))
    assert why(get(running.port)) == (503, "no_healthy_target")
    a, b = target(), target()
    consul.say([entry(a.port), entry(b.port)], 2)
    until(running, lambda: names(running) == places(a, b))
    assert {get(running.port).status for _ in range(4)} == {200}
    consul.say([entry(b.port)], 3)
    until(running, lambda: names(running) == places(b))
    assert {get(running.port).status for _ in range(4)} == {200}


def test_reloads_keep_what_was_found(gateway, target, consul, tmp_path):
    a, b = target(), target()
    consul.say([entry(a.port)], 1)
    text = config(consul, tmp_path)
    running = gateway(text)
    assert get(running.port).status == 200
    before = inner(running).targets[0]
    running.reload(text + "limits: {body: 1MiB}\n")
    assert inner(running).targets == [before], "nothing about the service has changed"
    running.reload(config(consul, tmp_path, "timeouts: {response: 7s}"))
    assert names(running) == places(a), "the service is another, what was found holds"
    assert inner(running).targets[0] is not before
    assert get(running.port).status == 200
    running.reload(config(consul, tmp_path, f"targets: ['{b.url}']", ", tags: [blue]"))
    assert names(running) == places(b), "another thing is looked for: what is written down serves until it is found"
    running.reload(f"services: {{s: {{targets: ['{b.url}']}}}}\n{ROUTE}")
    assert (names(running), get(running.port).status) == (places(b), 200)
    running.reload(config(consul, tmp_path, "timeouts: {response: 7s}"))
    assert names(running) == places(a), "the last answer was kept on disk"


def test_health_checks_and_operators_follow_the_targets(gateway, target, consul, tmp_path):
    a = target()
    dead = closed_port()
    consul.say([entry(a.port)], 1)
    text = config(consul, tmp_path, "health: {path: /, interval: 50ms, healthy: 1, unhealthy: 1}")
    running = gateway(text)
    consul.say([entry(a.port), entry(dead)], 2)
    until(running, lambda: [t.healthy for t in inner(running).targets if t.port == dead] == [False])
    running.call(lambda: running.gateway.set_target("s", f"127.0.0.1:{a.port}", draining=True, weight=9))
    consul.say([entry(dead)], 3)
    until(running, lambda: names(running) == [f"127.0.0.1:{dead}"])
    assert running.gateway._tracking is not None
    assert list(running.gateway._tracking.probes.states()) == [("s", f"127.0.0.1:{dead}")]
    assert not inner(running).targets[0].healthy
    consul.say([entry(a.port), entry(dead)], 4)
    until(running, lambda: len(names(running)) == 2)
    back = next(t for t in inner(running).targets if t.port == a.port)
    assert (back.draining, back.weight, back.healthy) == (True, 9, True), "it is still the one that was drained"
    assert {row["target"] for row in running.gateway.target_states()} == set(names(running))


def test_dns_gives_targets_too(gateway, target, stack, tmp_path):
    server = stack.enter_context(DnsServer())
    a = target()
    server.records = {("web.test", "SRV"): (0, [f"0 3 {a.port} a.test."]), ("a.test", "A"): (0, ["127.0.0.1"])}
    dns = f"{{name: web.test, srv: true, resolver: '127.0.0.1:{server.port}', interval: 10ms, keep: 0s}}"
    running = gateway(f"discovery: {{folder: false}}\nservices: {{s: {{discover: {{dns: {dns}}}}}}}\n{ROUTE}")
    assert get(running.port).status == 200
    assert inner(running).targets[0].weight == 3
    server.records = {}
    until(running, lambda: names(running) == [])
    assert why(get(running.port)) == (503, "no_healthy_target")


# With processes


@pytest.fixture
def process(stack, tmp_path):
    def start(text: str, **options) -> GatewayProcess:
        folder = tmp_path / "gateway"
        folder.mkdir(exist_ok=True)
        started = GatewayProcess(folder, text, **options)
        stack.callback(started.kill)
        return started

    return start


def test_all_workers_know_the_targets_also_new_ones(process, target, consul, tmp_path):
    a, b = target(answer_all(reply(200, b"a"))), target(answer_all(reply(200, b"b")))
    running = process(config(consul, tmp_path, f"targets: ['{b.url}']") + "workers: 2\n")
    running.ready()
    assert get(running.port).body == b"b", "until the first answer"
    consul.say([entry(a.port)], 1)
    running.until(lambda: {get(running.port).body for _ in range(10)} == {b"a"})
    (view,) = running.admin("GET", "/targets")[1]
    assert (view["name"], view["configured_weight"], view["state"]) == (f"127.0.0.1:{a.port}", 1, "up")
    for pid in running.workers():
        os.kill(pid, signal.SIGKILL)
        running.until(lambda pid=pid: not is_alive(pid) and len(running.workers()) == 2)
    assert {get(running.port).body for _ in range(10)} == {b"a"}
    status, view = running.admin("PATCH", f"/services/s/targets/127.0.0.1:{a.port}", {"draining": True})
    assert (status, view["state"]) == (200, "draining")
    running.until(lambda: {get(running.port).status for _ in range(10)} == {503})
    assert running.admin("PATCH", f"/services/s/targets/127.0.0.1:{b.port}", {"draining": True})[0] == 404
    assert running.reload()[0] == 200
    assert get(running.port).status == 503, "a reload enables nothing"


def test_a_target_that_goes_while_it_is_changed_is_not_there(process, target, consul, tmp_path):
    a, b = target(), target()
    consul.say([entry(a.port)], 1)
    running = process(config(consul, tmp_path))
    running.until(lambda: running.admin("GET", "/readyz")[0] == 200)
    (worker,) = running.workers()
    os.kill(worker, signal.SIGSTOP)  # what is asked of all workers waits for this one
    with ThreadPoolExecutor() as pool:
        change = pool.submit(running.admin, "PATCH", f"/services/s/targets/127.0.0.1:{a.port}", {"draining": True})
        try:
            assert running.admin("GET", "/healthz")[0] == 200
            consul.say([entry(b.port)], 2)
            for _ in range(3):
                consul.asked()  # the third question comes when the second answer was taken
        finally:
            os.kill(worker, signal.SIGCONT)
        assert change.result()[0] == 404


def test_readiness_waits_for_the_first_answer(process, target, consul, tmp_path):
    a = target()
    running = process(config(consul, tmp_path))
    running.ready()
    status, problem = running.admin("GET", "/readyz")
    assert (status, problem["reasons"]) == (503, ["service s: its instances are not known yet"])
    assert why(get(running.port)) == (503, "no_healthy_target")
    consul.say([entry(a.port)], 1)
    running.until(lambda: running.admin("GET", "/readyz")[0] == 200)
    assert get(running.port).status == 200
    metrics = running.admin("GET", "/metrics")[1]
    assert 'gateway_discovery_errors_total{service="s"} 0' in metrics
    assert 'gateway_discovery_age_seconds{service="s"}' in metrics
    assert f'gateway_target_healthy{{service="s",target="127.0.0.1:{a.port}"}} 1' in metrics


def test_a_restart_serves_although_consul_is_dead(process, target, consul, tmp_path):
    a = target()
    consul.say([entry(a.port)], 1)
    text = config(consul, tmp_path / "state")
    running = process(text)
    running.until(lambda: running.admin("GET", "/readyz")[0] == 200)
    running.until(lambda: list((tmp_path / "state").glob("*.json")))
    assert running.end() == 0
    consul.__exit__()
    running = process(text)
    running.ready()
    assert get(running.port).status == 200
    assert running.admin("GET", "/readyz")[0] == 200
    running.wait_for("gives no instances, the 1 known ones stay")
    assert json.loads(next((tmp_path / "state").glob("*.json")).read_text())["what"] == "Consul service web"


def test_a_drained_target_that_goes_and_comes_back_is_drained_still(process, target, consul, tmp_path):
    """Whatever happens meanwhile: another worker, a reload, another question to Consul."""
    a, b = target(answer_all(reply(200, b"a"))), target(answer_all(reply(200, b"b")))
    both = [entry(each.port, Tags=["v1"]) for each in (a, b)]
    consul.say(both, 1)
    running = process(config(consul, tmp_path) + "workers: 1\n")
    running.until(lambda: {get(running.port).body for _ in range(10)} == {b"a", b"b"})

    def states() -> list[str]:
        return sorted(view["state"] for view in running.admin("GET", "/targets")[1])

    assert running.admin("PATCH", f"/services/s/targets/127.0.0.1:{a.port}", {"draining": True})[0] == 200
    consul.say([entry(b.port)], 2)
    running.until(lambda: states() == ["up"])
    assert running.reload()[0] == 200
    (pid,) = running.workers()
    os.kill(pid, signal.SIGKILL)
    running.until(lambda: not is_alive(pid) and len(running.workers()) == 1)
    consul.say(both, 3)
    running.until(lambda: states() == ["draining", "up"])
    assert {get(running.port).body for _ in range(10)} == {b"b"}
    running.write(config(consul, tmp_path, discover=", tags: [v1]") + "workers: 1\n")
    assert running.reload()[0] == 200
    for _ in range(2):  # the first may go to the question that nobody waits for any more
        consul.say(both, 4)
    running.until(lambda: len(states()) == 2)
    assert states() == ["draining", "up"]
    assert {get(running.port).body for _ in range(10)} == {b"b"}
