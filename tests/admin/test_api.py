"""What the API shows and changes: status, routes, services, targets, plugins, health, metrics, and its errors."""

import json
from typing import Any

import pytest

from gatewright.admin.operations import BreakerView, TargetView
from tests.kit.admin import FakeOperations, RunningAdmin, run_admin

TARGET = "/services/shop/targets/10.0.0.1:8001"


def shown(admin: RunningAdmin, path: str) -> Any:
    answer = admin.ask("GET", path)
    assert (answer.status, answer.get("content-type")) == (200, "application/json"), answer.body
    return json.loads(answer.body)


def test_status(admin: RunningAdmin) -> None:
    status = shown(admin, "/status")
    assert status["started_at"] == "2024-05-01T12:00:00Z"
    assert status["config"]["version"] == admin.operations.version
    assert status["last_reload"]["trigger"] == "start"
    assert [worker["restarts"] for worker in status["workers"]] == [1]


def test_routes(admin: RunningAdmin) -> None:
    shop, ping = shown(admin, "/routes")
    assert (shop["name"], shop["to"], shop["plugins"]) == ("shop", "shop", ["headers"])
    assert ping["to"] == "respond 200"
    one = shown(admin, "/routes/shop")
    assert one | shop == one
    assert (one["services"], one["config"]["match"]["path"]) == (["shop"], "/shop/{rest...}")


def test_services(admin: RunningAdmin) -> None:
    shop, items = shown(admin, "/services")
    assert shop == {"name": "shop", "kind": "targets", "targets": 3, "up": 3, "in_flight": 6}
    assert (items["kind"], items["targets"]) == ("app", 0)
    one = shown(admin, "/services/shop")
    assert (one["routes"], len(one["targets"]), one["config"]["timeouts"]["connect"]) == (["shop"], 3, "3s")
    assert "pool" not in shown(admin, "/services/items")["config"]


def test_secrets_of_routes_are_hidden(admin: RunningAdmin) -> None:
    for path in ("/routes", "/routes/shop", "/services/shop", "/config", "/plugins"):
        text = admin.ask("GET", path).body
        assert b"a-key-of-eight" not in text
        assert b"abcdefgh" not in text
    assert shown(admin, "/routes")[0]["conditions"] == ["x-api-key: ***hidden***"]


def test_what_secret_variables_hold_is_hidden_wherever_a_route_has_it(tmp_path: Any) -> None:
    config = """
services: {s: {targets: ["http://a"]}}
routes:
  - {name: a, match: {path: "/x/Abcdef/{rest...}", host: Abcdef.example.com}, service: s, rewrite: "/bot-Abcdef/{rest}"}
  - {name: b, match: {path: /Abcdef/*, query: {code: x-of-b}}, service: s, strip_prefix: /Abcdef}
"""
    with run_admin(FakeOperations(tmp_path, config, secrets=frozenset({"Abcdef"}))) as admin:
        for path in ("/routes", "/routes/a", "/routes/b", "/config"):
            text = admin.ask("GET", path).body.lower()
            assert b"abcdef" not in text
            assert b"x-of-b" not in text
        a, b = shown(admin, "/routes")
    assert (a["path"], a["hosts"]) == ("/x/***hidden***/{rest...}", ["***hidden***.example.com"])
    assert (a["rewrite"], b["rewrite"]) == ("/bot-***hidden***/{rest}", "strip /***hidden***")


def test_targets(admin: RunningAdmin) -> None:
    every = shown(admin, "/targets")
    assert [target["name"] for target in every] == ["10.0.0.1:8001", "10.0.0.2:8001", "[::1]:9"]
    assert shown(admin, "/services/shop/targets") == every
    assert shown(admin, "/services/items/targets") == []
    assert shown(admin, "/services/shop/targets/[::1]:9") == every[2]
    assert shown(admin, "/services/shop/targets/%5B%3A%3A1%5D%3A9") == every[2]


@pytest.mark.parametrize(
    ("change", "call"),
    [
        ({"draining": True}, (True, None)),
        ({"draining": False}, (False, None)),
        ({"weight": 0}, (None, 0)),
        ({"draining": True, "weight": 65535}, (True, 65535)),
    ],
)
def test_a_target_is_changed(admin: RunningAdmin, change: dict[str, Any], call: tuple[Any, Any]) -> None:
    answer = admin.ask("PATCH", TARGET, change)
    assert answer.status == 200
    assert json.loads(answer.body) == shown(admin, TARGET)
    assert change.items() <= json.loads(answer.body).items()
    assert admin.operations.calls == [("set_target", "shop", "10.0.0.1:8001", *call)]


def test_an_application_is_no_target_to_change(admin: RunningAdmin) -> None:
    answer = admin.ask("PATCH", "/services/items/targets/services.items.main:app", {"draining": True})
    body = json.loads(answer.body)
    assert (answer.status, body["reason"]) == (422, "invalid_request")
    assert body["detail"].startswith("services.items.main:app is an application within the workers: ")
    assert admin.operations.calls == []


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"draining": None},
        {"draining": 1},
        {"draining": "true"},
        {"weight": -1},
        {"weight": 65536},
        {"weight": 1.0},
        {"weight": True},
        {"weigth": 1},
        [],
        "x",
        None,
        b"{",
        b"\xff",
        b"[" * 60_000,
    ],
)
def test_a_change_that_makes_no_sense(admin: RunningAdmin, change: Any) -> None:
    body = change if isinstance(change, bytes) else json.dumps(change).encode()
    answer = admin.ask("PATCH", TARGET, body, content_type="application/json")
    assert (answer.status, json.loads(answer.body)["reason"]) == (422, "invalid_request")
    assert admin.operations.calls == []


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/routes/shopp", "There is no route called shopp; did you mean shop?"),
        ("/services/zzz", "There is no service called zzz"),
        ("/services/shp/targets", "There is no service called shp; did you mean shop?"),
        (
            "/services/shop/targets/10.0.0.1:80",
            "There is no target of shop called 10.0.0.1:80; did you mean 10.0.0.1:8001?",
        ),
        ("/services/zzz/targets/a", "There is no service called zzz"),
        ("/nowhere", "There is nothing at /nowhere; /docs lists what there is"),
        ("/status/", "There is nothing at /status/; /docs lists what there is"),
        ("/a%1b[2J", "There is nothing at /a\\x1b[2J; /docs lists what there is"),
    ],
)
def test_what_is_not_there(admin: RunningAdmin, path: str, detail: str) -> None:
    answer = admin.ask("GET", path)
    body = json.loads(answer.body)
    assert (answer.status, body["reason"], body["detail"]) == (404, "not_found", detail)
    if path.startswith("/services"):
        changed = admin.ask("PATCH", path, {"weight": 1})
        assert changed.status == (404 if "/targets/" in path else 405)


def test_methods(admin: RunningAdmin) -> None:
    for method, path, allowed in [
        ("DELETE", "/config", "GET, HEAD, PUT"),
        ("POST", TARGET, "GET, HEAD, PATCH"),
        ("GET", "/reload", "POST"),
        ("OPTIONS", "/status", "GET, HEAD"),
        ("TRACE", "/status", "GET, HEAD"),
    ]:
        answer = admin.ask(method, path)
        assert (answer.status, answer.get("allow")) == (405, allowed)
        assert json.loads(answer.body)["reason"] == "method_not_allowed"


def test_head_is_get_without_a_body(admin: RunningAdmin) -> None:
    answer = admin.ask("HEAD", "/targets")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.get("content-length") == admin.ask("GET", "/targets").get("content-length")


def test_plugins(admin: RunningAdmin) -> None:
    plugins = {plugin["name"]: plugin for plugin in shown(admin, "/plugins")}
    headers = plugins["headers"]
    assert (headers["kind"], headers["used"]) == ("built-in", ["routes[0].plugins[0]"])
    assert headers["description"] == "Set, add, remove and rename header fields."
    assert headers["settings"]["properties"].keys() == {"request", "response"}
    assert plugins["transform"]["used"] == []


def test_a_plugin_by_import_path_is_shown_and_not_imported(tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')\n")
    config = "plugins:\n  - {use: './mine.py:Mine', size: 1}\n  - {use: './mine.py:Mine'}\n"
    with run_admin(FakeOperations(tmp_path, config)) as admin:
        mine = shown(admin, "/plugins")[-1]
    assert (mine["name"], mine["kind"], mine["settings"]) == ("./mine.py:Mine", "import", None)
    assert mine["used"] == ["plugins[0]", "plugins[1]"]


def test_probes(admin: RunningAdmin) -> None:
    assert shown(admin, "/healthz") == {"status": "ok"}
    assert shown(admin, "/readyz") == {"status": "ready"}
    admin.operations.reasons = ["shutting down"]
    answer = admin.ask("GET", "/readyz")
    body = json.loads(answer.body)
    assert (answer.status, body["reason"], body["reasons"]) == (503, "not_ready", ["shutting down"])
    assert admin.ask("GET", "/healthz").status == 200


def test_metrics_are_in_the_form_that_was_asked_for(admin: RunningAdmin) -> None:
    plain = admin.ask("GET", "/metrics")
    assert (plain.get("content-type"), plain.body) == (
        "text/plain; version=0.0.4; charset=utf-8",
        b"gatewright_requests_total 1\n",
    )
    other = admin.ask("GET", "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert other.get("content-type") == "application/openmetrics-text; version=1.0.0; charset=utf-8"


def test_the_schema_is_that_of_the_command(admin: RunningAdmin) -> None:
    assert shown(admin, "/schema")["title"] == "Gatewright configuration"


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({}, "up"),
        ({"breaker": BreakerView(open=1, closed=1)}, "open"),
        ({"breaker": BreakerView(half_open=1)}, "up"),
        ({"ejected": 1, "breaker": BreakerView(open=1)}, "ejected"),
        ({"healthy": False, "ejected": 1}, "unhealthy"),
        ({"weight": 0, "healthy": False}, "disabled"),
        ({"draining": True, "weight": 0}, "draining"),
    ],
)
def test_one_word_for_a_target(values: dict[str, Any], state: str) -> None:
    usual: dict[str, Any] = {
        "service": "s", "name": "a:1", "url": "http://a:1", "weight": 1, "configured_weight": 1, "draining": False,
        "healthy": True, "in_flight": 0,
    }  # fmt: skip
    assert TargetView(**usual | values).state == state
