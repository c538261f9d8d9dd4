"""Discovery and registration with the real Consul: instances come, go and fail under load, and Consul itself dies."""

from contextlib import ExitStack
from typing import Any

import pytest

from tests.kit.process import EchoProcess, GatewayProcess, LoadProcess
from tests.kit.server_process import fetch
from tests.kit.servers import Consul, consul_agent
from tests.kit.wire import get

ROUTE = "routes: [{name: all, match: {path: '/{rest...}'}, service: s}]\n"


class Instance:
    """A target in a process of its own, with an entry in Consul whose check the test decides."""

    def __init__(self, consul: Consul, name: str, **service: Any) -> None:
        self.name = name
        self._consul = consul
        self._process = EchoProcess(name)
        self.port = self._process.port
        own = {"Name": "web", "ID": name, "Address": "127.0.0.1", "Port": self.port} | service
        check = {"CheckID": f"check-{name}", "TTL": "1h", "Status": "passing"}
        fetch(f"{consul.url}/v1/agent/service/register", own | {"Check": check}, "PUT")

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def check(self, verdict: str) -> None:
        """Let its check pass, warn or fail."""
        fetch(f"{self._consul.url}/v1/agent/check/{verdict}/check-{self.name}", method="PUT")

    def leave(self) -> None:
        """Take its entry out of Consul."""
        fetch(f"{self._consul.url}/v1/agent/service/deregister/{self.name}", method="PUT")

    def die(self) -> None:
        """End as a crash would."""
        self._process.kill()


@pytest.fixture
def consul(stack: ExitStack) -> Consul:
    return stack.enter_context(consul_agent())


@pytest.fixture
def start(stack, tmp_path, consul):
    """Start things that end with the test: `start(name)` an instance, `start.gateway(text)`, `start.load(port)`."""

    class Start:
        def __call__(self, name: str, **service: Any) -> Instance:
            instance = Instance(consul, name, **service)
            stack.callback(instance.die)
            return instance

        def gateway(self, text: str) -> GatewayProcess:
            gateway = GatewayProcess(
                tmp_path, f"discovery: {{folder: state}}\nconsul: {{address: '{consul.url}'}}\n{text}"
            )
            stack.callback(gateway.kill)
            gateway.until(lambda: gateway.admin("GET", "/readyz")[0] == 200, "ready")
            return gateway

        def load(self, port: int) -> LoadProcess:
            load = LoadProcess(port, rate=400, connections=8)
            stack.callback(load.kill)
            return load

    return Start()


def up(gateway: GatewayProcess) -> list[str]:
    return sorted(view["name"] for view in gateway.admin("GET", "/targets")[1])


def is_up(gateway: GatewayProcess, *instances: Instance) -> None:
    wanted = sorted(instance.place for instance in instances)
    gateway.until(lambda: up(gateway) == wanted, f"at {wanted}")


def serve(gateway: GatewayProcess, count: int = 100) -> None:
    """Return when so many more requests have been answered."""
    goal = gateway.status()["requests_total"] + count
    gateway.until(lambda: gateway.status()["requests_total"] >= goal, "served")


def test_instances_come_go_and_fail_and_no_request_is_lost(start, consul) -> None:
    a, b = start("a"), start("b")
    gateway = start.gateway(f"workers: 2\nservices: {{s: {{discover: {{consul: {{service: web}}}}}}}}\n{ROUTE}")
    is_up(gateway, a, b)
    load = start.load(gateway.port)
    serve(gateway)
    c = start("c")
    is_up(gateway, a, b, c)
    serve(gateway)
    a.leave()
    is_up(gateway, b, c)
    a.die()  # after it was taken out, as an orderly shutdown does
    b.die()  # without a word: what meets it is tried elsewhere until Consul knows
    serve(gateway, 300)
    b.check("fail")
    is_up(gateway, c)
    d = start("d")
    is_up(gateway, c, d)
    serve(gateway)
    c.check("warn")
    is_up(gateway, d)
    c.check("pass")
    is_up(gateway, c, d)
    assert gateway.reload()[0] == 200
    is_up(gateway, c, d)
    account = load.end()
    assert account["failures"] == {}
    assert account["unanswered"] == 0
    assert account["tags"].keys() == {"a", "b", "c", "d"}


def test_consul_dies_and_comes_back_and_no_request_is_lost(start, consul) -> None:
    a, b = start("a"), start("b")
    gateway = start.gateway(f"services: {{s: {{discover: {{consul: {{service: web, keep: 30s}}}}}}}}\n{ROUTE}")
    load = start.load(gateway.port)
    serve(gateway)
    consul.kill()
    gateway.wait_for("gives no instances, the 2 known ones stay")
    serve(gateway)
    assert up(gateway) == sorted([a.place, b.place])
    consul.start()
    gateway.wait_for("answers again")
    for instance in (a, b):  # Consul forgets verdicts in a restart, and begins with bad ones
        instance.check("pass")
    c = start("c")
    is_up(gateway, a, b, c)
    consul.pause()
    consul.resume()
    b.leave()
    is_up(gateway, a, c)
    account = load.end()
    assert (account["failures"], account["unanswered"]) == ({}, 0)


def test_tags_and_weights(start, consul) -> None:
    a = start("a", Tags=["blue", "v1"], Weights={"Passing": 4, "Warning": 1})
    start("b", Tags=["v1"])
    gateway = start.gateway(f"services: {{s: {{discover: {{consul: {{service: web, tags: [v1, blue]}}}}}}}}\n{ROUTE}")
    assert [(view["name"], view["weight"]) for view in gateway.admin("GET", "/targets")[1]] == [(a.place, 4)]


def test_a_token_is_needed_where_consul_wants_one(stack, tmp_path) -> None:
    token = "6f3a2c1e-0000-4000-8000-000000000001"
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"initial_management": token, "agent": token}}
    with consul_agent(acl=acl) as consul:
        headers = {"X-Consul-Token": token}
        own = {"Name": "web", "ID": "a", "Address": "127.0.0.1", "Port": 1}

        def is_entered() -> bool:
            fetch(f"{consul.url}/v1/agent/service/register", own, "PUT", headers)
            return bool(fetch(f"{consul.url}/v1/health/service/web", headers=headers))

        consul.until(is_entered, "able to take the entry")
        weak = fetch(f"{consul.url}/v1/acl/token", {"Description": "may do nothing"}, "PUT", headers)["SecretID"]
        service = f"services: {{s: {{discover: {{consul: {{service: web, address: '{consul.url}', TOKEN}}}}}}}}\n"
        text = f"discovery: {{folder: false}}\n{service}{ROUTE}"
        gateway = GatewayProcess(tmp_path, text.replace("TOKEN", f"token: '{weak}'"))
        stack.callback(gateway.kill)
        gateway.wait_for("gives no instances, none are known yet: the token may not see")
        assert gateway.admin("GET", "/readyz")[0] == 503
        gateway.write(text.replace("TOKEN", f"token: '{token}'"))
        assert gateway.reload()[0] == 200
        gateway.until(lambda: up(gateway) == ["127.0.0.1:1"])
        assert token not in str(gateway.admin("GET", "/config"))


def test_consuls_dns(start, consul) -> None:
    a, b = start("a"), start("b")
    dns = f"{{name: web.service.consul, srv: true, resolver: '127.0.0.1:{consul.dns_port}', interval: 100ms, keep: 0s}}"
    gateway = start.gateway(f"services: {{s: {{discover: {{dns: {dns}}}}}}}\n{ROUTE}")
    is_up(gateway, a, b)
    assert get(gateway.port).body in (b"/ a", b"/ b")
    a.leave()
    is_up(gateway, b)


def entries(consul: Consul, name: str = "gateway", passing: bool = True) -> list[dict[str, Any]]:
    return list(fetch(f"{consul.url}/v1/health/service/{name}{'?passing=true' if passing else ''}"))


def test_the_gateway_has_its_own_entry_and_takes_it_out(stack, tmp_path, consul) -> None:
    text = (
        f"consul: {{address: '{consul.url}', register: {{tags: [edge], meta: {{team: web}}, CHECK: {{interval: 1s}}}}}}\n"
        "routes: [{name: health, match: {path: /well}, health: {}}]\n"
    )
    gateway = GatewayProcess(tmp_path, text.replace("CHECK", "check"))
    stack.callback(gateway.kill)
    gateway.wait_for("entered in Consul as gateway")
    (found,) = entries(consul)
    service = found["Service"]
    assert service["ID"] == f"gateway-127.0.0.1-{gateway.port}"
    assert (service["Address"], service["Port"], service["Tags"]) == ("127.0.0.1", gateway.port, ["edge"])
    assert service["Meta"] == {"team": "web"}

    def verdict(url: str) -> bool:
        checks = fetch(f"{consul.url}/v1/agent/checks").values()
        return [check["Status"] for check in checks if f"HTTP GET {url}: 200 OK" in check["Output"]] == ["passing"]

    gateway.until(lambda: verdict(f"http://127.0.0.1:{gateway.admin_port}/readyz"), "checked by Consul")
    gateway.write(text.replace("CHECK: {interval: 1s}", "id: mine, check: {path: /well, interval: 1s}"))
    assert gateway.reload()[0] == 200
    gateway.until(lambda: [row["Service"]["ID"] for row in entries(consul, passing=False)] == ["mine"], "entered anew")
    gateway.until(lambda: verdict(f"http://127.0.0.1:{gateway.port}/well"), "checked by Consul anew")
    assert gateway.end() == 0
    assert entries(consul, passing=False) == []
