"""The `logging` plugin: what of messages stands in the access log, and that nothing is held up or changed for it."""

import gzip
import json
import re
import threading
from pathlib import Path

import pytest

from gatewright.control.loader import load
from gatewright.core.headers import Headers
from gatewright.core.messages import Request
from gatewright.telemetry.access_log import Line
from tests.kit.answers import reply
from tests.kit.inside import Finished
from tests.kit.wire import OK, TIMEOUT, RawSocket, answer_all, get, request

SECRET = "s3cr3t-s3cr3t"
ALL = "{body: 4KiB}"


@pytest.fixture
def logged(gateway, target):
    """A gateway whose one route logs: `logged(settings, answer)`."""

    def start(settings=ALL, answer=OK, extra="", plugins=""):
        upstream = target(answer if callable(answer) else answer_all(answer))
        running = gateway(
            f'services: {{s: {{targets: ["{upstream.url}"]}}}}\n'
            f'routes: [{{name: r, match: {{path: "/{{rest...}}"}}, service: s, plugins: [{plugins}logging: {settings}]}}]\n'
            + extra
        )
        running.target = upstream
        return running

    return start


def post(running, body, kind="application/json", *fields):
    """Send a body; return the answer and the line."""
    lines = ["POST /a HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", f"Content-Type: {kind}", *fields]
    answer = request(running.port, ("\r\n".join(lines) + "\r\n\r\n").encode() + body)
    return answer, running.access_log()[-1]


def chunked(*pieces, kind="application/json"):
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + body + b"0\r\n\r\n"
    )


JSON = "Content-Type: application/json"


def test_headers_and_bodies_of_both(logged):
    running = logged(answer=reply(201, b'{"id": 7}', JSON, "X-Out: out"))
    _, line = post(running, b'{"user": "bob"}', "application/json; charset=utf-8", "X-In: in", "X-In: too")
    assert line["status"] == 201
    assert line["request"] == {
        "headers": {
            "host": "test",
            "content-length": "15",
            "content-type": "application/json; charset=utf-8",
            "x-in": "in, too",
        },
        "body": {"type": "application/json", "bytes": 15, "text": '{"user":"bob"}'},
    }
    assert line["response"] == {
        "headers": {"content-length": "9", "content-type": "application/json", "x-out": "out"},
        "body": {"type": "application/json", "bytes": 9, "text": '{"id":7}'},
    }


def test_what_crosses_is_what_came(logged, proxy, target):
    """With the plugin, target and client see the same bytes as without it: framing too."""
    answer = chunked(b'{"a": ', b"1}", kind="application/json")
    data = b'POST /a HTTP/1.1\r\nHost: test\r\nX-Request-ID: 1\r\nContent-Length: 8\r\n\r\n{"a": 1}'
    plain, watched = target(answer_all(answer)), logged(answer=answer)
    seen = [
        request(port, data).body + each.received
        for port, each in ((proxy(plain).port, plain), (watched.port, watched.target))
    ]
    alike = [re.sub(rb"[0-9a-f]{32}|[0-9]{4,5}", b"-", text) for text in seen]  # but for IDs and ports
    assert alike[0] == alike[1]
    assert b"Content-Length: 8" in watched.target.received


def test_a_streamed_upload_keeps_its_length(logged):
    running = logged("{body: 16}")
    body = b'{"a": "' + b"x" * 200_000 + b'"}'
    _, line = post(running, body)
    head = running.target.received.partition(b"\r\n\r\n")[0]
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"chunked" not in head
    assert running.target.received.endswith(body)
    assert line["request"]["body"] == {"type": "application/json", "bytes": len(body), "text": "{}", "truncated": True}


def test_a_stream_is_not_held_up(logged):
    arrived = threading.Event()

    def script(session):
        session.read_request()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        session.send(b"3\r\n[1,\r\n")
        assert arrived.wait(TIMEOUT)
        session.send(b"2\r\n2]\r\n0\r\n\r\n")

    running = logged(answer=script)
    finished = Finished(running)
    with RawSocket.connect(running.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        client.read_until(b"[1,")
        arrived.set()
        client.read_until(b"0\r\n\r\n")
    finished.next()
    body = running.access_log()[0]["response"]["body"]
    assert body == {"type": "application/json", "bytes": 5, "text": "[1,2]"}


def test_an_answer_that_breaks_off_shows_what_came(logged):
    def script(session):
        session.read_request()
        session.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n" + b'{"a":1,"b":2'
        )
        raise EOFError

    running = logged(answer=script)
    finished = Finished(running)
    with RawSocket.connect(running.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        client.read_to_end()
    finished.next()
    body = running.access_log()[0]["response"]["body"]
    assert (body["text"], body["truncated"]) == ('{"a":1}', True)


def test_no_secret_is_in_a_line(logged):
    answer = json.dumps({"data": [{"accessToken": SECRET, "user": {"pin": 90817}}]}).encode()
    running = logged(
        answer=reply(
            302, answer, JSON, f"Set-Cookie: a={SECRET}", f"Location: /cb?code={SECRET}&x=1", f"X-Token: {SECRET}"
        )
    )
    body = json.dumps({"password": SECRET, "auth": {"clientSecret": [SECRET]}, "log": f"Bearer {SECRET}"}).encode()
    fields = (
        *(f"Authorization: Bearer {SECRET}", f"Cookie: a={SECRET}", f"X-Api-Key: {SECRET}"),
        *(f"Proxy-Authorization: {SECRET}", f"Referer: https://h/?accessToken={SECRET}"),
    )
    _, line = post(running, body, "application/json", *fields)
    text = running._log.read_text()
    assert SECRET not in text
    assert "90817" not in text
    assert line["request"]["headers"]["authorization"] == "[redacted]"
    assert line["request"]["headers"]["referer"] == "https://h/?accessToken=[redacted]"
    assert line["response"]["headers"]["location"] == "/cb?code=[redacted]&x=1"
    assert json.loads(line["response"]["body"]["text"])["data"][0]["user"] == {"pin": "[redacted]"}


@pytest.mark.parametrize("size", range(16, 120, 7))
def test_no_secret_is_in_a_line_wherever_the_body_is_cut(logged, size):
    running = logged(
        f"{{body: {size}}}", reply(200, json.dumps({"a": 1, "token": SECRET, "jwt": [SECRET]}).encode(), JSON)
    )
    body = f"user=bob&password={SECRET}&client_secret={SECRET}".encode()
    post(running, body, "application/x-www-form-urlencoded")
    assert SECRET[:5] not in running._log.read_text()


def test_forms(logged):
    _, line = post(logged(), b"user=bob&password=x&code=y", "application/x-www-form-urlencoded")
    assert line["request"]["body"]["text"] == "user=bob&password=[redacted]&code=[redacted]"


@pytest.mark.parametrize(
    ("kind", "body", "told"),
    [
        ("image/png", b"\x89PNG\0\0", {}),
        ("text/html", b"<p>secret: x</p>", {}),
        ("multipart/form-data; boundary=x", b"--x\r\n", {}),
        ("application/json", b"{broken", {"note": "malformed"}),
        ("application/json", b'{"a": "\0"}', {"note": "binary"}),
        ("application/problem+json", b'{"a":1}', {"text": '{"a":1}'}),
        ("APPLICATION/JSON", b'{"a":1}', {"text": '{"a":1}'}),
        ("application/json", '"é"'.encode("latin-1"), {"text": '"\ufffd"'}),
    ],
)
def test_what_bodies_are_shown(logged, kind, body, told):
    _, line = post(logged(), body, kind)
    name = kind.partition(";")[0].lower()
    assert line["request"]["body"] == {"type": name, "bytes": len(body), **told}


def test_compressed_bodies_are_named_and_not_shown(logged):
    body = gzip.compress(b'{"password": "x"}')
    _, line = post(logged(), body, "application/json", "Content-Encoding: gzip")
    assert line["request"]["body"] == {"type": "application/json", "bytes": len(body), "encoding": "gzip"}


def test_other_types_by_option_without_secrets(logged):
    _, line = post(logged("{body: 4KiB, types: [text/*]}"), b"user: bob\npassword: x y", "text/plain")
    assert line["request"]["body"]["text"] == "user: bob\npassword: [redacted]"
    assert "text" not in post(logged("{body: 4KiB, types: [text/*]}"), b"{}")[1]["request"]["body"]


def test_named_fields_one_message_no_bodies(logged):
    running = logged("{headers: [X-In, Authorization], messages: [request]}")
    _, line = post(running, b"{}", "application/json", "X-In: in", "Authorization: Basic eDp5")
    assert line["request"] == {"headers": {"x-in": "in", "authorization": "[redacted]"}}
    assert "response" not in line
    _, line = post(logged("{headers: false, body: 1KiB, messages: [request]}"), b"{}")
    assert line["request"] == {"body": {"type": "application/json", "bytes": 2, "text": "{}"}}


def test_only_some_exchanges(logged):
    running = logged("{from_status: 500}")
    assert "request" not in post(running, b"{}")[1]
    running = logged("{from_status: 500}", reply(500))
    assert "request" in post(running, b"{}")[1]
    running = logged("{methods: [post]}")
    assert "request" in post(running, b"{}")[1]
    get(running.port)
    assert "request" not in running.access_log()[-1]


def test_names_of_ones_own(logged):
    running = logged("{body: 1KiB, redact: [nationalId], reveal: [max_tokens]}")
    _, line = post(running, b'{"national_id": "x", "max_tokens": 5, "token": "y"}')
    assert json.loads(line["request"]["body"]["text"]) == {
        "national_id": "[redacted]",
        "max_tokens": 5,
        "token": "[redacted]",
    }


def test_it_sees_messages_at_its_place_in_the_list(logged):
    change = "headers: {request: {set: {X-In: changed}}, response: {set: {X-Out: changed}}}, "
    running = logged(answer=reply(200, b"", "X-Out: out"), plugins=change)
    _, line = post(running, b"", "text/plain", "X-In: in")
    assert (line["request"]["headers"]["x-in"], line["response"]["headers"]["x-out"]) == ("changed", "changed")


def test_the_gateways_own_answers(logged):
    running = logged(extra="limits: {body: 10}\n")
    answer, line = post(running, b"x" * 11)
    assert (answer.status, json.loads(line["response"]["body"]["text"])["reason"]) == (413, "body_too_large")
    assert line["request"]["headers"]["host"] == "test"


def test_an_answer_of_a_plugin_before_it(logged):
    running = logged(plugins="rate_limit: {limit: 1/hour}, ")
    post(running, b"{}")
    _, line = post(running, b"{}")
    assert (line["status"], line["request"]["headers"]["host"]) == (429, "test")
    assert json.loads(line["response"]["body"]["text"])["reason"] == "rate_limited"


def test_head_has_no_body(logged):
    running = logged(answer=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Type: application/json\r\n\r\n")
    request(running.port, b"HEAD / HTTP/1.1\r\nHost: test\r\n\r\n", "HEAD")
    assert "body" not in running.access_log()[0]["response"]


def test_text_of_a_client_cannot_forge_a_line(logged):
    running = logged()
    body = b'{"a": "x\\n{\\"status\\": 500}"}'
    lines = "POST / HTTP/1.1\r\nHost: test\r\nX-In: \x85\u2028\r\nContent-Type: application/json\r\n"
    request(running.port, f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    running.call(running._flush)
    assert [json.loads(line)["status"] for line in running._log.read_bytes().split(b"\n")[:-1]] == [200]


def test_a_route_that_logs_goes_the_short_way(logged):
    match = logged().gateway._proxy.snapshot.table.match
    assert match(Request("GET", "/x", None, 1, b"test", Headers())).value.direct


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ("{body: 65KiB}", "must be at most 65536"),
        ("{types: [json]}", "must be a media type"),
        ("{headers: ['a b']}", "is not a header name"),
        ("{messages: []}", "must not be empty"),
        ("{form_status: 1}", "unknown key"),
    ],
)
def test_settings_that_make_no_sense(logged, settings, wrong):
    with pytest.raises(Exception, match=wrong):
        logged(settings)


PAGE = (Path(__file__).parents[2] / "docs/logging.md").read_text()


def test_every_field_of_a_line_is_on_the_page():
    table = "\n".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `"))
    assert set(Line.__struct_fields__) <= set(re.findall(r"`(\w+)`", table))


def test_the_example_on_the_page_loads(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "gateway.yaml").write_text(example)
    assert [str(error) for error in load(tmp_path / "gateway.yaml", {}).errors] == []
