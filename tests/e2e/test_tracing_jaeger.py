"""The trace of a request through gateway and demo service, as the real Jaeger has it."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.demo import uvicorn
from tests.kit.process import GatewayProcess
from tests.kit.servers import Jaeger, jaeger
from tests.kit.wire import get

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def real(stack: ExitStack) -> Jaeger:
    return stack.enter_context(jaeger())


def spans_of(real, trace_id, *kinds):
    """The trace's spans, once there are such of these kinds."""

    def enough():
        spans = real.trace(trace_id)
        present = [tags(span).get("span.kind", "internal") for span in spans]
        return spans if all(present.count(kind) >= kinds.count(kind) for kind in kinds) else None

    return real.until(enough, f"given the spans of {trace_id}")


def tags(span):
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def parent_of(span):
    return next((each["spanID"] for each in span["references"] if each["refType"] == "CHILD_OF"), None)


def test_gateway_and_service_stand_in_one_trace(stack, real, tmp_path):
    """Gateway and service are processes of their own, and find Jaeger by the demo's variables."""
    variables = {"JAEGER_HOST": "127.0.0.1", "JAEGER_PORT": str(real.port)}
    service = stack.enter_context(uvicorn("services.service_a.main:app", OTEL_BSP_SCHEDULE_DELAY="50", **variables))
    (line,) = [line for line in (ROOT / "gateway.yaml").read_text().splitlines() if "JAEGER_HOST" in line]
    config = f"""
tracing:
{line}
services: {{service-a: {{targets: ["http://127.0.0.1:{service.port}"]}}}}
routes: [{{name: service-a, match: {{path: "/service-a/{{rest...}}"}}, service: service-a, rewrite: "/{{rest}}"}}]
"""
    process = GatewayProcess(tmp_path, config, {"OTEL_EXPORTER_OTLP_ENDPOINT": "", **variables})
    stack.callback(process.kill)
    upper = "53995c3f42cd8ad8"
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = get(process.port, "/service-a/some-path?x=1", f"traceparent: 00-{trace_id}-{upper}-01\r\n")
    assert answer.status == 200
    found = spans_of(real, trace_id, "server", "client", "server")
    server = next(span for span in found if span["operationName"] == "GET /service-a/{rest...}")
    client = next(span for span in found if parent_of(span) == server["spanID"])
    inner = next(span for span in found if parent_of(span) == client["spanID"])
    assert parent_of(server) == upper
    assert (tags(server)["span.kind"], tags(client)["span.kind"], tags(inner)["span.kind"]) == (
        "server",
        "client",
        "server",
    )
    assert server["processID"] == client["processID"] != inner["processID"]
    assert tags(client)["url.full"] == f"http://127.0.0.1:{service.port}/some-path?x=1"
    assert server["startTime"] <= client["startTime"] <= inner["startTime"] + 1000
    assert process.end() == 0


def test_the_id_that_a_client_was_told_finds_its_trace(proxy, target, real):
    running = proxy(target(), extra=f'tracing: {{endpoint: "{real.url}"}}\n')
    request_id = get(running.port, "/a/b").get("x-request-id")
    found = spans_of(real, request_id, "server", "client")
    assert sorted(span["operationName"] for span in found) == ["GET", "GET /{rest...}"]
    assert all(not span.get("warnings") for span in found)


def test_jaeger_dies_and_comes_back(proxy, target, real):
    running = proxy(target(), extra=f'tracing: {{endpoint: "{real.url}"}}\n')
    get(running.port)
    real.stop()
    for _ in range(20):
        assert get(running.port).status == 200
    real.start()

    def arrived():
        request_id = get(running.port).get("x-request-id")
        try:
            return spans_of(real, request_id, "server", "client")
        except AssertionError:
            return None

    assert arrived()
