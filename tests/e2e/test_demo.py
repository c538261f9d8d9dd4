"""The repository's gateway.yaml in front of the real demo services, all as processes on free ports.

Everything that the demo promises, once: without other servers, then with Redis, Consul and Jaeger. How it is started by
one command, tests/run_all has.
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit.demo import CLEAN, NAMES, ROOT, Demo, Service, copy_demo, demo, uvicorn
from tests.kit.server_process import fetch, free_ports
from tests.kit.servers import Consul, Jaeger, Redis, consul_agent, jaeger, redis_server
from tests.kit.tokens import SECRET, token

A, B = "services.service_a.main:app", "services.service_b.main:app"


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[Service, Service]]:
    with uvicorn(A) as a, uvicorn(B) as b:
        yield a, b


@pytest.fixture(scope="module")
def plain(services: tuple[Service, Service], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The demo without other servers."""
    a, b = services
    environ = {"SERVICE_A_URL": a.url, "SERVICE_B_URL": b.url, "RATE_LIMIT": "5/minute"}
    with demo(tmp_path_factory.mktemp("plain"), **environ) as running:
        yield running


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("name", ["service-a", "service-b"])
def test_every_method_reaches_its_service(plain: Demo, name: str, method: str) -> None:
    data = {"n": 1} if method in ("POST", "PUT", "PATCH") else None
    answer = plain.ask(method, f"/{name}/some-path", data, sub=f"{method}-{name}")
    expected: dict[str, object] = {"message": f"{method} request to {name}" if method != "GET" else f"This is {name}"}
    if data is not None:
        expected["data"] = data | ({"transformed": True} if (name, method) == ("service-b", "POST") else {})
    assert (answer.status, answer.json) == (200, expected)


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({}, "Authorization header missing"),
        ({"Authorization": "Basic YTpi"}, "Invalid authorization scheme"),
        ({"Authorization": f"Bearer {token(exp=int(time.time()) - 5)}"}, "Token has expired"),
        ({"Authorization": f"Bearer {token('another secret, and a longer one than 32 bytes')}"}, "Invalid token"),
    ],
)
def test_without_a_good_token_there_is_no_answer(plain: Demo, fields: dict[str, str], detail: str) -> None:
    answer = plain.send("GET", "/service-a/some-path", headers=fields)
    assert (answer.status, answer.json["detail"]) == (401, detail)
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_the_service_is_told_who_calls(plain: Demo) -> None:
    arrived = dict(plain.ask("GET", "/service-a/headers", sub="told", **{"X-User": "somebody else"}).json["headers"])
    assert arrived["x-user"] == "told"


def test_a_consumer_is_limited_and_another_is_not(plain: Demo) -> None:
    answers = [plain.ask("DELETE", "/service-a/some-path", sub="eager") for _ in range(6)]
    assert [answer.status for answer in answers] == [200] * 5 + [429]
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert plain.ask("DELETE", "/service-a/some-path", sub="calm").status == 200


def test_answers_are_kept_for_each_consumer_apart(plain: Demo) -> None:
    def asked(sub: str) -> str:
        return str(plain.ask("GET", "/service-a/some-path?kept", sub=sub).headers["cache-status"])

    assert "fwd=uri-miss" in asked("reader")
    assert "hit" in asked("reader")
    assert "fwd=uri-miss" in asked("other reader")
    assert plain.ask("PUT", "/service-a/some-path?kept", {}, sub="writer").status == 200
    assert "fwd=uri-miss" in asked("reader")


def test_an_item_can_be_read_twice_a_minute_without_a_token(plain: Demo) -> None:
    answers = [plain.send("GET", path) for path in ("/items/42", "/items/42", "/items/43")]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[0].json["id"] == 42
    assert "hit" in answers[1].headers["cache-status"]
    assert answers[2].json["reason"] == "rate_limited"


def test_a_request_is_logged_with_headers_and_body_but_without_secrets(plain: Demo) -> None:
    answer = plain.ask("POST", "/service-a/some-path", {"shown": 1, "password": "hush"}, sub="logged", **{"X-A": "b"})
    line = plain.logged(answer.headers["x-request-id"])
    assert (line["method"], line["path"], line["status"]) == ("POST", "/service-a/some-path", 200)
    assert line["consumer"] == "logged"
    assert line["request"]["headers"]["x-a"] == "b"
    assert '"shown":1' in str(line["request"]["body"]).replace(" ", "")
    assert "POST request to service-a" in str(line["response"]["body"])
    assert "content-type" in line["response"]["headers"]
    assert "hush" not in str(line)
    assert token(sub="logged") not in str(line)
    line = plain.logged(plain.ask("GET", "/service-a/some-path", sub="logged").headers["x-request-id"])
    assert line["request"]["headers"]["authorization"]
    assert "body" not in {**line["request"], **line["response"]}


def test_the_admin_api_shows_status_and_metrics(plain: Demo) -> None:
    assert plain.process.status()["state"] == "ready"
    _, metrics = plain.process.admin("GET", "/metrics")
    assert "gateway_requests_total{" in metrics
    assert "gateway_ratelimit_allowed_total{" in metrics


def test_what_there_is_not_is_404_or_405(plain: Demo) -> None:
    assert plain.send("GET", "/nowhere").status == 404
    assert plain.send("POST", "/items/42").status == 405


def test_health_needs_no_token_and_is_never_limited(plain: Demo) -> None:
    for _ in range(8):
        answer = plain.send("GET", "/health")
        assert answer.status == 200
        assert "ratelimit" not in answer.headers
        assert answer.json["status"] == "healthy"


def test_a_service_that_dies_is_seen_and_comes_back(plain: Demo, services: tuple[Service, Service]) -> None:
    _, b = services
    b.process.kill()
    b.process.wait()
    report = plain.process.until(lambda: (found := plain.health())["status"] == "degraded" and found, "service B's end")
    assert (report["service_a_healthy"], report["service_b_healthy"]) == (True, False)
    assert plain.ask("GET", "/service-b/some-path?new", sub="late").status in (502, 503)
    with uvicorn(B, b.port):
        plain.process.until(lambda: plain.health()["status"] == "healthy", "service B's return")
        assert plain.ask("GET", "/service-b/some-path?new", sub="late").status == 200


def test_the_variables_choose_paths_algorithm_and_log(services: tuple[Service, Service], tmp_path: Path) -> None:
    environ = {"SERVICE_A_URL": services[0].url, "HEALTH_CHECK_SERVICE_A": "/some-path", "HEALTH_CHECK_PATH": "/well"}
    environ |= {"JWT_ALGORITHM": "HS512", "DEBUG": "true", "WORKERS": "2"}
    with demo(tmp_path, **environ) as running:
        good = {"Authorization": f"Bearer {token(algorithm='HS512')}"}
        assert running.send("GET", "/service-a/some-path", headers=good).status == 200
        assert running.ask("GET", "/service-a/some-path").json["detail"] == "Invalid token"  # HS256
        assert running.send("GET", "/well").json["service_a_healthy"] is True
        assert len(running.process.workers()) == 2
        log = tmp_path / "access.log"
        running.process.until(lambda: "/service-a/some-path" in log.read_text(), "the request's line")
        assert not log.read_text().startswith("{")


def test_uvicorn_runs_the_same_file(services: tuple[Service, Service], tmp_path: Path) -> None:
    a, b = services
    environ = dict.fromkeys(NAMES, "") | {"JWT_SECRET": SECRET, "SERVICE_A_URL": a.url, "SERVICE_B_URL": b.url}
    with uvicorn("main:app", folder=copy_demo(tmp_path), **environ) as gateway:
        assert gateway.send("GET", "/service-a/some-path").json["detail"] == "Authorization header missing"
        good = {"Authorization": f"Bearer {token()}"}
        assert gateway.send("GET", "/service-a/some-path", headers=good).json == {"message": "This is service-a"}
        assert [gateway.send("GET", "/items/7").status for _ in range(3)] == [200, 200, 429]
        assert gateway.send("GET", "/health").status == 200


@pytest.mark.parametrize("command", [["gatewright", "check"], ["uvicorn", "main:app"]])
def test_a_new_checkout_says_how_to_get_a_secret(command: list[str], tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name(command[0]))
    done = subprocess.run(
        [program, *command[1:]],
        cwd=copy_demo(tmp_path),
        env=CLEAN,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "JWT_SECRET is not set: ./run_all.sh or scripts/make_secret.sh puts one into .env" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("jwt.secret") == 1


def test_the_example_has_every_variable_and_no_other() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "gateway.yaml").read_text()))
    scripts = (ROOT / "run_all.sh").read_text() + (ROOT / "scripts/full.sh").read_text()
    assert used | set(re.findall(r"setting ([A-Z_]+)", scripts)) - {"NAME"} == set(NAMES)


# With Redis, Consul and Jaeger


class Full:
    """The demo with everything."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.redis: Redis = stack.enter_context(redis_server())
        self.consul: Consul = stack.enter_context(consul_agent())
        self.jaeger: Jaeger = stack.enter_context(jaeger())
        ports = free_ports(2)
        environ = {
            "CONSUL_HTTP_ADDR": self.consul.url,
            "JAEGER_HOST": "127.0.0.1",
            "JAEGER_PORT": str(self.jaeger.port),
            "OTEL_BSP_SCHEDULE_DELAY": "200",  # milliseconds between the services' batches of spans
        }
        for app, name, port in ((A, "service-a", ports[0]), (B, "service-b", ports[1])):
            url = {f"{name.upper().replace('-', '_')}_URL": f"http://127.0.0.1:{port}"}
            stack.enter_context(uvicorn(app, port, **environ, **url))
        for name in ("service-a", "service-b"):
            place = f"{self.consul.url}/v1/health/service/{name}?passing=true"
            self.consul.until(lambda place=place: fetch(place), f"told of {name}")
        # Nobody listens on the gateway's default targets of 127.0.0.1: what it reaches, it knows from Consul.
        nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
        environ |= {"REDIS_URL": f"{self.redis.url}/0", "SERVICE_A_URL": nowhere, "SERVICE_B_URL": nowhere}
        self.demo = stack.enter_context(demo(folder, **environ))
        self.demo.process.until(lambda: self.demo.health()["status"] == "healthy", "the services' health")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Full]:
    with ExitStack() as stack:
        yield Full(stack, tmp_path_factory.mktemp("full"))


def test_services_are_found_by_consul_and_traces_are_in_jaeger(full: Full) -> None:
    answer = full.demo.ask("POST", "/service-b/some-path", {"a": 1})
    assert answer.json["data"] == {"a": 1, "transformed": True}
    trace = full.demo.logged(answer.headers["x-request-id"])["trace_id"]

    spans = full.jaeger.until(lambda: two_sides(full.jaeger.trace(trace)), "told of both sides' spans")
    (client,) = (span for span in spans if kind(span) == "client")
    (server,) = (span for span in spans if kind(span) == "server" and span["processID"] != client["processID"])
    assert [each["spanID"] for each in server["references"]] == [client["spanID"]]


def kind(span: Any) -> str:
    return next((str(tag["value"]) for tag in span["tags"] if tag["key"] == "span.kind"), "internal")


def two_sides(spans: Any) -> Any:
    """The spans, once there are some of two processes."""
    return spans if len({span["processID"] for span in spans}) == 2 else None


def test_limits_and_answers_are_in_redis(full: Full) -> None:
    assert [full.demo.send("GET", "/items/5").status for _ in range(3)] == [200, 200, 429]
    keys = "\n".join(full.redis.ask("KEYS", "*"))
    assert "limit" in keys
    assert "/items/5" in keys


def test_it_serves_on_without_them(full: Full) -> None:
    for server in (full.redis, full.consul, full.jaeger):
        server.kill()
    answer = full.demo.ask("GET", "/service-a/some-path?alone")
    assert (answer.status, answer.json) == (200, {"message": "This is service-a"})
    assert full.demo.send("GET", "/health").status == 200
