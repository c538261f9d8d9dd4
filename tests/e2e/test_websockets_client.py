"""The `websockets` library on both ends of the gateway: a real client, a real server, every kind of frame between."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

TIMEOUT = 10.0


class Server:
    """A WebSocket server; `sessions` are the connections that it has had, `closes` how they ended."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.sessions: list[ServerConnection] = []
        self.closes: list[tuple[int, str]] = []
        self.closed = threading.Semaphore(0)


@contextmanager
def websocket_server(talk: Callable[[ServerConnection], None], **options: object) -> Iterator[Server]:
    """Run `talk` on each connection."""
    logger = logging.getLogger("tests.websockets")  # a refusal is no error here
    logger.propagate = False

    def handler(connection: ServerConnection) -> None:
        server.sessions.append(connection)
        try:
            talk(connection)
        except ConnectionClosed as closed:
            frame = closed.rcvd
            server.closes.append((frame.code, frame.reason) if frame else (1006, ""))
            server.closed.release()

    with serve(handler, "127.0.0.1", 0, logger=logger, max_size=None, **options) as running:  # type: ignore[arg-type]
        server = Server(running.socket.getsockname()[1])
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            for session in server.sessions:
                session.close_socket()
            running.shutdown()
            thread.join(TIMEOUT)


def echo(connection: ServerConnection) -> None:
    while True:
        connection.send(connection.recv())


@pytest.fixture
def start(stack, proxy):
    """Start a server and a gateway before it: `start(talk)` -> (server, gateway)."""

    def make(talk=echo, *, extra: str = "", **options: object):
        server = stack.enter_context(websocket_server(talk, **options))
        return server, proxy(server, extra=extra)

    return make


def client(running, path: str = "/ws", **options: object) -> ClientConnection:
    options.setdefault("max_size", None)
    return connect(f"ws://127.0.0.1:{running.port}{path}", open_timeout=TIMEOUT, proxy=None, **options)  # type: ignore[arg-type]


def test_text_and_binary_come_back(start):
    _, running = start()
    with client(running) as socket:
        for message in ("hello", "zażółć 🐍", b"\x00\xff", b"", ""):
            socket.send(message)
            assert socket.recv(TIMEOUT) == message


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 5_000_000])
@pytest.mark.parametrize("compression", ["deflate", None])
def test_frames_of_every_size_come_back(start, size, compression):
    _, running = start()
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with client(running, compression=compression) as socket:
        agreed = str(socket.response.headers.get("Sec-WebSocket-Extensions"))
        assert ("permessage-deflate" in agreed) is bool(compression)
        socket.send(message)
        assert socket.recv(TIMEOUT) == message


def test_fragments_and_many_messages_keep_their_order(start):
    _, running = start()
    with client(running) as socket:
        socket.send(["one ", "two ", "three"])
        assert socket.recv(TIMEOUT) == "one two three"
        for number in range(300):
            socket.send(str(number))
        assert [socket.recv(TIMEOUT) for _ in range(300)] == [str(number) for number in range(300)]


def test_pings_cross_in_both_directions(start):
    ponged = threading.Event()

    def talk(connection: ServerConnection) -> None:
        assert connection.ping("from the server").wait(TIMEOUT)
        ponged.set()
        echo(connection)

    _, running = start(talk)
    with client(running) as socket:
        socket.send("so that the client reads")
        assert socket.recv(TIMEOUT) == "so that the client reads"
        assert ponged.is_set()
        assert socket.ping("from the client").wait(TIMEOUT)


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "going"), (4321, "own code ✓")])
def test_the_clients_close_code_reaches_the_server(start, code, reason):
    server, running = start()
    with client(running) as socket:
        socket.close(code, reason)
    assert server.closed.acquire(timeout=TIMEOUT)
    assert server.closes == [(code, reason)]


def test_the_servers_close_code_reaches_the_client(start):
    _, running = start(lambda connection: connection.close(4000, "enough"))
    with client(running) as socket, pytest.raises(ConnectionClosed) as closed:
        socket.recv(TIMEOUT)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "enough")


def test_the_subprotocol_is_agreed_across_the_gateway(start):
    _, running = start(subprotocols=["v2.chat", "v1.chat"])
    with client(running, subprotocols=["v1.chat", "v2.chat"]) as socket:
        assert socket.subprotocol in ("v1.chat", "v2.chat")
        assert socket.response.headers["Sec-WebSocket-Protocol"] == socket.subprotocol


def test_the_handshake_says_who_the_client_is(start):
    server, running = start()
    with client(running, "/a/b?c=d", origin="https://app.example", additional_headers={"X-A": "1"}) as socket:
        socket.send("x")
        socket.recv(TIMEOUT)
        request = server.sessions[0].request
        assert socket.response.headers["X-Request-ID"] == request.headers["X-Request-ID"]
        assert request.path == "/a/b?c=d"
        assert request.headers["X-Forwarded-For"] == "127.0.0.1"
        assert (request.headers["Origin"], request.headers["X-A"]) == ("https://app.example", "1")


def test_a_server_that_speaks_first_is_heard(start):
    _, running = start(lambda connection: (connection.send("welcome"), echo(connection)))
    for _ in range(20):
        with client(running) as socket:
            assert socket.recv(TIMEOUT) == "welcome"


def test_a_refused_handshake_is_an_ordinary_answer(start):
    def refuse(connection, request):
        return connection.respond(HTTPStatus.FORBIDDEN, "not you\n")

    _, running = start(process_request=refuse)
    with pytest.raises(InvalidStatus) as refused, client(running):
        pass
    response = refused.value.response
    assert (response.status_code, response.body) == (403, b"not you\n")
    assert "X-Request-ID" in response.headers
    assert running.access_log()[0]["status"] == 403


def test_a_handshake_without_a_target_is_told_so(gateway):
    running = gateway(
        'services: {s: {targets: ["http://127.0.0.1:9"]}}\nroutes: [{name: all, match: {path: "/ws"}, service: s}]\n'
    )
    for path, status in (("/ws", 502), ("/other", 404)):
        with pytest.raises(InvalidStatus) as refused, client(running, path):
            pass
        assert refused.value.response.status_code == status


def test_a_server_that_dies_ends_its_client(start):
    started = threading.Event()

    def talk(connection: ServerConnection) -> None:
        started.set()
        connection.recv()
        connection.socket.close()

    _, running = start(talk)
    with client(running) as socket:
        assert started.wait(TIMEOUT)
        socket.send("die")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(TIMEOUT)
        assert closed.value.rcvd is None, "no close frame is made up"


def test_a_client_that_dies_ends_its_server(start):
    server, running = start()
    with client(running) as socket:
        socket.send("x")
        socket.recv(TIMEOUT)
        socket.socket.shutdown(2)
        assert server.closed.acquire(timeout=TIMEOUT)
    assert server.closes == [(1006, "")]


def test_a_tunnel_outlives_the_timeouts_of_ordinary_answers(stack, proxy):
    """A quiet WebSocket is no stalled answer: neither `idle` nor `response` nor `total` ends it."""
    server = stack.enter_context(websocket_server(echo))
    running = proxy(
        server,
        service="timeouts: {idle: 100ms, response: 100ms, total: 200ms}",
        extra="limits: {keepalive_timeout: 100ms, header_timeout: 100ms, body_timeout: 100ms, write_timeout: 100ms}\n",
    )
    with client(running, ping_interval=None) as socket:
        with pytest.raises(TimeoutError):
            socket.recv(0.5)
        socket.send("still here")
        assert socket.recv(TIMEOUT) == "still here"


def test_the_log_has_one_line_a_tunnel_with_its_bytes(start):
    _, running = start()
    with client(running, compression=None) as socket:
        socket.send("hello")
        assert socket.recv(TIMEOUT) == "hello"
    pause = threading.Event()
    while not running.access_log():
        pause.wait(0.01)
    (line,) = running.access_log()
    assert (line["method"], line["status"]) == ("GET", 101)
    assert line["bytes_in"] == 6 + 5 + 6 + 2, "a masked frame of five bytes, and a masked close frame"
    assert line["bytes_out"] == 2 + 5 + 2 + 2
