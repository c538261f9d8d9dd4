"""The gateway as an ASGI application, under a real uvicorn: alone, and mounted in a FastAPI application."""

import asyncio
import json
import logging
import select
import socket
import threading
from contextlib import asynccontextmanager
from itertools import cycle

import pytest
from fastapi import FastAPI

from gatewright import Gateway
from tests.kit.asgi import mounted, starter
from tests.kit.wire import OK, TIMEOUT, RawSocket, TargetSession, answer_all, get, request

MEGABYTE = 1024 * 1024


@pytest.fixture
def start(stack, tmp_path):
    return starter(stack, tmp_path)


def recording(seen: list[tuple[bytes, bytes]], reply: bytes = OK):
    def script(session: TargetSession) -> None:
        while True:
            try:
                seen.append(session.read_request())
            except EOFError:
                return
            session.send(reply)

    return script


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_methods_and_bodies_pass(start, target, http):
    seen: list[tuple[bytes, bytes]] = []
    running = start(target(recording(seen)), http=http)
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", *(["QUERY"] if http == "h11" else [])]
    for method in methods:
        seen.clear()
        check_method(running, method, seen)
    lines = running.access_log(len(methods))
    assert [(line["method"], line["bytes_in"], line["status"]) for line in lines] == [
        (method, 512_000, 200) for method in methods
    ]


def check_method(running, method: str, seen: list[tuple[bytes, bytes]]) -> None:
    body = bytes(range(256)) * 2000
    head = f"{method} /a%20b?c=%20d&c HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\nX-A: 1\r\nx-a: 2\r\n\r\n"
    answer = request(running.port, head.encode() + body)
    assert (answer.status, answer.body) == (200, b"ok")
    sent, received = seen[0]
    assert sent.startswith(f"{method} /a%20b?c=%20d&c HTTP/1.1\r\nHost: test\r\n".encode())
    assert received == body
    assert sent.lower().count(b"\r\nx-a: ") == 2
    assert b"\r\nX-Forwarded-For: 127.0.0.1\r\n" in sent
    assert b"\r\nX-Forwarded-Port: %d\r\n" % running.port in sent


def test_a_chunked_body_passes(start, target):
    seen: list[tuple[bytes, bytes]] = []
    running = start(target(recording(seen)))
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (b"one", b"two" * 50_000, b"three"))
    head = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert request(running.port, head + pieces + b"0\r\n\r\n").status == 200
    assert seen[0][1] == b"one" + b"two" * 50_000 + b"three"


def test_a_get_without_a_body_says_nothing_of_one(start, target):
    upstream = target()
    get(start(upstream).port)
    assert b"ontent-" not in upstream.received
    assert b"ransfer-" not in upstream.received


def test_duplicates_of_fields_survive_and_hop_by_hop_fields_do_not(start, target):
    reply = (
        b"HTTP/1.1 201 Created\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"
        b"Content-Length: 4\r\n\r\nmade"
    )
    upstream = target(answer_all(reply))
    answer = get(start(upstream).port, "/", "Connection: X-Mine\r\nX-Mine: 1\r\n")
    assert (answer.status, answer.body) == (201, b"made")
    assert answer.all("set-cookie") == ["a=1", "b=2"]
    assert answer.get("x-hop") is None
    assert answer.all("x-request-id") == [upstream.received.partition(b"X-Request-ID: ")[2][:32].decode()]
    assert answer.all("via") == ["1.1 gatewright"]
    assert len(answer.all("content-length")) == 1


@pytest.mark.parametrize("head", [b"200 OK\r\nContent-Length: 1234", b"304 Not Modified", b"204 No Content"])
def test_answers_without_bodies(start, target, head):
    running = start(target(answer_all(b"HTTP/1.1 " + head + b"\r\n\r\n")))
    with RawSocket.connect(running.port) as client:
        for _ in range(2):
            client.send(b"HEAD / HTTP/1.1\r\nHost: test\r\n\r\n")
            answer = client.read_answer("HEAD")
            assert answer.status == int(head[:3])
            assert client.buffer == b""
            assert answer.get("content-length") == ("1234" if b"1234" in head else None)


def test_errors_are_problem_json_here_too(start, target):
    running = start(target(), extra="limits: {body: 1KiB}\n")
    running_port = running.port
    missing = start_problem(request(running_port, b"GET /..%2fx HTTP/1.1\r\nHost: test\r\n\r\n"))
    assert missing == (400, "invalid_path")
    data = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2000\r\n\r\n" + bytes(2000)
    assert start_problem(request(running_port, data)) == (413, "body_too_large")
    assert [line["reason"] for line in running.access_log(2)] == ["invalid_path", "body_too_large"]


def start_problem(answer) -> tuple[int, str]:
    assert answer.get("content-type") == "application/problem+json"
    problem = json.loads(answer.body)
    assert answer.get("x-request-id") == problem["request_id"]
    assert problem["status"] == answer.status
    return answer.status, problem["reason"]


def test_a_dead_target_is_told_of(start, target):
    upstream = target()
    running = start(upstream)
    upstream.close()
    assert start_problem(get(running.port)) == (502, "connect_failed")


def test_an_answer_streams_byte_by_byte(start, target):
    go = threading.Semaphore(0)

    def script(session: TargetSession) -> None:
        session.read_head()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for byte in b"data: x\n\n":
            assert go.acquire(timeout=TIMEOUT)
            session.send(bytes([byte]))

    running = start(target(script))
    with RawSocket.connect(running.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        client.read_until(b"\r\n\r\n")
        for byte in b"data: x\n\n":
            go.release()
            assert client.read_exactly(6) == b"1\r\n%c\r\n" % byte
        assert client.read_exactly(5) == b"0\r\n\r\n"


def test_a_broken_off_answer_never_looks_complete(start, target, caplog):
    def script(session: TargetSession) -> None:
        session.read_head()
        session.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    caplog.set_level(logging.CRITICAL, "uvicorn.error")
    running = start(target(script))
    with RawSocket.connect(running.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        with pytest.raises(EOFError):
            client.read_answer()
    assert running.access_log(1)[0]["reason"] == "upstream_truncated"


def push(sock: socket.socket, pieces, most: int) -> int:
    """Send until nothing more is taken; return how much went."""
    sock.setblocking(False)
    sent = 0
    for piece in pieces:
        try:
            sent += sock.send(piece)
        except BlockingIOError:
            if not select.select([], [sock], [], 0.4)[1]:
                break
        if sent >= most:
            break
    sock.settimeout(TIMEOUT)
    return sent


def test_backpressure_reaches_the_target(start, target):
    sent: list[int] = []
    blocked, resumed = threading.Event(), threading.Event()

    def script(session: TargetSession) -> None:
        session.read_head()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (128 * MEGABYTE))
        sent.append(push(session.sock, cycle([bytes(65536)]), 128 * MEGABYTE))
        blocked.set()
        assert resumed.wait(TIMEOUT)
        session.send(bytes(128 * MEGABYTE - sent[0]))

    running = start(target(script))
    with RawSocket.connect(running.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert blocked.wait(2 * TIMEOUT)
        assert sent[0] < 80 * MEGABYTE
        resumed.set()
        client.read_until(b"\r\n\r\n")
        count = len(client.buffer)
        while count < 128 * MEGABYTE and (data := client.sock.recv(MEGABYTE)):
            count += len(data)
        assert count == 128 * MEGABYTE


def test_backpressure_reaches_the_client(start, target):
    blocked = threading.Event()

    def script(session: TargetSession) -> None:
        session.read_head()
        assert blocked.wait(2 * TIMEOUT)
        left = 128 * MEGABYTE - len(session.buffer)
        while left:
            left -= len(session.sock.recv(min(left, MEGABYTE)))
        session.send(OK)

    running = start(target(script), extra="limits: {body: 1GiB}\n")
    with RawSocket.connect(running.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % (128 * MEGABYTE))
        sent = push(client.sock, cycle([bytes(65536)]), 128 * MEGABYTE)
        assert sent < 80 * MEGABYTE
        blocked.set()
        client.send(bytes(128 * MEGABYTE - sent))
        assert client.read_answer().status == 200


@pytest.mark.parametrize("stage", ["upload", "answer", "download"])
def test_a_client_that_goes_cancels_the_attempt(start, target, stage):
    reached, ended = threading.Event(), threading.Event()

    def script(session: TargetSession) -> None:
        session.read_head()
        if stage == "download":
            session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000))
        elif stage == "upload":
            session.read_exactly(1000)
        reached.set()
        session.read_to_end()
        ended.set()

    running = start(target(script))
    with RawSocket.connect(running.port) as client:
        length = 100_000 if stage == "upload" else 0
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % length + bytes(min(length, 2000)))
        assert reached.wait(TIMEOUT)
        if stage == "download":
            client.read_until(b"\r\n\r\n")
    assert ended.wait(TIMEOUT), "the target sees its connection closed"
    (line,) = running.access_log(1)
    assert line["reason"] == "client_gone"
    assert running.gateway._proxy is not None
    assert running.gateway._proxy.in_flight == 0


def test_expect_continue_is_answered_by_the_server(start, target):
    seen: list[tuple[bytes, bytes]] = []
    running = start(target(recording(seen)))
    with RawSocket.connect(running.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert client.read_answer().status == 100
        client.send(b"hello")
        assert client.read_answer().status == 200
    assert seen[0][1] == b"hello"


# Mounted


def test_mounted_in_fastapi_it_sees_the_paths_behind_the_mount(start, target):
    upstream = target()
    running = start(upstream, mounted)
    assert json.loads(get(running.port, "/own").body) == {"own": True}
    for path, seen in (
        ("/api/x/y?z=1", "/x/y?z=1"),
        ("/api/%C3%A9%20", "/%C3%A9%20"),
        ("/api/api", "/api"),
        ("/api/", "/"),
    ):
        assert get(running.port, path).body == b"ok"
        assert f"GET {seen} HTTP/1.1\r\n".encode() in upstream.received
    assert get(running.port, "/apifoo").status == 404
    assert [line["path"] for line in running.access_log(4)] == ["/x/y", "/%C3%A9%20", "/api", "/"]


def test_mounted_it_streams_both_ways(start, target):
    body = bytes(range(256)) * 8000

    def script(session: TargetSession) -> None:
        received = session.read_request()[1]
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(received) + received)

    running = start(target(script), mounted)
    answer = request(running.port, b"POST /api/e HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert answer.body == body


def test_mounted_its_life_can_be_its_hosts(start, target):
    """Servers tell only the outermost application of start and stop: it passes them on."""
    ends: list[bool] = []

    def wrap(asgi) -> FastAPI:
        @asynccontextmanager
        async def lifespan(app: FastAPI):
            async with asgi.running():
                yield
            ends.append(True)

        app = FastAPI(lifespan=lifespan)
        app.mount("/api", asgi)
        return app

    running = start(target(), wrap)
    assert running.gateway._proxy is not None, "up before the first request"
    assert get(running.port, "/api/x").status == 200
    running.server.stop()
    pause = threading.Event()
    while not ends:
        pause.wait(0.01)
    assert running.gateway._generations is None, "and down with its host"


# Lifespan


def test_a_start_that_fails_is_the_servers_to_report(tmp_path):
    (tmp_path / "asgi_sick_app.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
    )
    path = tmp_path / "gateway.yaml"
    path.write_text(
        'access_log: false\nservices: {s: {app: "asgi_sick_app:app"}}\n'
        'routes: [{name: all, match: {path: "/"}, service: s}]\n'
    )
    asgi = Gateway.from_file(path, {}).asgi
    sent: list[dict[str, object]] = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message) -> None:
        sent.append(message)

    asyncio.run(asgi({"type": "lifespan"}, receive, send))
    assert sent[0]["type"] == "lifespan.startup.failed"
    assert "no database" in str(sent[0]["message"])


def test_requests_that_come_at_once_start_it_once(start, target):
    upstream = target()
    running = start(upstream, mounted)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(get(running.port, "/api/x").status)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert answers == [200] * 10
    assert len(running.access_log(10)) == 10
