"""The access log, a line an exchange: what stands in it, and what never does."""

import datetime
import json
import re
import threading

import pytest

from gatewright.telemetry.secrets import redact_query
from tests.kit.answers import hang_up, plan, reply, services
from tests.kit.inside import Finished
from tests.kit.wire import OK, TIMEOUT, RawSocket, answer_all, get, request


def test_the_fields_of_a_line(proxy, target):
    upstream = target(answer_all(reply(201, b"hello")))
    running = proxy(upstream)
    before = datetime.datetime.now(datetime.UTC)
    data = b"POST /a/b?x=1 HTTP/1.1\r\nHost: Shop.test:80\r\nContent-Length: 4\r\n\r\nabcd"
    answer = request(running.port, data)
    (line,) = running.access_log()
    took, overhead, upstream_took = (line.pop(key) for key in ("duration_ms", "overhead_ms", "upstream_duration_ms"))
    began = datetime.datetime.fromisoformat(line.pop("time"))
    assert line == {
        "request_id": answer.get("x-request-id"),
        "client_ip": "127.0.0.1",
        "method": "POST",
        "scheme": "http",
        "host": "Shop.test:80",
        "path": "/a/b",
        "query": "x=1",
        "protocol": "HTTP/1.1",
        "status": 201,
        "bytes_in": 4,
        "bytes_out": 5,
        "attempts": 1,
        "route": "all",
        "service": "s",
        "upstream_addr": f"127.0.0.1:{upstream.port}",
        "upstream_status": 201,
    }
    assert began.tzinfo is not None
    assert abs((began - before).total_seconds()) < 5
    assert took == pytest.approx(overhead + upstream_took, abs=0.01)


def test_one_line_for_each_exchange_whatever_becomes_of_it(proxy, target):
    waiting = threading.Event()

    def wait(session):
        waiting.set()
        session.read_to_end()

    running = proxy(target(plan(OK, hang_up, wait)), "retry: {attempts: 0}", "", "limits: {body: 10}")
    finished = Finished(running)
    get(running.port)
    request(running.port, b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")
    with RawSocket.connect(running.port) as client:
        client.send(b"GET /gone HTTP/1.1\r\nHost: test\r\n\r\n")
        assert waiting.wait(TIMEOUT)
    for _ in range(3):
        finished.next()
    request(running.port, b"nonsense\r\n\r\n")
    request(running.port, b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\nhello world")
    seen = [(line["status"], line.get("reason"), line["attempts"]) for line in running.access_log()]
    assert seen == [
        (200, None, 1),
        (502, "upstream_reset", 1),
        (499, "client_gone", 1),
        (400, "malformed_request", 0),
        (413, "body_too_large", 0),
    ]


def test_pipelined_requests_have_a_line_each_with_an_id_each(proxy, target):
    running = proxy(target())
    with RawSocket.connect(running.port) as client:
        client.send(b"GET /1 HTTP/1.1\r\nHost: test\r\n\r\nGET /2 HTTP/1.1\r\nHost: test\r\n\r\n")
        ids = [client.read_answer().get("x-request-id") for _ in range(2)]
    assert [(line["path"], line["request_id"]) for line in running.access_log()] == list(
        zip(["/1", "/2"], ids, strict=True)
    )


def test_credentials_are_in_no_line(proxy, target):
    running = proxy(target())
    fields = (
        "Authorization: Bearer s3cret\r\nCookie: session=s3cret\r\nX-Api-Key: s3cret\r\nProxy-Authorization: s3cret\r\n"
        "X-Anything: s3cret\r\n"
    )
    get(running.port, "/?access_token=s3cret&Token=s3cret&api%5Fkey=s3cret&page=2", fields)
    assert running.access_log()[0]["query"] == "access_token=[redacted]&Token=[redacted]&api%5Fkey=[redacted]&page=2"
    assert "s3cret" not in running._log.read_text()


def test_a_refused_requests_line_holds_no_piece_of_it(proxy, target):
    running = proxy(target())
    request(running.port, b"GET /?token=s3cret HTTP/1.1\r\nAuthorization : Basic s3cret\r\n\r\n")
    assert running.access_log()[0]["status"] == 400
    assert "s3cret" not in running._log.read_text()


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        (None, None),
        ("", ""),
        ("flag", "flag"),
        ("a=1&b=2", "a=1&b=2"),
        ("password=x", "password=[redacted]"),
        ("PASSWORD=x&a", "PASSWORD=[redacted]&a"),
        ("to%6ben=x", "to%6ben=[redacted]"),
        ("code=x&state=y", "code=[redacted]&state=y"),
        ("token=a=b", "token=[redacted]"),
        ("token", "token"),
        ("X-Amz-Signature=x", "X-Amz-Signature=[redacted]"),
        ("mytoken=x", "mytoken=[redacted]"),
        ("accessToken=x&sessionId=y&Api-Key=z", "accessToken=[redacted]&sessionId=[redacted]&Api-Key=[redacted]"),
        ("user[password]=x", "user[password]=[redacted]"),
        ("monkey=x&author=y&pinned=1", "monkey=x&author=y&pinned=1"),
    ],
)
def test_redaction(query, shown):
    assert redact_query(query) == shown


def test_text_of_a_client_cannot_forge_a_line(proxy, target):
    running = proxy(target())
    get(running.port, "/%0a%7b%22status%22:200%7d?q=%0d%0a")
    assert len(running.access_log()) == 1


def test_false_turns_it_off(gateway, target):
    upstream = target()
    running = gateway("access_log: false\n" + services({"s": [upstream.url]}))
    assert get(running.port).status == 200
    assert running.access_log() == []


def test_what_the_cache_did(gateway, target):
    upstream = target(answer_all(reply(200, b"hello", "Cache-Control: max-age=60")))
    running = gateway(services({"s": [upstream.url]}) + "plugins: [cache]\n")
    get(running.port)
    get(running.port)
    assert [line["cache_status"] for line in running.access_log()] == ["miss", "hit"]


def test_the_readable_form_and_back_again(gateway, target):
    config = services({"s": [target().url]}) + "plugins: [logging]\n"
    log = "access_log: {destination: LOG, format: FORMAT}\n"
    running = gateway(log.replace("LOG", "access.log").replace("FORMAT", "human") + config)
    get(running.port, "/a?token=x")
    running.call(running._flush)
    first, *rest = running._log.read_text().splitlines()
    assert re.fullmatch(r"20.{21}Z 200 GET test/a\?token=\[redacted\] .+ -> s 127\.0\.0\.1:\d+ .+ [0-9a-f]{32}", first)
    assert "    > host: test" in rest
    size = len(running._log.read_text())
    running.reload(log.replace("LOG", "access.log").replace("FORMAT", "json") + config)
    get(running.port)
    running.call(running._flush)
    assert json.loads(running._log.read_text()[size:])["request"] == {"headers": {"host": "test"}}


@pytest.mark.parametrize(
    ("settings", "is_json"),
    [
        ("debug: true\n", False),
        ("debug: 1\n", False),
        ("debug: false\n", True),
        ("", True),
    ],
)
def test_debug_makes_it_readable(gateway, target, settings, is_json):
    running = gateway(settings + services({"s": [target().url]}))
    get(running.port)
    running.call(running._flush)
    assert running._log.read_text().startswith("{") is is_json
    running.reload("debug: true\n" + services({"s": [target().url]}))
    get(running.port)
    running.call(running._flush)
    assert not running._log.read_text().splitlines()[-1].startswith("{")


def test_what_is_chosen_counts_more_than_debug(gateway, target):
    running = gateway(
        "debug: true\naccess_log: {destination: access.log, format: json}\n" + services({"s": [target().url]})
    )
    get(running.port)
    assert running.access_log()[0]["status"] == 200


def test_details_that_cannot_be_had_cost_no_line(gateway, target, caplog):
    plugin = """
from gatewright import Plugin, PluginConfig
class Broken(Plugin[PluginConfig]):
    def on_request(self, exchange):
        exchange.state["log"] = lambda exchange: 1 / 0
"""
    config = services({"s": [target().url]}) + 'plugins: [{use: "./broken.py:Broken"}]\n'
    running = gateway(config, files={"broken.py": plugin})
    get(running.port)
    (line,) = running.access_log()
    (record,) = caplog.records
    assert (line["status"], record.request_id) == (200, line["request_id"])
