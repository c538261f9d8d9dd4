"""Interim answers (RFC 9110 section 15.2) and Expect: 100-continue, with every party that may keep to it or not."""

import pytest

from tests.kit.wire import RawSocket, TargetSession, answer_all, request

BODY = bytes(range(256)) * 40
EXPECTING = f"POST /u HTTP/1.1\r\nHost: test\r\nContent-Length: {len(BODY)}\r\nExpect: 100-continue\r\n\r\n".encode()
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

BUFFERING = """
from gatewright import Exchange, Plugin, PluginConfig

class Config(PluginConfig):
    pass

class Buffer(Plugin[Config], name="buffering"):
    body = "buffer"

    def on_request(self, exchange):
        exchange.request.body = exchange.request.body.upper()

class Refuse(Plugin[Config], name="refusing"):
    def on_request(self, exchange):
        return exchange.reject(403, "no_entry", "Not today")
"""
WITH_BUFFER = 'plugins: [{use: "./plug.py:Buffer"}]\n'


def continues(head_seen: list[bytes]):
    """A target that says 100, reads the body and answers with its size."""

    def script(session: TargetSession) -> None:
        head = session.read_head()
        head_seen.append(head)
        if b"100-continue" in head:
            assert session.buffer == b"", "the body must not come unasked"
            session.send(CONTINUE)
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = session.read_exactly(size)
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    return script


def test_a_client_that_waits_is_told_by_its_target(proxy, target):
    heads: list[bytes] = []
    upstream = target(continues(heads))
    running = proxy(upstream)
    with RawSocket.connect(running.port) as client:
        client.send(EXPECTING)
        assert client.read_until(b"\r\n\r\n") == CONTINUE
        client.send(BODY)
        answer = client.read_answer()
        assert (answer.status, answer.body) == (200, BODY)
    assert b"\r\nExpect: 100-continue\r\n" in heads[0]
    assert upstream.errors == []


def test_a_client_is_told_once_only(proxy, target):
    def script(session: TargetSession) -> None:
        session.read_head()
        session.send(CONTINUE + CONTINUE)
        session.read_exactly(len(BODY))
        session.send(CONTINUE + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with RawSocket.connect(proxy(target(script)).port) as client:
        client.send(EXPECTING)
        assert client.read_until(b"\r\n\r\n") == CONTINUE
        client.send(BODY)
        assert client.read_answer().status == 200


@pytest.mark.parametrize("keeps", [True, False])
def test_a_target_may_answer_instead(proxy, target, keeps):
    """The final answer comes in the place of 100: the client need not send its body then, and its connection ends."""

    def script(session: TargetSession) -> None:
        session.read_head()
        session.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\n\r\nwho")
        if keeps:
            session.read_to_end()

    upstream = target(script)
    with RawSocket.connect(proxy(upstream).port) as client:
        client.send(EXPECTING)
        answer = client.read_answer()
        assert (answer.status, answer.body, answer.get("connection")) == (401, b"who", "close")
        assert client.read_to_end() == b""


def test_a_client_that_does_not_wait_loses_nothing(proxy, target):
    """The body comes with the head: nobody needs to be asked for it."""
    heads: list[bytes] = []
    running = proxy(target(continues(heads)))
    with RawSocket.connect(running.port) as client:
        client.send(EXPECTING + BODY)
        answer = client.read_answer()
        assert (answer.status, answer.body) == (200, BODY)
    assert b"Expect" not in heads[0]


def test_a_target_that_never_says_100_gets_the_body_when_the_client_sends_it(proxy, target):
    def script(session: TargetSession) -> None:
        session.read_head()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + session.read_exactly(len(BODY))[:1])

    with RawSocket.connect(proxy(target(script)).port) as client:
        client.send(EXPECTING)
        client.send(BODY)
        assert client.read_answer().body == BODY[:1]


@pytest.mark.parametrize(
    ("data", "status", "extra", "route"),
    [
        (EXPECTING, 413, "limits: {body: 1KiB}\n", ""),
        (EXPECTING, 403, "", 'plugins: [{use: "./plug.py:Refuse"}]'),
        (EXPECTING.replace(b"/u", b"/.."), 400, "", ""),
        (EXPECTING.replace(b"100-continue", b"200-ok"), 417, "", ""),
    ],
)
def test_a_local_refusal_needs_no_body(gateway, target, data, status, extra, route):
    upstream = target()
    running = gateway(
        f'services: {{s: {{targets: ["{upstream.url}"]}}}}\n'
        f'routes:\n  - {{name: all, match: {{path: "/{{rest...}}"}}, service: s}}\n' + route + "\n" + extra,
        files={"plug.py": BUFFERING},
    )
    with RawSocket.connect(running.port) as client:
        client.send(data)
        answer = client.read_answer()
        assert (answer.status, answer.get("connection")) == (status, "close"), "no 100 before it"
        assert client.read_to_end() == b""
        assert not client.was_reset
    assert upstream.received == b""


def test_a_plugin_that_wants_the_body_makes_the_gateway_ask_for_it(gateway, target):
    heads: list[bytes] = []
    upstream = target(continues(heads))
    running = gateway(
        f'services: {{s: {{targets: ["{upstream.url}"]}}}}\n'
        'routes: [{name: all, match: {path: "/{rest...}"}, service: s}]\n' + WITH_BUFFER,
        files={"plug.py": BUFFERING},
    )
    with RawSocket.connect(running.port) as client:
        client.send(EXPECTING)
        assert client.read_until(b"\r\n\r\n") == CONTINUE
        client.send(BODY)
        answer = client.read_answer()
        assert (answer.status, answer.body) == (200, BODY.upper())
    assert b"Expect" not in heads[0], "the body is here: nothing is left to be waited for"


def test_an_application_in_process_that_asks_for_the_body_has_its_client_told(gateway):
    app = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
    running = gateway(
        'services: {s: {app: "interim_app:app"}}\nroutes: [{name: all, match: {path: "/{rest...}"}, service: s}]\n',
        files={"interim_app.py": app},
    )
    with RawSocket.connect(running.port) as client:
        client.send(EXPECTING)
        assert client.read_until(b"\r\n\r\n") == CONTINUE
        client.send(BODY)
        assert client.read_answer().body == BODY


def test_http_1_0_knows_no_expectation(proxy, target):
    heads: list[bytes] = []
    with RawSocket.connect(proxy(target(continues(heads))).port) as client:
        client.send(EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0") + BODY)
        assert client.read_answer().body == BODY
    assert b"Expect" not in heads[0]


HINTS = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nlink: </b.js>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n"
)
FINAL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize("split", [None, len(HINTS), len(HINTS) + 20])
def test_other_interim_answers_reach_http_1_1_clients(proxy, target, split):
    def script(session: TargetSession) -> None:
        session.read_head()
        reply = HINTS + b"HTTP/1.1 102 Processing\r\n\r\n" + HINTS + FINAL
        session.send(reply[:split])
        if split is not None:
            session.send(reply[split:])
        session.read_to_end()

    running = proxy(target(script))
    with RawSocket.connect(running.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        hints = client.read_answer()
        assert hints.raw_head == b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nlink: </b.js>\r\n\r\n"
        assert client.read_answer().status == 102
        assert client.read_answer().status == 103
        assert client.read_answer().body == b"ok"
    assert running.access_log()[0]["status"] == 200


def test_interim_answers_do_not_reach_http_1_0_clients(proxy, target):
    running = proxy(target(answer_all(HINTS + CONTINUE + FINAL)))
    assert request(running.port, b"GET / HTTP/1.0\r\n\r\n").body == b"ok"


def test_a_100_that_nobody_waits_for_is_dropped(proxy, target):
    running = proxy(target(answer_all(CONTINUE + FINAL)))
    answer = request(running.port, b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx")
    assert (answer.status, answer.body) == (200, b"ok")


@pytest.mark.parametrize("head", [b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n", HINTS * 40])
def test_interim_answers_that_cannot_be_right_give_502(proxy, target, head):
    upstream = target(answer_all(head + FINAL))
    running = proxy(upstream)
    with RawSocket.connect(running.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        while (answer := client.read_answer()).status == 103:
            pass
        assert answer.status == 502
        assert b"upstream_malformed" in answer.body
