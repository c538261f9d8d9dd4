"""The access log, a line an exchange: what stands in it, and what never does."""

import datetime
import threading

import pytest

from gatewright.telemetry.access_log import redact_query
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
        ("mytoken=x", "mytoken=x"),
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
