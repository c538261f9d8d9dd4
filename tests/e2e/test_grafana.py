"""The dashboard of deploy/grafana asks a real Prometheus, which scrapes a real gateway: every question has an answer.

The gateway has a bit of everything that can go wrong, and traffic to each of it for as long as the questions last.
"""

import json
import math
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit.dns import DnsServer
from tests.kit.process import GatewayProcess, echo
from tests.kit.server_process import free_ports
from tests.kit.servers import Prometheus, prometheus
from tests.kit.wire import get

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARD = json.loads((GRAFANA / "gatewright.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"], target["legendFormat"]) for panel in PANELS for target in panel["targets"]]
CONFIG = """
workers: 2
state: {{redis: "redis://127.0.0.1:{closed}"}}
services:
  s: {{targets: ["http://127.0.0.1:{fast}"]}}
  gone: {{targets: ["http://127.0.0.1:{closed}"], outlier: false, retry: {{budget: 100%}}}}
  found: {{discover: {{dns: {{name: found.test, port: {fast}, resolver: "127.0.0.1:{dns}"}}}}}}
routes:
  - {{name: plain, match: {{path: "/plain/{{id}}"}}, service: s}}
  - {{name: gone, match: {{path: /gone}}, service: gone}}
  - {{name: found, match: {{path: /found}}, service: found}}
  - {{name: cached, match: {{path: /cached}}, service: s, plugins: [cache: {{ttl: 60s}}]}}
  - name: limited
    match: {{path: /limited}}
    service: s
    plugins: [rate_limit: {{limit: 20/minute, on_failure: local}}]
  - name: token
    match: {{path: /token}}
    service: s
    plugins: [jwt: {{algorithms: [RS256], jwks: {{url: "http://127.0.0.1:{closed}/keys"}}}}]
"""
PATHS = ("/plain/1", "/gone", "/found", "/cached", "/limited", "/token", "/nowhere")


class Load:
    """Asks for everything, again and again, until it is told to end."""

    def __init__(self, port: int) -> None:
        self._over = threading.Event()
        self._port = port
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._over.wait(0.1):
            for path in PATHS:
                get(self._port, path)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()


def with_values(expression: str) -> str:
    """Put in what Grafana puts in for variables."""
    expression = expression.replace("$__rate_interval", "5s")
    return re.sub(r"\$(job|instance|route|service)\b", ".*", expression)


def numbers(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [sample for sample in samples if math.isfinite(float(sample["value"][1]))]


def answered(server: Prometheus, expression: str) -> list[dict[str, Any]]:
    """Return the samples that are numbers, once there are any."""
    found: list[dict[str, Any]] = server.until(
        lambda: numbers(server.query(expression)), f"able to answer {expression}"
    )
    return found


@pytest.mark.timeout(120)
def test_every_query_has_an_answer(stack, tmp_path) -> None:
    fast = stack.enter_context(echo())
    dns = stack.enter_context(DnsServer())
    dns.records["found.test.", "A"] = (1, ["127.0.0.1"])
    (closed,) = free_ports(1)
    config = CONFIG.format(fast=fast, closed=closed, dns=dns.port)
    gateway = GatewayProcess(tmp_path, config)
    stack.callback(gateway.kill)
    server = stack.enter_context(prometheus(f"127.0.0.1:{gateway.admin_port}"))
    answered(server, "gateway_build_info")
    gateway.write(config + "# changed\n")
    assert gateway.reload()[0] == 200
    with Load(gateway.port):
        for title, expression, legend in QUERIES:
            samples = answered(server, with_values(expression))
            named = set(re.findall(r"\{\{(\w+)\}\}", legend))
            assert any(named <= sample["metric"].keys() for sample in samples), f"{title}: {legend}"
        (reloads,) = DASHBOARD["annotations"]["list"]
        assert server.query(with_values(reloads["expr"]))
        for variable in DASHBOARD["templating"]["list"][1:]:
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
            assert match is not None
            assert any(sample["metric"].get(match[2]) for sample in answered(server, with_values(match[1])))
            assert match[2] == variable["name"]


def test_the_dashboard_is_one_that_grafana_can_draw() -> None:
    assert len(QUERIES) > 30
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identities)) == len(identities)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        fields = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in fields) < 24
        assert not fields & taken, f"{panel['title']} covers another panel"
        taken |= fields
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
    known = {variable["name"] for variable in DASHBOARD["templating"]["list"]} | {"__rate_interval"}
    used = {name for _, expression, _ in QUERIES for name in re.findall(r"\$(\w+)", expression)}
    assert used <= known


def test_every_metric_of_the_gateway_is_on_it() -> None:
    """Those that are not, say why."""
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `((?:gateway|http)_\w+)`", page, re.MULTILINE))
    text = " ".join(expression for _, expression, _ in QUERIES)
    asked = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\b(?:gateway|http)_\w+(?=\{)", text)}
    assert documented - asked == set()
    assert asked - documented == set()


def test_the_provisioning_files_are_grafanas() -> None:
    files = {file.name: yaml.safe_load(file.read_text()) for file in (GRAFANA / "provisioning").iterdir()}
    assert files["dashboards.yaml"]["providers"][0]["options"]["path"].startswith("/")
    assert files["datasource.yaml"]["datasources"][0]["type"] == "prometheus"
    assert {file["apiVersion"] for file in files.values()} == {1}
