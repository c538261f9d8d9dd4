"""Spans as they are written, read back by OpenTelemetry's own protobuf classes."""

from types import SimpleNamespace

import pytest

from gatewright.core.exchange import Consumer, Exchange
from gatewright.core.headers import Headers
from gatewright.core.messages import Request
from gatewright.core.peer import Peer
from gatewright.telemetry.otlp import Encoder
from gatewright.telemetry.tracing import AttemptNote, RecordedTrace
from tests.kit.collector import CLIENT, SERVER, read

TRACE, SPAN, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "53995c3f42cd8ad8"
OFFSET = 1_700_000_000_000_000_000
TARGET = SimpleNamespace(host="10.0.0.7", port=8001, url="http://10.0.0.7:8001")
APP = SimpleNamespace(host="shop.main:app", port=0, url="shop.main:app")
PLUGIN = SimpleNamespace(name="jwt")


def recorded(parent="", flags="01", state=""):
    return RecordedTrace(lambda *_: "", TRACE, SPAN, flags, state, parent, lambda: 0.0)


def attempt(target=TARGET, span="11" * 8, started=1.1, ended=None, status=None, error="", cause=""):
    note = AttemptNote(span, target, started)
    note.ended, note.status, note.error, note.cause = ended, status, error, cause
    return note


def finished(
    trace=None,
    method="GET",
    path="/users/7",
    query=None,
    version=1,
    host=b"api.example.com",
    user_agent=b"",
    peer=None,
    consumer=None,
    started=1.0,
    ended=1.5,
    **changes,
):
    """What an exporter is given: an exchange that is over, its trace, and when it ended."""
    headers = Headers()
    if user_agent:
        headers.append((b"user-agent", user_agent, b"User-Agent: " + user_agent + b"\r\n", 0))
    request = Request(method, path, query, version, host, headers)
    exchange = Exchange(request, peer or Peer("10.1.1.1", 4444, 80), None, started)
    exchange.trace = trace or recorded()
    exchange.consumer = Consumer(consumer) if consumer is not None else None
    values = {"id": TRACE, "_client_ip": "192.0.2.1", "route": "users", "status": 200}
    for name, value in (values | changes).items():
        setattr(exchange, name, value)
    return exchange, exchange.trace, ended


def request(encoder, spans):
    """What is sent of encoded spans."""
    return encoder.head(len(spans)) + spans


def encoded(*exchanges, routes=None):
    encoder = Encoder("shop-gateway", {"users": "/users/{id}"} if routes is None else routes)
    return read(request(encoder, b"".join([encoder.spans(*each, OFFSET) for each in exchanges])))


def spans_of(*attempts, parent="", **changes):
    trace = recorded(parent)
    trace.attempts += attempts
    return encoded(finished(trace, **changes))


def test_the_span_of_an_exchange():
    (span,) = encoded(finished(recorded(PARENT, state="a=1"), query="q=1&token=abc", user_agent=b"curl/8\xe9"))
    assert (span.trace_id, span.span_id, span.parent_id, span.state) == (TRACE, SPAN, PARENT, "a=1")
    assert (span.name, span.kind, span.error, span.flags) == ("GET /users/{id}", SERVER, False, 0x301)
    assert (span.start - OFFSET, span.end - OFFSET) == (1_000_000_000, 1_500_000_000)
    assert span.attributes == {
        "http.request.method": "GET",
        "http.route": "/users/{id}",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/users/7",
        "url.query": "q=1&token=[redacted]",
        "server.address": "api.example.com",
        "network.protocol.version": "1.1",
        "client.address": "192.0.2.1",
        "network.peer.address": "10.1.1.1",
        "network.peer.port": 4444,
        "user_agent.original": "curl/8é",
        "gatewright.route": "users",
    }
    assert span.resource["service.name"] == "shop-gateway"
    assert set(span.resource) == {"service.name", "service.version", "service.instance.id", "process.pid"}


def test_a_trace_that_begins_here_has_no_parent():
    (span,) = encoded(finished())
    assert (span.parent_id, span.flags) == ("", 0x101)


@pytest.mark.parametrize(
    ("changes", "error", "kind"),
    [
        ({"status": 200}, False, None),
        ({"status": 404}, False, None),
        ({"status": 401, "reason": "jwt_expired"}, False, None),
        ({"status": 500}, True, "500"),
        ({"status": 503, "reason": "circuit_open"}, True, "circuit_open"),
        ({"status": 200, "reason": "upstream_reset"}, True, "upstream_reset"),
        ({"status": None, "reason": "client_gone"}, False, None),
        ({"status": 200, "reason": "client_gone"}, False, None),
        ({"status": None, "reason": "draining"}, True, "draining"),
    ],
)
def test_what_counts_as_an_error(changes, error, kind):
    (span,) = encoded(finished(cause="why", **changes))
    assert (span.error, span.attributes.get("error.type"), span.message) == (error, kind, "why" if error else "")
    assert span.attributes.get("gatewright.reason") == changes.get("reason")
    assert span.attributes.get("http.response.status_code") == changes["status"]


@pytest.mark.parametrize(
    ("host", "scheme", "address", "port"),
    [
        (b"example.com:8080", "http", "example.com", 8080),
        (b"example.com:80", "http", "example.com", None),
        (b"example.com:443", "https", "example.com", None),
        (b"example.com:443", "http", "example.com", 443),
        (b"[2001:db8::1]:8080", "http", "2001:db8::1", 8080),
        (b"[2001:db8::1]", "http", "2001:db8::1", None),
        (b"example.com:", "http", "example.com:", None),
        (b"example.com:99999999", "http", "example.com", None),
        (b"", "http", None, None),
    ],
)
def test_the_server_is_the_one_that_the_client_named(host, scheme, address, port):
    (span,) = encoded(finished(host=host, peer=Peer("10.1.1.1", 4444, 80, scheme)))
    assert (span.attributes.get("server.address"), span.attributes.get("server.port")) == (address, port)


def test_a_method_that_nobody_knows():
    trace = recorded()
    trace.attempts.append(attempt(status=200, ended=1.2))
    first, second = encoded(finished(trace, method="BREW"))
    for span in (first, second):
        assert span.attributes["http.request.method"] == "_OTHER"
        assert span.attributes["http.request.method_original"] == "BREW"
    assert (first.name, second.name) == ("HTTP /users/{id}", "HTTP")


def test_a_request_that_could_not_be_read():
    (span,) = encoded(
        finished(
            method="",
            path="",
            host=b"",
            route=None,
            status=400,
            reason="malformed_request",
            peer=Peer("", 0, 0),
            _client_ip="",
        )
    )
    assert span.name == "HTTP"
    assert span.attributes == {
        "http.request.method": "_OTHER",
        "http.response.status_code": 400,
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "gatewright.reason": "malformed_request",
    }


def test_what_else_is_told_of_an_exchange():
    (span,) = encoded(finished(id="order-7", consumer="mia", version=0, route="gone"))
    assert span.attributes["gatewright.request_id"] == "order-7"
    assert span.attributes["gatewright.consumer"] == "mia"
    assert span.attributes["network.protocol.version"] == "1.0"
    assert (span.name, "http.route" in span.attributes) == ("GET", False)


def test_an_attempt():
    _, client = spans_of(attempt(status=200, ended=1.3), rewritten="/7?key=abc&x=1")
    assert (client.trace_id, client.parent_id, client.span_id) == (TRACE, SPAN, "11" * 8)
    assert (client.name, client.kind, client.error, client.flags) == ("GET", CLIENT, False, 0x101)
    assert (client.start - OFFSET, client.end - OFFSET) == (1_100_000_000, 1_300_000_000)
    assert client.attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.full": "http://10.0.0.7:8001/7?key=[redacted]&x=1",
        "server.address": "10.0.0.7",
        "server.port": 8001,
        "network.protocol.version": "1.1",
    }


def test_attempts_that_failed_and_the_one_that_did_not():
    _, *clients = spans_of(
        attempt(ended=1.2, error="connect_failed", cause="connection refused"),
        attempt(span="22" * 8, started=1.2, ended=1.3, status=503),
        attempt(span="33" * 8, started=1.3, ended=1.4, status=404),
        query="a=1",
    )
    told = [
        (each.attributes.get("http.request.resend_count"), each.attributes.get("http.response.status_code"),
         each.attributes.get("error.type"), each.error, each.message)
        for each in clients
    ]  # fmt: skip
    assert told == [
        (None, None, "connect_failed", True, "connection refused"),
        (1, 503, "503", True, ""),
        (2, 404, "404", True, ""),
    ]
    assert {each.attributes["url.full"] for each in clients} == {"http://10.0.0.7:8001/users/7?a=1"}


def test_an_attempt_whose_answer_the_short_way_noted():
    _, client = spans_of(attempt(), upstream_seconds=0.25, upstream_status=201)
    assert (client.end - client.start, client.attributes["http.response.status_code"]) == (250_000_000, 201)


def test_a_stream_ends_with_its_exchange():
    server, client = spans_of(attempt(status=200), upstream_seconds=0.01, upstream_status=200)
    assert client.end == server.end


def test_an_application_in_this_process():
    _, client = spans_of(attempt(APP, status=200, ended=1.2))
    assert client.attributes["server.address"] == "shop.main:app"
    assert not {"url.full", "server.port"} & set(client.attributes)


def test_the_time_of_plugins():
    class Jwt:
        name = "jwt"

        def on_request(self):
            pass

    trace = recorded()
    trace.phases += [
        ("on_request", (Jwt().on_request, print), [1.1, 1.25]),  # the first has ended the phase
        ("on_response", (SimpleNamespace(plugin=PLUGIN),), [1.3, 1.3]),  # it has no hash
        ("on_done", (print,), [1.3, 1.3]),
    ]
    (span,) = encoded(finished(trace))
    assert [(name, time - OFFSET) for name, time, _ in span.events] == [
        ("gatewright.plugin", 1_100_000_000),
        ("gatewright.plugin", 1_300_000_000),
        ("gatewright.plugin", 1_300_000_000),
    ]
    told = [
        (values["gatewright.plugin.name"], values["gatewright.plugin.phase"], values["gatewright.plugin.duration"])
        for _, _, values in span.events
    ]
    assert told[0] == ("jwt", "on_request", pytest.approx(0.15))
    assert told[1:] == [("jwt", "on_response", 0.0), ("", "on_done", 0.0)]


def test_texts_that_no_encoder_takes_cost_no_span():
    trace = recorded()
    trace.attempts.append(attempt(ended=1.2, error="x", cause="\ud800"))
    server, client = encoded(finished(trace, reason="\ud800", status=500, cause="\ud800", consumer="\ud800" * 1000))
    assert server.attributes["gatewright.reason"] == "?"
    assert len(server.attributes["gatewright.consumer"]) <= 256
    assert client.message == "?"


def test_what_is_kept_of_pieces_mixes_nothing_up_and_is_bounded():
    encoder = Encoder("g", {})
    for number in range(10_000):
        path = f"/{number}" * (100 if number % 7 == 0 else 1)
        peer = Peer("10.1.1.1", 1 + number % 60_000, 80)
        each = finished(path=path, peer=peer, user_agent=b"%d" % (number // 2), status=200 + number % 300)
        if number % 100 == 0:
            (span,) = read(request(encoder, encoder.spans(*each, OFFSET)))
            attributes = span.attributes
            assert (attributes["url.path"], attributes["user_agent.original"]) == (path, str(number // 2))
            assert (attributes["network.peer.port"], attributes["http.response.status_code"]) == (
                peer.port,
                200 + number % 300,
            )
        else:
            encoder.spans(*each, OFFSET)
        encoder.spans(*finished(host=b"%d" % number * 300, cause=f"{number}" * 1000), OFFSET)
    kept = [encoder._groups, encoder._clients, encoder._urls, encoder._agents]
    assert all(len(each) <= 4096 for each in kept)
    assert max(len(value) for each in kept for value in each.values()) < 1000
    assert max(len(str(key)) for each in kept for key in each) <= 1024


def test_routes_may_change():
    encoder = Encoder("g", {"users": "/users/{id}"})
    encoder.spans(*finished(), OFFSET)
    encoder.set_routes({"users": "/people/{id}"})
    (span,) = read(request(encoder, encoder.spans(*finished(), OFFSET)))
    assert span.name == "GET /people/{id}"


def test_long_texts_are_cut():
    long = "x" * 8000
    trace = recorded()
    trace.attempts.append(attempt(status=200, ended=1.2))
    server, client = encoded(
        finished(trace, path="/" + long, query=long, user_agent=long.encode(), rewritten="/" + long)
    )
    told = server.attributes
    assert [len(told[name]) for name in ("url.path", "url.query", "user_agent.original")] == [1024] * 3
    assert len(client.attributes["url.full"]) == len(TARGET.url) + 1024


def test_a_plugin_that_calls_without_end_has_no_end_of_events():
    trace = recorded()
    trace.phases += [("on_upstream_request", (print,), [1.1, 1.2])] * 1000
    (span,) = encoded(finished(trace))
    assert len(span.events) == 64
