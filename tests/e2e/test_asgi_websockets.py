"""WebSockets when the gateway is an ASGI application: a real client, uvicorn, the gateway, a real WebSocket server."""

import json
import threading

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.server import ServerConnection

from tests.e2e.test_websockets_client import TIMEOUT, Server, client, echo, websocket_server
from tests.kit.asgi import mounted, starter
from tests.kit.wire import RawSocket, Target, TargetSession, answer_all

SERVERS = ["websockets-sansio"]


@pytest.fixture
def start(stack, tmp_path):
    return starter(stack, tmp_path)


@pytest.fixture(params=SERVERS)
def serve(request, stack, start):
    """Start a WebSocket server and the gateway as an application before it."""

    def make(talk=echo, **options: object):
        server = stack.enter_context(websocket_server(talk, **options))
        return server, start(server, ws=request.param)

    return make


def finished(running) -> dict[str, object]:
    """The log's line, once the WebSocket is over."""
    (line,) = running.access_log(1)
    assert running.gateway._proxy.in_flight == 0
    return line


@pytest.mark.parametrize("size", [0, 1, 65_536, 5_000_000])
def test_messages_of_every_size_come_back(serve, size):
    _, running = serve()
    with client(running) as socket:
        for message in (bytes(size), "ż" * (size // 2)):
            socket.send(message)
            assert socket.recv(TIMEOUT) == message


def test_fragments_are_put_together_and_order_is_kept(serve):
    def talk(connection: ServerConnection) -> None:
        connection.send(["one ", "two ", "three"])
        echo(connection)

    _, running = serve(talk)
    with client(running) as socket:
        assert socket.recv(TIMEOUT) == "one two three"
        for number in range(200):
            socket.send(str(number))
        assert [socket.recv(TIMEOUT) for _ in range(200)] == [str(number) for number in range(200)]


def test_the_target_is_told_who_asks_and_which_subprotocols_it_may_choose(serve):
    server, running = serve(subprotocols=["v2.chat"])
    with client(running, "/a/b?c=d", subprotocols=["v1.chat", "v2.chat"], additional_headers={"X-A": "1"}) as socket:
        assert socket.subprotocol == "v2.chat"
        socket.send("x")
        socket.recv(TIMEOUT)
        seen = server.sessions[0].request
        assert seen.path == "/a/b?c=d"
        assert (seen.headers["X-A"], seen.headers["X-Forwarded-For"]) == ("1", "127.0.0.1")
        assert seen.headers["X-Forwarded-Proto"] == "http"
        assert socket.response.headers["X-Request-ID"] == seen.headers["X-Request-ID"]


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "going"), (4321, "own code")])
def test_the_clients_close_reaches_the_server(serve, code, reason):
    server, running = serve()
    with client(running) as socket:
        socket.close(code, reason)
    assert server.closed.acquire(timeout=TIMEOUT)
    assert server.closes == [(code, reason)]
    line = finished(running)
    assert (line["status"], line.get("reason")) == (101, None)


def test_the_servers_close_reaches_the_client_and_is_answered(serve):
    answered: list[object] = []

    def talk(connection: ServerConnection) -> None:
        connection.close(4000, "enough")
        answered.append(connection.close_code)
        over.set()

    over = threading.Event()
    _, running = serve(talk)
    with client(running) as socket, pytest.raises(ConnectionClosed) as closed:
        socket.recv(TIMEOUT)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "enough")
    assert over.wait(TIMEOUT)
    assert answered == [4000], "the target's close frame was answered, not cut off"
    finished(running)


@pytest.mark.parametrize("body", [b"no!\n", bytes(300_000)])
def test_a_refusal_is_the_targets_answer(start, target, body):
    reply = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\nX-Why: a\r\n\r\n" % len(body) + body
    running = start(target(answer_all(reply)), ws=SERVERS[0])
    with pytest.raises(InvalidStatus) as refused, client(running):
        pass
    response = refused.value.response
    assert (response.status_code, response.body, response.headers["X-Why"]) == (403, body, "a")
    assert finished(running)["status"] == 403


def test_the_gateways_own_refusal_is_problem_json(start, target):
    upstream: Target = target()
    running = start(upstream, ws=SERVERS[0])
    upstream.close()
    with pytest.raises(InvalidStatus) as refused, client(running):
        pass
    response = refused.value.response
    assert response.status_code == 502
    assert json.loads(response.body)["reason"] == "connect_failed"


@pytest.mark.parametrize("accept", [b"Sec-WebSocket-Accept: d3Jvbmc=\r\n", b""])
def test_a_wrong_handshake_of_the_target_is_no_websocket(start, target, accept):
    head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + accept + b"\r\n"

    def script(session: TargetSession) -> None:
        session.read_head()
        session.send(head)
        session.read_to_end()

    running = start(target(script), ws=SERVERS[0])
    with pytest.raises(InvalidStatus), client(running):
        pass
    assert finished(running)["reason"] == "upstream_malformed"


def test_a_server_that_dies_ends_the_client_with_1011(serve):
    def talk(connection: ServerConnection) -> None:
        connection.recv()
        connection.socket.close()

    _, running = serve(talk)
    with client(running) as socket:
        socket.send("die")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(TIMEOUT)
    assert closed.value.rcvd.code == 1011
    finished(running)


def test_a_client_that_dies_ends_the_server(serve):
    server, running = serve()
    with client(running) as socket:
        socket.send("x")
        socket.recv(TIMEOUT)
        socket.socket.shutdown(2)
        assert server.closed.acquire(timeout=TIMEOUT)
    finished(running)


def test_a_client_that_does_not_read_stops_the_server(serve):
    sent = threading.Semaphore(0)
    total = 1500

    def talk(connection: ServerConnection) -> None:
        for _ in range(total):
            connection.send(bytes(100_000))
            sent.release()
        connection.recv()

    _, running = serve(talk)
    with client(running, max_queue=1, ping_interval=None, compression=None) as socket:
        count = 0
        while sent.acquire(timeout=0.5):
            count += 1
        assert count < 1000, "the server was made to wait"
        for _ in range(total):
            assert len(socket.recv(TIMEOUT)) == 100_000


def test_mounted_it_serves_websockets_behind_the_mount(stack, start):
    server: Server = stack.enter_context(websocket_server(echo))
    running = start(server, mounted, ws=SERVERS[0])
    with client(running, "/api/chat?x=1") as socket:
        socket.send("hello")
        assert socket.recv(TIMEOUT) == "hello"
        assert server.sessions[0].request.path == "/chat?x=1"
    with RawSocket.connect(running.port) as plain:
        plain.send(b"GET /own HTTP/1.1\r\nHost: test\r\n\r\n")
        assert plain.read_answer().status == 200
