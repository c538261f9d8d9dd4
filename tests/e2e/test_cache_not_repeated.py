"""What is never answered again by its bytes, and plugins other than the cache that let it be."""

import ssl

import pytest
import trustme

from tests.kit.caching import FRESH, LATE, WHO, Origin
from tests.kit.repeating import bytes_of, learnt
from tests.kit.wire import RawSocket, get, request

# What is never answered so


NEVER = {
    "a range": "Range: bytes=0-0\r\n",
    "a condition": 'If-None-Match: "a"\r\n',
    "no-cache": "Cache-Control: no-cache\r\n",
    "only-if-cached": "Cache-Control: only-if-cached\r\n",
    "the last request": "Connection: close\r\n",
    "a body": "Content-Length: 2\r\n\r\nab",
    "a long head": f"X-Long: {'x' * 3000}\r\n",
    "another protocol": "Connection: upgrade\r\nUpgrade: other\r\n",
}


@pytest.mark.parametrize("ask", NEVER.values(), ids=NEVER)
def test_what_is_not_a_plain_request_is_read(bench, taken, ask):
    it = bench()
    path = learnt(it)
    answers = [it.ask(path, ask) for _ in range(6)]
    assert taken == []
    assert {each.status for each in answers} <= {200, 206, 304}
    assert it.ask(path).body in (b"old", b"new")


def test_head_and_http_10_are_read(bench, taken):
    it = bench()
    path = learnt(it)
    for _ in range(5):
        answer = it.ask(path, method="HEAD")
        assert (answer.get("content-length"), answer.body) == ("3", b"")
        for field, connection in (("X-A: b", "close"), ("Connection: keep-alive", "keep-alive")):
            answer = request(it.port, f"GET {path} HTTP/1.0\r\nHost: test\r\n{field}\r\n\r\n".encode())
            assert (answer.get("connection"), answer.body) == (connection, b"old")
    assert taken == []


def test_with_tracing_every_request_has_its_span(gateway, target, taken):
    origin = Origin()
    origin.replies["/a"] = [b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 3\r\n\r\nold"]
    config = (
        f"services: {{s: {{targets: ['{target(origin).url}']}}}}\n"
        "routes: [{name: a, match: {path: /a}, service: s, plugins: [{cache: {}}]}]\n"
    )
    running = gateway(config + 'tracing: {endpoint: "http://127.0.0.1:1"}\n')
    assert {get(running.port, "/a").body for _ in range(6)} == {b"old"}
    assert taken == []
    assert len({line["span_id"] for line in running.access_log()}) == 6
    running.reload(config)
    assert {get(running.port, "/a").body for _ in range(6)} == {b"old"}
    assert taken


@pytest.mark.parametrize("beside", [{"before": WHO}, {"behind": LATE}])
def test_nothing_is_repeated_where_another_plugin_has_a_part(bench, taken, beside):
    it = bench(**beside)
    path = learnt(it)
    assert [it.ask(path).body for _ in range(3)] == [b"old"] * 3
    assert taken == []


def test_other_plugins_see_every_request(bench, taken):
    it = bench(before=WHO)
    path = learnt(it)
    it.origin.replies[path] = [it.reply(200, FRESH, b"ann's")]
    assert it.ask(path, "X-Key: ann\r\n").body == b"ann's"
    assert [it.ask(path).body for _ in range(3)] == [b"old"] * 3
    assert taken == []


MORE = """
from gatewright.plugins.cache.plugin import CachePlugin
class More(CachePlugin, name="more"):
    def on_response(self, exchange, response):
        super().on_response(exchange, response)
        response.headers.set("X-ID", exchange.id)
"""


def test_a_subclass_may_do_more(gateway, target, taken):
    origin = Origin()
    origin.replies["/a"] = [b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 3\r\n\r\nold"]
    running = gateway(
        f"services: {{s: {{targets: ['{target(origin).url}']}}}}\n"
        "routes: [{name: a, match: {path: /a}, service: s, plugins: [{use: './more.py:More'}]}]\n",
        files={"more.py": MORE},
    )
    answers = [get(running.port, "/a") for _ in range(6)]
    assert all(each.get("x-id") == each.get("x-request-id") for each in answers)
    assert (taken, origin.asked("/a")) == ([], 1)


def test_a_split_is_drawn_for_every_request(gateway, target, taken):
    origins = [Origin(), Origin()]
    for origin, text in zip(origins, ("one", "two"), strict=True):
        origin.replies["/a"] = [f"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{text}".encode()]
    one, two = (target(origin).url for origin in origins)
    running = gateway(
        f"services: {{one: {{targets: ['{one}'], plugins: [{{cache: {{ttl: 1h}}}}]}}, two: {{targets: ['{two}']}}}}\n"
        "routes: [{name: a, match: {path: /a}, split: [{service: one, weight: 1}, {service: two, weight: 1}]}]\n"
    )
    bodies = [get(running.port, "/a").body for _ in range(60)]
    assert set(bodies[-40:]) == {b"one", b"two"}
    assert taken == []


def test_trusted_proxies_speak_for_others(bench, taken):
    it = bench(listener="trusted_proxies: ['127.0.0.0/8']")
    path = learnt(it)
    told_ids = [it.ask(path, "X-Request-ID: given\r\n").get("x-request-id") for _ in range(6)]
    assert told_ids == ["given"] * 6
    for name in ("10.0.0.1", "10.0.0.2") * 3:
        it.ask(path, f"X-Forwarded-For: {name}\r\n")
    assert [line["client_ip"] for line in it.running.access_log()][-6:] == ["10.0.0.1", "10.0.0.2"] * 3
    assert taken == []


def test_who_is_trusted_after_a_reload(gateway, target, taken):
    origin = Origin()
    origin.replies["/a"] = [b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 3\r\n\r\nold"]
    config = (
        'listeners: [{{bind: "127.0.0.1:0", trusted_proxies: [{trusted}]}}]\n'
        f"services: {{{{s: {{{{targets: ['{target(origin).url}']}}}}}}}}\n"
        "routes: [{{name: a, match: {{path: /a}}, service: s, plugins: [{{cache: {{}}}}]}}]\n"
    )
    running = gateway(config.format(trusted=""))
    with RawSocket.connect(running.port) as client:

        def ask():
            client.send(bytes_of("/a", "X-Request-ID: given\r\n"))
            return client.read_answer().get("x-request-id")

        assert "given" not in {ask() for _ in range(6)}
        assert taken
        taken.clear()
        running.reload(config.format(trusted="127.0.0.1"))
        assert {ask() for _ in range(6)} == {"given"}
        assert taken == []
        running.reload(config.format(trusted=""))
        assert "given" not in {ask() for _ in range(6)}
        assert taken


def test_http_and_https_have_their_own(gateway, target, tmp_path, taken):
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    origin = Origin()
    origin.replies["/a"] = [
        f"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{text}".encode() for text in ("plain", "tls!!")
    ]
    running = gateway(
        'listeners: [{bind: "127.0.0.1:0"}, {bind: "127.0.0.1:0", tls: {cert: ../cert.pem, key: ../key.pem}}]\n'
        f"services: {{s: {{targets: ['{target(origin).url}']}}}}\n"
        "routes: [{name: a, match: {path: /a}, service: s, plugins: [{cache: {ttl: 1h}}]}]\n"
    )
    plain = RawSocket.connect(running.port)
    secure = RawSocket.connect(running.listeners[1].port, tls=context)
    with plain, secure:
        for _ in range(8):
            for client, body in ((plain, b"plain"), (secure, b"tls!!")):
                client.send(bytes_of("/a"))
                assert client.read_answer().body == body
    assert taken == [True] * 10
    versions = [line.get("tls_version") for line in running.access_log()]
    assert versions == [None, "TLSv1.3"] * 8


# The API


OWN = """
from gatewright import Plugin, PluginConfig, Response
DATE = {"Date": "Sun, 06 Nov 1994 08:49:37 GMT"}
class Same:
    until = float("inf")
    def __init__(self, path):
        self.path = path
    def renew(self, now):
        if self.path == "/renew":
            raise RuntimeError("no")
        status = 304 if self.path == "/bare" else 200
        return Response(status, {} if self.path == "/undated" else DATE, "" if self.path == "/empty" else "again")
    def again(self):
        if self.path == "/again":
            raise RuntimeError("no")
        return b"again"
class Own(Plugin[PluginConfig]):
    def on_request(self, exchange):
        return Response(200, DATE, "first")
    def on_response(self, exchange, response):
        if exchange.request.path == "/broken":
            raise RuntimeError("no")
    def repeat(self, exchange):
        if exchange.request.path == "/repeat":
            raise RuntimeError("no")
        return None if exchange.request.path == "/none" else Same(exchange.request.path)
"""


@pytest.fixture
def own(gateway, target):
    return gateway(
        f"services: {{s: {{targets: ['{target().url}']}}}}\n"
        "routes: [{name: a, match: {path: '/{rest...}'}, service: s, plugins: [{use: './own.py:Own'}]}]\n",
        files={"own.py": OWN},
    )


@pytest.mark.parametrize("path", ["/good", "/none", "/repeat", "/renew", "/again", "/empty", "/bare", "/undated"])
def test_a_plugin_of_ones_own(own, path):
    bodies = [get(own.port, path).body for _ in range(5)]
    assert bodies == ([b"first"] * 2 + [b"again"] * 3 if path == "/good" else [b"first"] * 5)
    assert len(own.access_log()) == 5


def test_what_is_not_what_the_plugin_gave_is_not_repeated(own):
    assert [get(own.port, "/broken").status for _ in range(5)] == [500] * 5
    with_body = b"GET /good HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nab"
    assert {request(own.port, with_body).body for _ in range(5)} == {b"first"}
    assert [line["bytes_in"] for line in own.access_log()] == [0] * 5 + [2] * 5


def test_what_is_remembered_is_bounded(own, monkeypatch):
    monkeypatch.setattr("gatewright.net.repeats._MOST", 20)
    repeats = own.gateway._proxy.repeats["http"]
    with RawSocket.connect(own.port) as client:
        for number in range(100):
            for _ in range(3):
                client.send(bytes_of(f"/{number}"))
                client.read_answer()
            assert 0 < len(repeats) <= 20
            assert len(repeats._seen) <= 80
        for _ in range(3):
            client.send(bytes_of("/long", f"X-Long: {'x' * 3000}\r\n"))
            assert client.read_answer().body == b"first"
    assert all(len(data) < 100 for data in repeats)
