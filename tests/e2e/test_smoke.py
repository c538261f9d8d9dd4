"""A request crosses the gateway, and the kit works."""

from tests.kit.wire import get


def test_a_request_crosses(proxy, target):
    upstream = target()
    running = proxy(upstream)
    answer = get(running.port, "/hello?x=1")
    assert (answer.status, answer.body) == (200, b"ok")
    assert upstream.received.startswith(b"GET /hello?x=1 HTTP/1.1\r\nHost: test\r\n")
    line = running.access_log()[0]
    assert (line["path"], line["query"], line["status"], line["route"]) == ("/hello", "x=1", 200, "all")
