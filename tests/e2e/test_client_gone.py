"""A client that goes away, politely or not, at any stage: its attempt is cancelled, it is logged, nothing is left."""

import asyncio
import socket
import ssl
import threading
from contextlib import suppress

import pytest
import trustme

from gatewright.core import tasks
from tests.kit.wire import TIMEOUT, RawSocket, TargetSession, get

ENDS = ["close", "reset"]
SLOW_PLUGIN = """
import asyncio
from gatewright import Plugin, PluginConfig

class Config(PluginConfig):
    pass

class Waits(Plugin[Config], name="waits"):
    async def on_request(self, exchange):
        await asyncio.sleep(30)
"""


class Watching:
    """A target that tells when a request has come as far as `stage`, and when its connection ended after that."""

    def __init__(self, stage: str) -> None:
        self.reached = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self._stage = stage

    def __call__(self, session: TargetSession) -> None:
        head = session.read_head()
        if head.startswith(b"GET /fine"):
            session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            return
        if self._stage == "upload":
            session.read_exactly(1000)
        elif self._stage == "download":
            session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + bytes(100_000))
        self.reached.release()
        try:
            while session.fill():
                session.buffer = b""
        finally:
            self.ended.release()


REQUESTS = {
    "upload": b"POST /gone HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n" + bytes(2000),
    "chunked": b"POST /gone HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + bytes(2000),
    "answer": b"GET /gone HTTP/1.1\r\nHost: test\r\n\r\n",
    "download": b"GET /gone HTTP/1.1\r\nHost: test\r\n\r\n",
}
STAGES = [("upload", "upload"), ("upload", "chunked"), ("answer", "answer"), ("download", "download")]


def go(port: int, script: Watching, kind: str, end: str) -> None:
    """One client that goes away once its request has come so far."""
    client = RawSocket.connect(port)
    client.send(REQUESTS[kind])
    assert script.reached.acquire(timeout=TIMEOUT)
    if kind == "download":
        client.read_exactly(1000)
    getattr(client, end)()


def leftovers(running) -> dict[str, int]:
    """What the gateway still holds, besides its own machinery."""
    proxy = running.gateway._proxy
    services = proxy.snapshot.services.values()
    targets = [target for service in services for target in service.targets]
    return {
        "connections": sum(len(listener.connections) for listener in running.listeners),
        "exchanges": proxy.in_flight,
        "admitted": sum(service.in_flight for service in services),
        "attempts": sum(target.in_flight for target in targets),
        "open to targets": sum(target.pool.size - target.pool.idle for target in targets),
        "opening": sum(len(target.pool._opening) for target in targets),
        "waiting": sum(len(target.pool._waiting) for target in targets),
        "retries": sum(service.retry.budget.in_use for service in services),
        "tasks": len(tasks._running),
        "asyncio tasks": len(asyncio.all_tasks()) - 2,  # the one that serves, and the one that counts
    }


def nothing_left(running) -> None:
    """Wait until the gateway holds nothing any more."""
    pause = threading.Event()
    for _ in range(100):
        found = running.call(leftovers, running)
        if not any(found.values()):
            return
        pause.wait(0.05)
    raise AssertionError(found)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(("stage", "kind"), STAGES)
def test_the_targets_side_is_cancelled_at_every_stage(proxy, target, stage, kind, end):
    script = Watching(stage)
    upstream = target(script)
    running = proxy(upstream)
    go(running.port, script, kind, end)
    assert script.ended.acquire(timeout=2.0), "the target sees its connection closed at once"
    nothing_left(running)
    (line,) = running.access_log()
    assert line["reason"] == "client_gone"
    assert line["status"] == (200 if stage == "download" else 499)
    assert line["attempts"] == 1
    assert get(running.port, "/fine").status == 200
    assert upstream.errors == []


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("data", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: test\r\nX-A: "])
def test_a_client_that_goes_before_its_request_was_complete_leaves_no_trace(proxy, target, data, end):
    upstream = target()
    running = proxy(upstream)
    client = RawSocket.connect(running.port)
    client.send(data)
    getattr(client, end)()
    nothing_left(running)
    assert running.access_log() == []
    assert upstream.sessions == []


def test_half_closing_is_going_away(proxy, target):
    script = Watching("answer")
    running = proxy(target(script))
    with RawSocket.connect(running.port) as client:
        client.send(REQUESTS["answer"])
        assert script.reached.acquire(timeout=TIMEOUT)
        client.sock.shutdown(1)
        assert script.ended.acquire(timeout=2.0)
        assert client.read_to_end() == b""
    assert running.access_log()[0]["reason"] == "client_gone"


def test_a_client_that_goes_while_a_plugin_waits_ends_the_wait(gateway, target):
    upstream = target()
    running = gateway(
        f'services: {{s: {{targets: ["{upstream.url}"]}}}}\n'
        'routes: [{name: all, match: {path: "/{rest...}"}, service: s}]\nplugins: [{use: "./waits.py:Waits"}]\n',
        files={"waits.py": SLOW_PLUGIN},
    )
    client = RawSocket.connect(running.port)
    client.send(REQUESTS["answer"])
    pause = threading.Event()
    while not running.call(lambda: running.gateway._proxy.in_flight):
        pause.wait(0.01)
    client.close()
    nothing_left(running)
    (line,) = running.access_log()
    assert (line["status"], line["reason"]) == (499, "client_gone")
    assert upstream.sessions == []


def test_a_client_that_goes_does_not_count_against_its_target(proxy, target):
    script = Watching("answer")
    running = proxy(target(script), service="breaker: {minimum: 3, failure_rate: 10%}\noutlier: {consecutive: 3}")
    for _ in range(10):
        go(running.port, script, "answer", "reset")
        assert script.ended.acquire(timeout=TIMEOUT)
    nothing_left(running)
    assert get(running.port, "/fine").status == 200


def test_pipelined_requests_behind_the_one_that_ended_are_never_sent(proxy, target):
    script = Watching("answer")
    upstream = target(script)
    running = proxy(upstream)
    client = RawSocket.connect(running.port)
    client.send(REQUESTS["answer"] * 5)
    assert script.reached.acquire(timeout=TIMEOUT)
    client.close()
    assert script.ended.acquire(timeout=TIMEOUT)
    nothing_left(running)
    assert upstream.received.count(b"GET ") == 1
    assert len(running.access_log()) == 1


def test_five_hundred_such_clients_leave_nothing_behind(proxy, target):
    scripts = {stage: Watching(stage) for stage, _ in STAGES}
    running = {stage: proxy(target(script)) for stage, script in scripts.items()}
    count = 0
    for _ in range(63):
        for stage, kind in STAGES:
            for end in ENDS:
                go(running[stage].port, scripts[stage], kind, end)
                count += 1
    assert count == 504
    for stage, gateway in running.items():
        nothing_left(gateway)
        assert {line["reason"] for line in gateway.access_log()} == {"client_gone"}
        assert get(gateway.port, "/fine").status == 200, stage
    assert sum(len(gateway.access_log()) for gateway in running.values()) == 504 + 3


AT_ONCE = (
    'services: {s: {targets: ["http://127.0.0.1:1"]}}\n'
    "routes: [{name: r, match: {path: /here}, respond: {status: 200, body: ok}}]\n"
)


@pytest.mark.parametrize("tls", [False, True])
def test_who_asks_and_says_no_more_at_once_gets_what_needs_no_target(gateway, tls):
    """With TLS, request and end come in one piece, and so in one turn of the event loop."""
    authority = trustme.CA()
    listener = 'listeners: [{bind: "127.0.0.1:0", tls: {cert: c.pem, key: k.pem}}]\n' if tls else ""
    certificate = authority.issue_cert("localhost")
    files = {
        "c.pem": certificate.cert_chain_pems[0].bytes().decode(),
        "k.pem": certificate.private_key_pem.bytes().decode(),
    }
    running = gateway(listener + AT_ONCE, files=files)
    request = b"GET /here HTTP/1.1\r\nHost: test\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), TIMEOUT) as sock:
        if not tls:
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        else:
            answer = _ask_and_end(sock, authority, request)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"ok")


def _ask_and_end(sock, authority, request):
    """Send a request and TLS's own end in one piece; return the answer."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            session.do_handshake()
            break
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(65536))
    session.write(request)
    with suppress(ssl.SSLWantReadError):
        session.unwrap()
    sock.sendall(outgoing.read())
    while piece := sock.recv(65536):
        incoming.write(piece)
    answer = b""
    with suppress(ssl.SSLError):
        while piece := session.read(65536):
            answer += piece
    return answer
