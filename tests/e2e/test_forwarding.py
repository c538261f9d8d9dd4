"""What a target is told about its client, exactly; from anybody, and behind trusted proxies (RFC 7239)."""

import re
import socket

import pytest

from tests.kit.wire import RawSocket, get, request

HOP = (
    "Connection: keep-alive, X-Named, X-Real-Thing\r\nX-Named: 1\r\nX-Real-Thing: 2\r\nKeep-Alive: timeout=5\r\n"
    "Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nTE: gzip\r\n"
)
CLAIMS = (
    "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: bank.example\r\n"
    "X-Forwarded-Port: 443\r\nX-Forwarded-Prefix: /evil\r\nX-Real-IP: 1.2.3.4\r\n"
    "Forwarded: for=1.2.3.4;proto=https\r\nX-Request-ID: mine\r\nX_Forwarded_For: 5.6.7.8\r\n"
)


def lines(head: bytes) -> list[str]:
    """The field lines of a head, without the request line."""
    return head.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]


def values(head: bytes, name: str) -> list[str]:
    return [value.strip() for key, _, value in (line.partition(":") for line in lines(head)) if key.lower() == name]


def trusting(networks: str = "[127.0.0.0/8]") -> str:
    return f'listeners: [{{bind: "127.0.0.1:0", trusted_proxies: {networks}}}]\n'


def test_the_forwarded_head_is_exactly_this(proxy, target):
    upstream = target()
    running = proxy(upstream)
    data = "GET /a?b=c&b=d HTTP/1.1\r\nHost: Shop.example:81\r\nB: 2\r\na: 1\r\nb: 3\r\n" + HOP + "A:   \r\n\r\n"
    answer = request(running.port, data.encode())
    request_id = answer.get("x-request-id")
    assert re.fullmatch("[0-9a-f]{32}", request_id or "")
    assert upstream.received.decode().split("\r\n") == [
        "GET /a?b=c&b=d HTTP/1.1",
        "Host: Shop.example:81",
        "B: 2",
        "a: 1",
        "b: 3",
        "A: ",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Host: Shop.example:81",
        "X-Forwarded-Proto: http",
        f"X-Forwarded-Port: {running.port}",
        'Forwarded: for=127.0.0.1;proto=http;host="Shop.example:81"',
        "Via: 1.1 gatewright",
        f"X-Request-ID: {request_id}",
        "",
        "",
    ]


def test_what_a_stranger_claims_is_dropped(proxy, target):
    upstream = target()
    running = proxy(upstream)
    get(running.port, "/", CLAIMS)
    sent = upstream.received
    for name, expected in {
        "x-forwarded-for": ["127.0.0.1"],
        "x-forwarded-proto": ["http"],
        "x-forwarded-host": ["test"],
        "x-forwarded-port": [str(running.port)],
        "x-forwarded-prefix": [],
        "x-real-ip": [],
        "x_forwarded_for": [],
        "forwarded": ['for=127.0.0.1;proto=http;host="test"'],
    }.items():
        assert values(sent, name) == expected, name
    assert "mine" not in values(sent, "x-request-id")
    line = running.access_log()[0]
    assert (line["client_ip"], line["scheme"]) == ("127.0.0.1", "http")


def test_a_proxy_outside_the_trusted_networks_is_a_stranger(proxy, target):
    upstream = target()
    running = proxy(upstream, extra=trusting("[10.0.0.0/8, 127.1.0.0/16]"))
    get(running.port, "/", CLAIMS)
    assert values(upstream.received, "x-forwarded-for") == ["127.0.0.1"]


def test_a_trusted_proxy_is_believed_and_added_to(proxy, target):
    upstream = target()
    running = proxy(upstream, extra=trusting())
    answer = get(running.port, "/", CLAIMS + "X-Forwarded-For: 10.1.1.1\r\nVia: 1.0 edge, 2 cdn\r\n")
    sent = upstream.received
    for name, expected in {
        "x-forwarded-for": ["1.2.3.4, 10.1.1.1, 127.0.0.1"],
        "x-forwarded-proto": ["https"],
        "x-forwarded-host": ["bank.example"],
        "x-forwarded-port": ["443"],
        "x-forwarded-prefix": ["/evil"],
        "x_forwarded_for": [],
        "forwarded": ['for=1.2.3.4;proto=https, for=127.0.0.1;proto=http;host="test"'],
        "via": ["1.0 edge, 2 cdn", "1.1 gatewright"],
        "x-request-id": ["mine"],
    }.items():
        assert values(sent, name) == expected, name
    assert answer.all("x-request-id") == ["mine"]
    line = running.access_log()[0]
    assert (line["client_ip"], line["scheme"], line["request_id"]) == ("10.1.1.1", "https", "mine")


def test_a_trusted_proxy_that_says_nothing_speaks_for_itself(proxy, target):
    upstream = target()
    running = proxy(upstream, extra=trusting())
    get(running.port)
    assert values(upstream.received, "x-forwarded-for") == ["127.0.0.1"]
    assert values(upstream.received, "forwarded") == ['for=127.0.0.1;proto=http;host="test"']


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("9.9.9.9, 1.2.3.4, 127.5.5.5", "1.2.3.4"),
        ("[2001:db8::1]:80", "2001:db8::1"),
        ("1.2.3.4:5678", "1.2.3.4"),
        ("2001:db8::7", "2001:db8::7"),
        ("garbage", "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_vouches_for(proxy, target, chain, client):
    running = proxy(target(), extra=trusting())
    get(running.port, "/", f"X-Forwarded-For: {chain}\r\n")
    assert running.access_log()[0]["client_ip"] == client


@pytest.mark.parametrize("fields", [b"", b"X-Forwarded-For: 1.2.3.4\r\n"])
def test_a_request_without_host_has_no_forwarded_host(proxy, target, fields):
    """HTTP/1.0 needs no Host: nothing is made up, and no empty field is sent."""
    upstream = target()
    running = proxy(upstream, extra=trusting())
    assert request(running.port, b"GET / HTTP/1.0\r\n" + fields + b"\r\n").status == 200
    assert values(upstream.received, "x-forwarded-host") == []
    assert "host=" not in values(upstream.received, "forwarded")[0]


@pytest.mark.parametrize(
    "value",
    ["", "x" * 129, "two words", 'a"b', "caf\xe9", "a,b"],
    ids=["empty", "long", "space", "quote", "latin", "comma"],
)
def test_a_request_id_that_could_do_harm_is_replaced(proxy, target, value):
    upstream = target()
    answer = request(
        proxy(upstream, extra=trusting()).port,
        f"GET / HTTP/1.1\r\nHost: test\r\nX-Request-ID: {value}\r\n\r\n".encode("latin-1"),
    )
    (sent,) = values(upstream.received, "x-request-id")
    assert re.fullmatch("[0-9a-f]{32}", sent)
    assert answer.all("x-request-id") == [sent]


def test_a_targets_request_id_does_not_replace_the_gateways(proxy, target):
    from tests.kit.wire import answer_all

    upstream = target(
        answer_all(b"HTTP/1.1 200 OK\r\nX-Request-ID: theirs\r\nVia: 1.1 app\r\nContent-Length: 0\r\n\r\n")
    )
    answer = get(proxy(upstream).port)
    assert answer.all("x-request-id") == values(upstream.received, "x-request-id")
    assert answer.all("via") == ["1.1 app", "1.1 gatewright"]


def test_an_ipv6_client_is_named_as_the_rfcs_say(gateway, target):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    upstream = target()
    running = gateway(
        'listeners: [{bind: "[::1]:0", trusted_proxies: ["::1/128"]}]\n'
        f'services: {{s: {{targets: ["{upstream.url}"]}}}}\n'
        'routes: [{name: all, match: {path: "/{rest...}"}, service: s}]\n'
    )
    for fields in ("", "X-Forwarded-For: 2001:db8::9\r\n"):
        with RawSocket(socket.create_connection(("::1", running.port))) as client:
            client.send(f"GET / HTTP/1.1\r\nHost: [::1]:80\r\n{fields}\r\n".encode())
            assert client.read_answer().status == 200
    sent = upstream.received
    assert values(sent, "x-forwarded-for") == ["::1"]
    assert values(sent, "forwarded") == ['for="[::1]";proto=http;host="[::1]:80"']
    second = sent[sent.index(b"\r\n\r\n") + 4 :]
    assert values(second, "x-forwarded-for") == ["2001:db8::9, ::1"]
    assert [line["client_ip"] for line in running.access_log()] == ["::1", "2001:db8::9"]


@pytest.mark.parametrize(
    ("policy", "host"),
    [("preserve", "Shop.example"), ("target", "127.0.0.1:{port}"), ("inner.example:8443", "inner.example:8443")],
)
def test_the_host_policy_decides_what_the_target_sees_as_host(proxy, target, policy, host):
    upstream = target()
    running = proxy(upstream, service=f'host: "{policy}"')
    assert request(running.port, b"GET / HTTP/1.1\r\nHost: Shop.example\r\n\r\n").status == 200
    assert values(upstream.received, "host") == [host.format(port=upstream.port)]
    assert values(upstream.received, "x-forwarded-host") == ["Shop.example"]


def test_the_authority_of_an_absolute_target_outranks_host(proxy, target):
    upstream = target()
    running = proxy(upstream)
    assert request(running.port, b"GET http://real.example/p?q HTTP/1.1\r\nHost: other.example\r\n\r\n").status == 200
    assert upstream.received.startswith(b"GET /p?q HTTP/1.1\r\nHost: real.example\r\n")


def test_options_star_is_answered_here(proxy, target):
    upstream = target()
    answer = request(proxy(upstream).port, b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n")
    assert answer.status == 204
    assert "GET" in (answer.get("allow") or "")
    assert upstream.received == b""


def test_a_loop_is_broken(gateway, target):
    """Two gateways that point at each other: the circle ends with 508, after a bounded number of rounds."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    one = gateway(
        f'listeners: [{{bind: "127.0.0.1:{port}"}}]\nservices: {{s: {{targets: ["http://127.0.0.1:{port}"]}}}}\n'
        'routes: [{name: all, match: {path: "/{rest...}"}, service: s}]\n'
    )
    answer = get(one.port)
    assert answer.status == 508
    assert b"loop_detected" in answer.body
    assert len(one.access_log()) == 9


@pytest.mark.parametrize(("count", "status"), [(7, 200), (8, 508)])
def test_passes_are_counted_in_one_via_or_in_many(proxy, target, count, status):
    running = proxy(target())
    assert get(running.port, "/", "Via: 1.1 gatewright\r\n" * count).status == status
    assert get(running.port, "/", "Via: " + ", ".join(["1.1 Gatewright"] * count) + "\r\n").status == status
    assert get(running.port, "/", "Via: " + ", ".join(["1.1 other"] * 20) + "\r\n").status == 200


def test_hop_by_hop_fields_of_answers_do_not_cross(proxy, target):
    from tests.kit.wire import answer_all

    reply = (
        b"HTTP/1.1 200 Fine By Me\r\nSet-Cookie: a=1\r\nConnection: X-Named\r\nX-Named: 1\r\nKeep-Alive: timeout=1\r\n"
        b"set-cookie: b=2\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nSERVER: app\r\nContent-Length: 0\r\n\r\n"
    )
    answer = get(proxy(target(answer_all(reply))).port)
    assert (answer.status, answer.phrase) == (200, "Fine By Me")
    names = [name for name, _ in answer.headers]
    assert names == ["Date", "Set-Cookie", "set-cookie", "SERVER", "Via", "X-Request-ID", "Content-Length"]
    assert answer.all("set-cookie") == ["a=1", "b=2"]
