"""Tracing through a whole gateway: contexts in and out, spans as a collector gets them, and a collector that fails."""

import json
import re
import threading
from itertools import pairwise

import pytest

from gatewright.telemetry import span_exporter
from tests.kit.answers import closed_port, hang_up, plan, reply
from tests.kit.collector import CLIENT, SERVER, collector, until
from tests.kit.gateway import run_gateway
from tests.kit.wire import RawSocket, get, request

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FIELDS = ("traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "uber-trace-id")
RETRY = "retry: {attempts: 2, on: [reset, 503], backoff: {base: 1ms, max: 2ms}}\nbreaker: false\noutlier: false\n"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Spans do not wait for others."""
    monkeypatch.setattr(span_exporter, "FLUSH_SECONDS", 0.02)


@pytest.fixture
def heard(stack):
    return stack.enter_context(collector())


def traced(heard, **options):
    return "tracing: " + json.dumps({"endpoint": heard.url, **options}) + "\n"


def told(upstream):
    """The fields about traces in each request that the target got."""
    heads = upstream.received.decode("latin-1").split("\r\n\r\n")
    return [
        {
            name.lower(): value
            for name, value in re.findall(r"(?m)^([^:\r\n]+): ([^\r\n]*)", head)
            if name.lower() in FIELDS
        }
        for head in heads
        if head
    ]


def test_a_request_and_its_attempt(proxy, target, heard):
    upstream = target()
    running = proxy(upstream, extra=traced(heard))
    answer = get(running.port, "/users/7?token=abc&x=1", "User-Agent: me\r\n")
    server, client = heard.wait_for(2)
    assert (server.kind, server.name, client.kind, client.name) == (SERVER, "GET /{rest...}", CLIENT, "GET")
    assert (client.trace_id, client.parent_id) == (server.trace_id, server.span_id)
    assert server.trace_id == answer.get("x-request-id")
    assert server.start <= client.start <= client.end <= server.end
    assert told(upstream) == [{"traceparent": f"00-{server.trace_id}-{client.span_id}-01"}]
    (line,) = running.access_log()
    assert (line["trace_id"], line["span_id"]) == (server.trace_id, server.span_id)
    assert server.attributes["user_agent.original"] == "me"
    assert server.attributes["url.query"] == "token=[redacted]&x=1"
    assert client.attributes["url.full"] == f"{upstream.url}/users/7?token=[redacted]&x=1"
    assert client.attributes["http.response.status_code"] == 200


@pytest.mark.parametrize("idle", [0, 1], ids=["new connection", "idle connection"])
def test_a_context_goes_through(proxy, target, heard, idle):
    upstream = target()
    running = proxy(upstream, extra=traced(heard, sample=0))
    for _ in range(idle):
        get(running.port)  # leaves a connection to the target behind: the next request goes the short way
    get(running.port, "/", f"traceparent: 00-{TRACE}-{SPAN}-01\r\nTraceState: a=1,b=2\r\nX-Else: 1\r\n")
    server, client = heard.wait_for(2)
    assert (server.trace_id, server.parent_id, server.state, server.flags) == (TRACE, SPAN, "a=1,b=2", 0x301)
    assert told(upstream)[-1] == {"traceparent": f"00-{TRACE}-{client.span_id}-01", "tracestate": "a=1,b=2"}
    assert b"X-Else: 1" in upstream.received


def test_what_is_not_sampled_goes_through_and_is_not_recorded(proxy, target, heard):
    upstream = target()
    running = proxy(upstream, extra=traced(heard, sample=0))
    get(running.port, "/", f"traceparent: 00-{TRACE}-{SPAN}-00\r\ntracestate: a=1\r\n")
    get(running.port)
    first, second = told(upstream)
    assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-00", first["traceparent"])
    assert SPAN not in first["traceparent"]
    assert first["tracestate"] == "a=1"
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", second["traceparent"])
    lines = running.access_log()
    assert [f"00-{line['trace_id']}-{line['span_id']}-00" for line in lines] == [
        first["traceparent"],
        second["traceparent"],
    ]
    running.gateway._tracing._exporter.close()
    assert heard.spans == []


def test_a_gateway_that_does_not_trace_touches_nothing(proxy, target):
    upstream = target()
    running = proxy(upstream)
    sent = {
        "traceparent": "not even one",
        "tracestate": "A=1",
        "b3": f"{TRACE}-{SPAN}-1",
        "x-b3-sampled": "1",
        "uber-trace-id": f"{TRACE}:{SPAN}:0:1",
    }
    get(running.port, "/", "".join(f"{name}: {value}\r\n" for name, value in sent.items()))
    assert told(upstream) == [sent]
    assert "trace_id" not in running.access_log()[0]


@pytest.mark.parametrize(
    "field",
    [
        f"b3: {TRACE}-{SPAN}-1",
        f"X-B3-TraceId: {TRACE}\r\nX-B3-SpanId: {SPAN}\r\nX-B3-Sampled: 1",
        f"uber-trace-id: {TRACE}:{SPAN}:0:1",
    ],
    ids=["b3", "b3multi", "jaeger"],
)
def test_other_formats_come_in_and_w3c_goes_out(proxy, target, heard, field):
    upstream = target()
    get(proxy(upstream, extra=traced(heard, sample=0)).port, "/", field + "\r\n")
    server, client = heard.wait_for(2)
    assert (server.trace_id, server.parent_id) == (TRACE, SPAN)
    assert told(upstream) == [{"traceparent": f"00-{TRACE}-{client.span_id}-01"}]


def test_other_formats_go_out_if_asked_for(proxy, target, heard):
    upstream = target()
    get(proxy(upstream, extra=traced(heard, propagate=["b3", "b3multi", "jaeger"])).port)
    server, client = heard.wait_for(2)
    trace, span = server.trace_id, client.span_id
    assert told(upstream) == [
        {
            "b3": f"{trace}-{span}-1",
            "x-b3-traceid": trace,
            "x-b3-spanid": span,
            "x-b3-sampled": "1",
            "uber-trace-id": f"{trace}:{span}:0:1",
        }
    ]


@pytest.mark.parametrize(
    "fields",
    [
        "traceparent: 00-ff\r\n",
        f"traceparent: 00-{TRACE}-{SPAN}-01\r\ntraceparent: 00-{TRACE}-{SPAN}-01\r\n",
        "traceparent: " + "0" * 8000 + "\r\n",
        f"traceparent: 00-{'0' * 32}-{SPAN}-01\r\n",
        "traceparent: \xff\xfe\r\n",
        "b3: " + "-" * 8000 + "\r\n",
        "uber-trace-id: " + "%3A" * 2000 + "\r\n",
        "tracestate: " + ",".join(f"k{n}=1" for n in range(1000)) + "\r\n",
    ],
    ids=range(8),
)
def test_hostile_fields_begin_a_new_trace_and_reach_no_target(proxy, target, heard, fields):
    upstream = target()
    answer = get(proxy(upstream, extra=traced(heard)).port, "/", fields)
    server, client = heard.wait_for(2)
    assert (answer.status, server.parent_id, server.state) == (200, "", "")
    assert told(upstream) == [{"traceparent": f"00-{server.trace_id}-{client.span_id}-01"}]


def test_a_hostile_tracestate_costs_itself_alone(proxy, target, heard):
    upstream = target()
    get(
        proxy(upstream, extra=traced(heard)).port, "/", f"traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=1=\xff\r\n"
    )
    server, client = heard.wait_for(2)
    assert (server.trace_id, server.state) == (TRACE, "")
    assert told(upstream) == [{"traceparent": f"00-{TRACE}-{client.span_id}-01"}]


def test_each_retry_is_a_span_of_its_own(proxy, target, heard):
    upstream = target(plan(hang_up, reply(503), reply(200, b"yes")))
    running = proxy(upstream, RETRY, extra=traced(heard))
    assert get(running.port).body == b"yes"
    server, *clients = heard.wait_for(4)
    assert [each.parent_id for each in clients] == [server.span_id] * 3
    assert len({each.span_id for each in clients}) == 3
    assert [each.attributes.get("http.request.resend_count") for each in clients] == [None, 1, 2]
    assert [each.attributes.get("error.type") for each in clients] == ["upstream_reset", "503", None]
    assert [each["traceparent"].split("-")[2] for each in told(upstream)] == [each.span_id for each in clients]
    assert not server.error
    for before, after in pairwise(clients):
        assert before.end <= after.start


def test_a_target_that_is_not_there(gateway, heard):
    running = gateway(
        f'services: {{s: {{targets: ["http://127.0.0.1:{closed_port()}"], retry: {{attempts: 0}}}}}}\n'
        "routes: [{name: r, match: {path: /*}, service: s}]\n" + traced(heard)
    )
    assert get(running.port).status == 502
    server, client = heard.wait_for(2)
    assert (client.error, client.attributes["error.type"]) == (True, "connect_failed")
    assert client.message
    assert (server.error, server.attributes["error.type"], server.attributes["gatewright.reason"]) == (
        True,
        "connect_failed",
        "connect_failed",
    )


def test_a_stream_is_as_long_as_it_lasts(proxy, target, heard):
    go_on = threading.Event()

    def stream(session):
        session.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        go_on.wait(5)
        session.send(b"0\r\n\r\n")

    running = proxy(target(plan(stream)), extra=traced(heard))
    with RawSocket.connect(running.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        client.read_until(b"hello")
        go_on.set()
        client.read_until(b"0\r\n\r\n")
    server, attempt = heard.wait_for(2)
    assert attempt.end == server.end
    assert attempt.attributes["http.response.status_code"] == 200


def test_what_the_gateway_answers_itself(gateway, heard):
    running = gateway("routes: [{name: r, match: {path: /a}, respond: {status: 204}}]\n" + traced(heard))
    get(running.port, "/a")
    assert get(running.port, "/b").status == 404
    assert request(running.port, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").status == 400
    spans = heard.wait_for(3)
    assert [(each.name, each.attributes["http.response.status_code"], each.error) for each in spans] == [
        ("GET /a", 204, False),
        ("GET", 404, False),
        ("HTTP", 400, False),
    ]
    assert [each.attributes.get("gatewright.reason") for each in spans] == [None, "no_route", "invalid_host"]


PLUGIN = """
from gatewright import Plugin, PluginConfig, Response

class Fast(Plugin[PluginConfig], name="fast"):
    def on_request(self, exchange): exchange.request.headers.set("X-Trace", f"{exchange.trace_id}-{exchange.span_id}")
    def on_response(self, exchange, response): pass
    def on_done(self, exchange): pass

class Slow(Plugin[PluginConfig], name="slow"):
    async def on_request(self, exchange): pass
    def on_upstream_request(self, exchange, attempt): pass
    async def around(self, exchange, call): return await call()

class No(Plugin[PluginConfig], name="no"):
    def on_request(self, exchange): return exchange.reject(403, "no", "No")
"""


@pytest.mark.parametrize(
    ("plugins", "events"),
    [
        (["Fast"], [("fast", "on_request"), ("fast", "on_response"), ("fast", "on_done")]),
        (
            ["Fast", "Slow"],
            [
                ("fast", "on_request"),
                ("slow", "on_request"),
                ("slow", "around"),
                ("slow", "on_upstream_request"),
                ("fast", "on_response"),
                ("fast", "on_done"),
            ],
        ),
        (["No", "Fast"], [("no", "on_request"), ("fast", "on_response"), ("fast", "on_done")]),
    ],
)
def test_plugins_time_stands_in_the_span(gateway, target, heard, plugins, events):
    upstream = target()
    running = gateway(
        f'services: {{s: {{targets: ["{upstream.url}"]}}}}\nroutes: [{{name: r, match: {{path: /*}}, service: s}}]\n'
        + f"plugins: [{', '.join(f'{{use: ./p.py:{name}}}' for name in plugins)}]\n"
        + traced(heard),
        files={"p.py": PLUGIN},
    )
    get(running.port)
    server, *_ = heard.wait_for(1)
    assert [(each["gatewright.plugin.name"], each["gatewright.plugin.phase"]) for _, _, each in server.events] == events
    for _, time, values in server.events:
        assert 0 <= values["gatewright.plugin.duration"] < 5
        assert server.start <= time <= server.end
    if "No" not in plugins:
        assert f"X-Trace: {server.trace_id}-{server.span_id}".encode() in upstream.received


def test_an_application_in_this_process_continues_the_trace(gateway, heard):
    app = """
async def app(scope, receive, send):
    if scope["type"] != "http": return
    found = dict(scope["headers"]).get(b"traceparent", b"none")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": found})
"""
    running = gateway(
        "services: {s: {app: traced_app:app}}\nroutes: [{name: r, match: {path: /*}, service: s}]\n" + traced(heard),
        files={"traced_app.py": app},
    )
    body = get(running.port).body.decode()
    server, client = heard.wait_for(2)
    assert body == f"00-{server.trace_id}-{client.span_id}-01"
    assert 0 <= client.end - client.start <= server.end - server.start
    assert running.access_log()[0]["overhead_ms"] < 60_000


def test_spans_of_the_last_exchanges_are_sent_at_the_end(tmp_path, target, heard):
    config = (
        f'services: {{s: {{targets: ["{target().url}"]}}}}\nroutes: [{{name: r, match: {{path: /*}}, service: s}}]\n'
    )
    with run_gateway(tmp_path, config + traced(heard)) as running:
        get(running.port)
    assert len(heard.spans) == 2


def test_a_dead_collector_costs_a_counter(proxy, target):
    running = proxy(target(), extra=f'tracing: {{endpoint: "http://127.0.0.1:{closed_port()}"}}\n')
    with RawSocket.connect(running.port) as client:
        for _ in range(100):
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert client.read_until(b"ok").startswith(b"HTTP/1.1 200")
    running.call(running.gateway._tracing.close)
    assert running.gateway.spans_dropped == 200


def test_a_reload_changes_where_spans_go(proxy, target, heard, stack):
    other, upstream = stack.enter_context(collector()), target()
    base = (
        f'services: {{s: {{targets: ["{upstream.url}"]}}}}\nroutes: [{{name: r, match: {{path: "/%s"}}, service: s}}]\n'
    )
    running = proxy(upstream)
    get(running.port)
    running.reload(base % "a" + traced(heard))
    get(running.port, "/a")
    assert heard.wait_for(2)[0].name == "GET /a"
    running.reload(base % "{b}" + traced(heard))
    get(running.port, "/b")
    assert heard.wait_for(4)[2].name == "GET /{b}"
    running.reload(base % "{b}" + traced(other, service_name="new"))
    get(running.port, "/c")
    assert other.wait_for(2)[0].resource["service.name"] == "new"
    running.reload(base % "{b}")
    get(running.port, "/d")
    assert "traceparent" not in told(upstream)[-1]
    until(lambda: not [each for each in threading.enumerate() if each.name == "gatewright-spans"])
    assert (len(heard.spans), len(other.spans), running.gateway.spans_dropped) == (4, 2, 0)


def test_the_word_of_clients_may_be_refused(proxy, target, heard):
    upstream = target()
    get(proxy(upstream, extra=traced(heard, parents="trusted")).port, "/", f"traceparent: 00-{TRACE}-{SPAN}-00\r\n")
    server, client = heard.wait_for(2)
    assert (server.trace_id == TRACE, server.parent_id) == (False, "")
    assert told(upstream) == [{"traceparent": f"00-{server.trace_id}-{client.span_id}-01"}]


def test_a_plugin_cannot_write_a_second_context(gateway, target, heard):
    upstream = target()
    running = gateway(
        f'services: {{s: {{targets: ["{upstream.url}"]}}}}\nroutes: [{{name: r, match: {{path: /*}}, service: s}}]\n'
        f"plugins: [{{headers: {{request: {{set: {{traceparent: 00-{TRACE}-{SPAN}-00}}}}}}}}]\n" + traced(heard)
    )
    get(running.port)
    heard.wait_for(2)
    assert upstream.received.lower().count(b"traceparent") == 1
    assert TRACE.encode() not in upstream.received
