"""Upgrades: 101 makes a tunnel that carries any bytes both ways until a side ends; every other answer is ordinary."""

import socket
import threading

import pytest

from tests.kit.wire import TIMEOUT, RawSocket, TargetSession, answer_all, get, request

UPGRADE = b"GET /chat HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\nX-A: b\r\n\r\n"

SLOW_PLUGIN = """
import asyncio
from gatewright import Plugin, PluginConfig

class Config(PluginConfig):
    pass

class Waits(Plugin[Config], name="waits"):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.go = asyncio.Event()

    def on_request(self, exchange):
        if exchange.request.path == "/go":
            self.go.set()
            return exchange.reject(403, "gone_on", "The other exchange goes on")

    async def around(self, exchange, call):
        response = await call()
        await self.go.wait()
        return response
"""


def tunnel(talk, early: bytes = b"", heads: list[bytes] | None = None):
    """A script that accepts the upgrade, sends `early` with its answer, and lets `talk(session)` go on."""

    def script(session: TargetSession) -> None:
        head = session.read_head()
        if heads is not None:
            heads.append(head)
        session.send(SWITCH + early)
        talk(session)

    return script


def echo(session: TargetSession) -> None:
    while session.buffer or session.fill():
        session.send(session.buffer)
        session.buffer = b""


def opened(port: int, behind: bytes = b"") -> RawSocket:
    """A client in a tunnel."""
    client = RawSocket.connect(port)
    client.send(UPGRADE + behind)
    answer = client.read_answer()
    assert answer.status == 101
    return client


def none_left(running) -> None:
    """Wait until the gateway has let go of everything."""
    pause = threading.Event()
    for _ in range(100):
        if running.call(leftovers, running) == (0, 0, 0):
            return
        pause.wait(0.02)
    assert running.call(leftovers, running) == (0, 0, 0)


def leftovers(running) -> tuple[int, int, int]:
    """Client connections, exchanges, connections to targets."""
    proxy = running.gateway._proxy
    pools = [target.pool.size for service in proxy.snapshot.services.values() for target in service.targets]
    return len(running.listeners[0].connections), proxy.in_flight, sum(pools)


def test_an_upgrade_becomes_a_tunnel(proxy, target):
    heads: list[bytes] = []
    running = proxy(target(tunnel(echo, heads=heads)))
    with RawSocket.connect(running.port) as client:
        client.send(UPGRADE)
        answer = client.read_answer()
        assert (answer.status, answer.phrase) == (101, "Switching Protocols")
        assert (answer.get("connection"), answer.get("upgrade"), answer.get("x-a")) == ("Upgrade", "echo/1", "b")
        assert answer.get("content-length") is None
        for word in (b"hello", b"\x00\r\n\r\nGET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 1000):
            client.send(word)
            assert client.read_exactly(len(word)) == word
    none_left(running)
    assert b"\r\nUpgrade: echo/1\r\n" in heads[0]
    assert b"\r\nConnection: Upgrade\r\n" in heads[0]
    line = running.access_log()[0]
    assert (line["status"], line.get("reason")) == (101, None)
    total = 5 + 23 + 256_000
    assert (line["bytes_in"], line["bytes_out"]) == (total, total)


def test_bytes_that_come_while_a_plugin_waits_are_not_lost(gateway, target):
    """The target has changed protocols and talks; the gateway has not answered its client yet."""
    upstream = target(tunnel(echo, early=b"wel"))
    running = gateway(
        f'services: {{s: {{targets: ["{upstream.url}"]}}}}\n'
        'routes: [{name: all, match: {path: "/{rest...}"}, service: s}]\nplugins: [{use: "./waits.py:Waits"}]\n',
        files={"waits.py": SLOW_PLUGIN},
    )
    with RawSocket.connect(running.port) as client:
        client.send(UPGRADE + b"impatient")
        pause = threading.Event()
        while not (upstream.sessions and upstream.sessions[0].received) or not running.call(has_answer, running):
            pause.wait(0.01)
        upstream.sessions[0].send(b"come!")
        assert get(running.port, "/go").status == 403
        assert client.read_answer().status == 101
        assert client.read_exactly(17) == b"welcome!impatient"


def has_answer(running) -> bool:
    """Tell whether the head of the target's answer has come."""
    (connection,) = running.listeners[0].connections
    return connection._exchange.upstream_status is not None


def test_bytes_that_come_with_either_head_are_not_lost(proxy, target):
    """The target speaks first, in the packet of its 101; the client has spoken already, behind its request."""
    running = proxy(target(tunnel(echo, early=b"welcome!")))
    with opened(running.port, behind=b"impatient") as client:
        assert client.read_exactly(17) == b"welcome!impatient"
        client.send(b"more")
        assert client.read_exactly(4) == b"more"


def test_a_target_that_sends_and_closes_at_once_is_heard(proxy, target):
    running = proxy(target(tunnel(lambda session: None, early=b"bye" * 1000)))
    with opened(running.port) as client:
        assert client.read_to_end() == b"bye" * 1000
    none_left(running)


def test_a_half_closed_tunnel_carries_the_other_half(proxy, target):
    received: list[bytes] = []

    def talk(session: TargetSession) -> None:
        received.append(session.read_to_end())
        session.send(b"all of it: %d" % len(received[0]))

    running = proxy(target(tunnel(talk)))
    with opened(running.port) as client:
        client.send(bytes(100_000))
        client.sock.shutdown(socket.SHUT_WR)
        assert client.read_to_end() == b"all of it: 100000"
    none_left(running)


def test_a_tunnel_ends_when_both_sides_have_said_so(proxy, target):
    """Both half close and keep their sockets open: the gateway lets go of both all the same."""
    done = threading.Event()

    def talk(session: TargetSession) -> None:
        session.sock.shutdown(socket.SHUT_WR)
        session.read_to_end()
        done.wait(TIMEOUT)

    running = proxy(target(tunnel(talk)))
    with opened(running.port) as client:
        assert client.read_to_end() == b""
        client.sock.shutdown(socket.SHUT_WR)
        none_left(running)
    done.set()


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("side", ["client", "target"])
def test_either_side_may_die(proxy, target, side, end):
    sessions: list[TargetSession] = []
    ended, start = threading.Event(), threading.Event()

    def talk(session: TargetSession) -> None:
        sessions.append(session)
        start.wait(TIMEOUT)
        if side == "target":
            getattr(session, end)()
        else:
            session.read_to_end()
        ended.set()

    running = proxy(target(tunnel(talk)))
    with opened(running.port) as client:
        start.set()
        if side == "client":
            getattr(client, end)()
        else:
            assert client.read_to_end() == b""
        assert ended.wait(TIMEOUT), "the other side learns it"
        if side == "target":
            client.close()
    none_left(running)


def test_a_tunnel_has_backpressure(proxy, target):
    def talk(session: TargetSession) -> None:
        session.read_until(b"go")
        session.sock.settimeout(TIMEOUT)
        session.send(bytes(40_000_000))

    running = proxy(target(tunnel(talk)))
    with opened(running.port) as client:
        client.send(b"go")
        pause = threading.Event()
        for _ in range(20):
            held = running.call(
                lambda: sum(one.transport.get_write_buffer_size() for one in running.listeners[0].connections)
            )
            assert held <= 1024 * 1024
            pause.wait(0.01)
        count = len(client.buffer)
        while data := client.sock.recv(1_000_000):
            count += len(data)
        assert count == 40_000_000


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: echo/2\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nnew",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
def test_a_refused_upgrade_is_an_ordinary_answer(proxy, target, reply):
    upstream = target(answer_all(reply))
    running = proxy(upstream)
    with RawSocket.connect(running.port) as client:
        for _ in range(2):
            client.send(UPGRADE)
            answer = client.read_answer()
            assert answer.status == int(reply[9:12])
            assert reply.endswith(answer.body) or answer.body == b"ok"
            assert answer.get("connection") is None
    assert len(upstream.sessions) == 1, "both connections go on"


def test_101_that_nobody_asked_for_is_a_malformed_answer(proxy, target):
    running = proxy(target(answer_all(SWITCH + b"GET /smuggled HTTP/1.1\r\n\r\n")))
    answer = request(running.port, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    assert answer.status == 502
    assert b"upstream_malformed" in answer.body
    none_left(running)


@pytest.mark.parametrize(
    "fields",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
        b"Connection: upgrade\r\nUpgrade: websocket, h2c\r\n",
        b"Connection: upgrade\r\nUpgrade: H2C\r\n",
        b"Upgrade: echo/1\r\n",  # not named by Connection: it is no request to change
    ],
)
def test_what_must_not_be_upgraded_is_forwarded_without_the_wish(proxy, target, fields):
    upstream = target()
    running = proxy(upstream)
    assert request(running.port, b"GET / HTTP/1.1\r\nHost: test\r\n" + fields + b"\r\n").status == 200
    sent = upstream.received.lower()
    assert b"upgrade" not in sent
    assert b"http2-settings" not in sent


def test_http_1_0_cannot_upgrade(proxy, target):
    upstream = target()
    running = proxy(upstream)
    assert request(running.port, UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0")).status == 200
    assert b"Upgrade" not in upstream.received


def test_an_upgrade_with_a_body_is_an_ordinary_request(proxy, target):
    upstream = target()
    running = proxy(upstream)
    data = UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nhi").replace(b"GET", b"POST")
    assert request(running.port, data).status == 200
    assert b"Upgrade" not in upstream.received
