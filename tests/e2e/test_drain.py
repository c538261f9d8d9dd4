"""The end of a gateway: nothing that was accepted is dropped before its time is up, and nothing broken looks whole."""

import asyncio
import contextlib
import socket
import ssl
import threading

import pytest
import trustme

from tests.kit.answers import plan, why
from tests.kit.inside import until
from tests.kit.tokens import MovedClock
from tests.kit.wire import OK, RawSocket, answer_all

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TOLD = """
import asyncio
from gatewright import Plugin
class Told(Plugin):
    done = []
    def on_done(self, exchange):
        self.done.append((exchange.request.path, exchange.status, exchange.reason))
"""
CLEANS_UP = """
    async def around(self, exchange, call):
        try:
            return await call()
        finally:
            await asyncio.Event().wait()
"""
USE = "plugins: [{use: './told.py:Told'}]\n"


class Stopping:
    """`gateway.stop(grace)` in the background."""

    def __init__(self, running, grace: float) -> None:
        self.running = running
        self._thread = threading.Thread(target=running.call, args=(running.gateway.stop, grace))
        listeners = list(running.listeners)
        self._thread.start()
        until(running, lambda: all(listener.draining for listener in listeners))

    def over(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()


@pytest.fixture(params=[None, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def start(request, gateway):
    """A gateway in front of a target, on either event loop, with a plugin that tells of each exchange's end."""

    def make(upstream, extra: str = "", before: str = "", code: str = TOLD, **options):
        if request.param:
            options["loop"] = request.param
        text = f'services: {{s: {{targets: ["{upstream.url}"], retry: {{attempts: 0}}}}}}\n'
        text += "routes: [{name: all, match: {path: '/{rest...}'}, service: s}]\n" + USE + extra
        return gateway(before + text, files={"told.py": code}, **options)

    return make


def told(running):
    """What the plugin has seen the end of. Its class outlives the gateway."""
    return running.gateway._generations.present.plugins[0].done


def test_quiet_connections_close_at_once_and_a_begun_request_is_answered(start, target):
    clock = MovedClock()
    running = start(target(), clock=clock)
    with RawSocket.connect(running.port) as idle, RawSocket.connect(running.port) as begun:
        for client in (idle, begun):
            client.send(REQUEST)
            assert client.read_answer().get("connection") is None
        clock.ahead = 2.0
        begun.send(REQUEST[:10])
        until(running, lambda: "head" in states(running))
        stopping = Stopping(running, 10)
        assert idle.read_to_end() == b""
        assert running.gateway.connections == 1
        begun.send(REQUEST[10:])
        answer = begun.read_answer()
        assert (answer.body, answer.get("connection")) == (b"ok", "close")
        assert begun.read_to_end() == b""
        stopping.over()


def test_who_was_answered_just_now_may_ask_once_more(start, target):
    clock = MovedClock()
    running = start(target(), clock=clock)
    with RawSocket.connect(running.port) as asks, RawSocket.connect(running.port) as does_not:
        for client in (asks, does_not):
            client.send(REQUEST)
            assert client.read_answer().get("connection") is None
        stopping = Stopping(running, 10)
        asks.send(REQUEST)
        answer = asks.read_answer()
        assert (answer.body, answer.get("connection")) == (b"ok", "close")
        assert asks.read_to_end() == b""
        assert not stopping.is_over
        clock.ahead = 1.0
        assert does_not.read_to_end() == b""
        stopping.over()


def test_who_connects_or_asks_as_it_closes_is_served(start, target):
    """Clients that are in the kernel's queue, and requests that lie in its buffers, when the listener closes."""
    running = start(target())
    send, sent = threading.Event(), threading.Event()
    port = running.port
    kept = [RawSocket.connect(port) for _ in range(20)]
    for client in kept:
        client.send(REQUEST)
        client.read_answer()
    fresh = [RawSocket.connect(port) for _ in range(5)]
    until(running, lambda: len(running.listeners[0].connections) == 25)

    def close() -> None:
        send.set()
        assert sent.wait(10)  # the loop stands still, so nothing is accepted or read
        running.listeners[0].close()

    closing = threading.Thread(target=running.call, args=(close,))
    closing.start()
    assert send.wait(10)
    new = [RawSocket.connect(port) for _ in range(50)]
    quiet = [RawSocket.connect(port) for _ in range(5)]
    for client in (*new, *kept):
        client.send(REQUEST)
    sent.set()
    closing.join()
    for client in (*fresh, *quiet):  # they have connected, and ask while the gateway drains
        client.send(REQUEST)
    for client in (*fresh, *quiet, *new, *kept):
        answer = client.read_answer()
        assert (answer.body, answer.get("connection")) == (b"ok", "close")
        assert client.read_to_end() == b""
        client.close()
    until(running, running.listeners[0].emptied.is_set)
    with pytest.raises(OSError, match="refused"):
        RawSocket.connect(port)


def test_a_client_in_its_tls_handshake_is_served(start, target, tmp_path):
    ca = trustme.CA()
    cert = ca.issue_cert("localhost")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    context = ssl.create_default_context()
    ca.configure_trust(context)
    tls = f"listeners: [{{bind: '127.0.0.1:0', tls: {{cert: {tmp_path}/cert.pem, key: {tmp_path}/key.pem}}}}]\n"
    running = start(target(), before=tls)
    with RawSocket.connect(running.port) as plain:
        until(running, lambda: running.listeners[0]._arriving)
        stopping = Stopping(running, 10)
        client = RawSocket(context.wrap_socket(plain.sock, server_hostname="localhost"))
        client.send(REQUEST)
        assert client.read_answer().body == b"ok"
        client.close()
        stopping.over()


def test_streams_uploads_and_tunnels_go_on_to_their_ends(start, target):
    go = threading.Event()

    def stream(session):
        session.send(SSE + b"2\r\na\n\r\n")
        go.wait(10)
        session.send(b"2\r\nb\n\r\n0\r\n\r\n")

    def script(session):
        head = session.read_head()
        if b"/events" in head:
            stream(session)
        elif b"/socket" in head:
            session.send(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
            while session.fill():
                session.send(session.buffer)
                session.buffer = b""
        else:
            session.read_exactly(6)
            session.send(OK)

    running = start(target(script))
    done = running.call(lambda: told(running))
    port = running.port
    with RawSocket.connect(port) as events, RawSocket.connect(port) as upload, RawSocket.connect(port) as tunnel:
        events.send(REQUEST.replace(b"/ ", b"/events "))
        events.read_until(b"a\n\r\n")
        upload.send(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabc")
        tunnel.send(b"GET /socket HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        tunnel.read_until(b"\r\n\r\n")
        until(running, lambda: running.gateway.in_flight == 3)
        stopping = Stopping(running, 10)
        upload.send(b"def")
        answer = upload.read_answer()
        assert (answer.body, answer.get("connection")) == (b"ok", "close")
        tunnel.send(b"still here")
        assert tunnel.read_exactly(10) == b"still here"
        go.set()
        assert events.read_to_end() == b"2\r\nb\n\r\n0\r\n\r\n"
        assert not stopping.is_over
        tunnel.close()
        stopping.over()
    assert sorted(done) == [("/events", 200, None), ("/socket", 101, None), ("/upload", 200, None)]


def test_when_the_time_is_up_those_without_an_answer_get_503_and_the_rest_is_cut(start, target):
    def script(session):
        head = session.read_head()
        if b"/events" in head:
            session.send(SSE + b"2\r\na\n\r\n")
        elif b"/download" in head:
            session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        elif b"/endless" in head:
            session.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsome")
        elif b"/socket" in head:
            session.send(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nhi")
        session.read_to_end()

    running = start(target(script))
    done = running.call(lambda: told(running))
    with contextlib.ExitStack() as stack:
        clients = {}
        for path in ("events", "download", "endless", "waiting"):
            clients[path] = stack.enter_context(RawSocket.connect(running.port))
            request = REQUEST.replace(b"/ ", f"/{path} ".encode())
            clients[path].send(request.replace(b"1.1", b"1.0") if path == "endless" else request)
        clients["upload"] = stack.enter_context(RawSocket.connect(running.port))
        clients["upload"].send(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabc")
        clients["socket"] = stack.enter_context(RawSocket.connect(running.port))
        clients["socket"].send(b"GET /socket HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        clients["socket"].read_until(b"\r\n\r\nhi")
        clients["begun"] = stack.enter_context(RawSocket.connect(running.port))
        clients["begun"].send(REQUEST[:10])
        for path in ("events", "download", "endless"):
            clients[path].read_until(b"\r\n\r\n")
        until(running, lambda: running.gateway.in_flight == 6 and "head" in states(running))
        stopping = Stopping(running, 0.2)
        for path in ("waiting", "upload", "begun"):
            answer = clients[path].read_answer()
            assert why(answer) == (503, "draining")
            assert (answer.get("retry-after"), answer.get("connection")) == ("1", "close")
            clients[path].close()
        assert clients["events"].read_to_end() == b"2\r\na\n\r\n", "no last chunk"
        assert clients["download"].read_to_end() == b"half"
        clients["endless"].read_to_end()
        assert clients["endless"].was_reset, "only the close would have told its end"
        assert clients["socket"].read_to_end() == b""
        stopping.over()
    expected = {
        "/events": (200, "draining"),
        "/download": (200, "draining"),
        "/endless": (200, "draining"),
        "/waiting": (503, "draining"),
        "/upload": (503, "draining"),
        "/socket": (101, "draining"),
    }
    assert {path: (status, reason) for path, status, reason in done} == expected
    log = {line["path"]: (line["status"], line["reason"]) for line in running.access_log()}
    assert log == expected | {"": (503, "draining")}, "of what has only begun the path is not known"


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WRITE_TIMEOUT = "limits: {write_timeout: 200ms}\n"


@pytest.mark.parametrize(
    ("size", "end", "limits"),
    [(60_000, b"0\r\n\r\n", ""), (60_000, b"0\r\n\r\n", WRITE_TIMEOUT), (300_000, b"", WRITE_TIMEOUT)],
    ids=["when the grace is up", "by write_timeout", "by write_timeout while it comes"],
)
def test_an_answer_that_only_the_close_ends_is_not_cut_in_an_orderly_way(start, target, size, end, limits):
    """Its exchange may be over: the client takes nothing, and the rest waits in the gateway."""

    go = threading.Event()

    def script(session):
        session.read_head()
        session.send(CHUNKED + b"5\r\nbegun\r\n")
        go.wait(10)
        session.send(b"%x\r\n%b\r\n" % (size, bytes(size)) + end)
        session.read_to_end()

    running = start(target(script), extra=limits)
    running.call(hold_little, running)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", running.port))
        client = RawSocket(sock)
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        client.read_until(b"\r\n\r\nbegun")
        go.set()
        if not limits:
            until(running, lambda: states(running) == ["linger"])
            Stopping(running, 0.1).over()
        until(running, lambda: running.gateway.connections == 0)
        assert len(client.read_to_end()) < size
        assert client.was_reset


def hold_little(running) -> None:
    """Have the system hold little of what a client does not take."""
    for server in running.listeners[0]._servers:
        for listening in server.sockets:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def states(running) -> list[str]:
    """What the client connections are doing; called on the gateway's loop."""
    return [connection.state.value for connection in running.listeners[0].connections]


@pytest.mark.parametrize("draining", [False, True])
def test_who_has_asked_in_time_is_answered_though_the_loop_is_late(start, target, draining):
    """uvloop looks at its timers first, and then at what can be read."""
    running = start(target(), extra="limits: {keepalive_timeout: 500ms}\n")
    ours, theirs = socket.socketpair()
    with ours, theirs, RawSocket.connect(running.port) as client:

        def ask_and_block() -> None:
            asyncio.get_running_loop().remove_reader(theirs)
            client.send(REQUEST)
            threading.Event().wait(0.7)  # nobody sets it: the loop stands still past the connection's time

        running.call(lambda: asyncio.get_running_loop().add_reader(theirs, ask_and_block))
        client.send(REQUEST)
        assert client.read_answer().status == 200
        stopping = Stopping(running, 10) if draining else None
        ours.send(b"now")
        assert client.read_answer().body == b"ok"
        if stopping is not None:
            assert client.read_to_end() == b""
            stopping.over()


def test_who_is_not_waited_for_because_a_plugin_cleans_up_is_logged_as_drained(start, target, monkeypatch):
    monkeypatch.setattr("gatewright.app._LAST_WORDS", 0.05)
    running = start(target(lambda session: session.read_to_end()), code=TOLD + CLEANS_UP)
    done = running.call(lambda: told(running))
    with RawSocket.connect(running.port) as client:
        client.send(REQUEST)
        until(running, lambda: running.gateway.in_flight)
        stopping = Stopping(running, 0.05)
        assert client.read_to_end() == b""
        stopping.over()
    assert done == [("/", 503, "draining")]
    assert [(line["status"], line["reason"]) for line in running.access_log()] == [(503, "draining")]


def test_a_request_behind_an_answer_that_had_begun_is_answered(start, target):
    """It could not be told that the answer before it was the last."""
    go = threading.Event()
    slow = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab"
    upstream = target(plan(lambda session: (session.send(slow), go.wait(10), session.send(b"cd"))))
    running = start(upstream)
    with RawSocket.connect(running.port) as client:
        client.send(REQUEST)
        client.read_until(b"\r\n\r\nab")
        client.send(REQUEST)
        stopping = Stopping(running, 10)
        go.set()
        assert client.read_exactly(2) == b"cd"
        answer = client.read_answer()
        assert (answer.body, answer.get("connection")) == (b"ok", "close")
        assert client.read_to_end() == b""
        stopping.over()


def test_what_was_prepared_ends_with_the_gateway(start, target):
    running = start(target(answer_all()))
    plugin = TOLD + "    async def stop(self):\n        self.done.append('stopped')\n"
    (running.folder / "told.py").write_text(plugin)
    prepared = running.prepare("routes: []\n" + USE)
    Stopping(running, 10).over()
    assert prepared.built.plugins[0].done == ["stopped"]
