"""The `headers` plugin: edits of requests and answers, with variables."""

import pytest

from gatewright.app import ConfigurationError
from tests.kit.answers import reply
from tests.kit.wire import answer_all, get


@pytest.fixture
def edited(proxy, target):
    """Start a gateway with a headers plugin on its route: (answer of GET, head that the target saw)."""

    def run(config, path="/", fields="", answer=None):
        upstream = target(answer_all(answer) if answer else None)
        running = proxy(upstream, route=f"plugins: [headers: {config}]")
        got = get(running.port, path, fields)
        return got, upstream.received.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")

    return run


def test_requests(edited):
    config = "{request: {remove: [X-Gone], rename: {X-Old: X-New}, set: {X-Set: one}, add: {X-Add: more}}}"
    fields = "X-Gone: 1\r\nX-Old: 2\r\nX-Set: 3\r\nX-Set: 4\r\nX-Add: 5\r\n"
    _, head = edited(config, fields=fields)
    seen = [line for line in head if line.startswith("X-") and not line.startswith(("X-Forwarded", "X-Request-ID"))]
    assert seen == ["X-New: 2", "X-Set: one", "X-Add: 5", "X-Add: more"]


def test_answers(edited):
    config = "{response: {remove: [X-Powered-By], rename: {X-Old: X-New}, set: {X-Set: one}, add: {Set-Cookie: b=2}}}"
    answer = reply(200, b"", "X-Powered-By: PHP", "X-Old: 2", "Set-Cookie: a=1", "x-set: 9")
    got, _ = edited(config, answer=answer)
    assert (got.get("x-powered-by"), got.all("x-new"), got.all("x-set")) == (None, ["2"], ["one"])
    assert got.all("set-cookie") == ["a=1", "b=2"]


def test_the_gateways_own_answers_are_edited_too(proxy, target):
    running = proxy(target(), extra="plugins: [headers: {response: {set: {X-Frame-Options: DENY}}}]")
    for path in ("/", "/.."):
        got = get(running.port, path)
        assert (got.get("x-frame-options") == "DENY") is (path == "/")


def test_variables(edited):
    text = (
        "{client_ip} {method} {scheme} {host} {path} {query} {route} {service} {param.rest} {header.X-In} {query.q} "
        "{header.none}|{query.none}|{param.none} {{}}"
    )
    got, head = edited(
        f'{{request: {{set: {{X-All: "{text}"}}}}, '
        'response: {set: {X-Status: "{status} {target} {request_id}"}}}',
        "/a/b?q=x%20y&r=2",
        "X-In: in\r\n",
    )
    # The service is chosen after the request phase; its name is not known there yet.
    assert "X-All: 127.0.0.1 GET http test /a/b q=x%20y&r=2 all s a/b in x y || {}" in head
    status, target, request_id = got.get("x-status").split(" ")
    assert (status, target.partition(":")[0], request_id) == ("200", "127.0.0.1", got.get("x-request-id"))


def test_what_a_client_sends_cannot_become_a_header_of_its_own(edited):
    _, head = edited('{request: {set: {X-Q: "{query.q}"}}}', "/?q=a%0d%0aX-Evil:%201%00b")
    assert "X-Q: aX-Evil: 1b" in head
    assert not any(line.startswith("X-Evil") for line in head)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{request: {set: {Content-Length: '1'}}}", "the gateway writes Content-Length itself"),
        ("{request: {remove: [Transfer-Encoding]}}", "the gateway writes Transfer-Encoding itself"),
        ("{response: {add: {Connection: close}}}", "the gateway writes Connection itself"),
        ("{request: {rename: {X-A: Host}}}", "the gateway writes Host itself"),
        ("{request: {set: {X-Forwarded-For: me}}}", "the gateway writes X-Forwarded-For itself"),
        ("{request: {set: {x_forwarded_for: me}}}", "the gateway writes x_forwarded_for itself"),
        ("{request: {set: {'X A': b}}}", "is not a header name"),
        ('{request: {set: {X-A: "a\\r\\nb"}}}', "control character"),
        ("{request: {set: {X-A: '{clientip}'}}}", "{clientip} is not a variable"),
        ("{request: {set: {X-A: 'open {'}}}", "a brace without its other half"),
        ("{reqest: {set: {X-A: b}}}", "reqest"),
    ],
)
def test_what_is_refused_at_load(proxy, target, config, message):
    with pytest.raises(ConfigurationError) as caught:
        proxy(target(), route=f"plugins: [headers: {config}]")
    assert message in str(caught.value)
    assert "routes[0].plugins[0].headers" in str(caught.value)
