"""Connections that stay and connections that end: keep-alive, pipelining, HTTP/1.0, backpressure between two paces."""

import select
import socket
import threading
from itertools import cycle

import pytest

from tests.kit.wire import TIMEOUT, RawSocket, Target, TargetSession, answer_all

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
MEGABYTE = 1024 * 1024
KERNEL = 80 * MEGABYTE  # what four socket buffers of the machine may hold at the most
BLOCKED_SECONDS = 0.4  # a socket that takes nothing for so long is blocked
STATIC = 'routes:\n  - name: static\n    match: {path: "/{rest...}"}\n    respond: {status: 200, body: static}\n'


def connections(running):
    return running.call(lambda: len(running.listeners[0].connections))


# Who closes


@pytest.mark.parametrize(
    ("version", "connection", "stays", "said"),
    [
        ("1.1", None, True, None),
        ("1.1", "keep-alive", True, None),
        ("1.1", "close", False, "close"),
        ("1.1", "X-A, Close", False, "close"),
        ("1.0", None, False, "close"),
        ("1.0", "close", False, "close"),
        ("1.0", "Keep-Alive", True, "keep-alive"),
    ],
)
@pytest.mark.parametrize("local", [False, True])
def test_the_client_decides_whether_its_connection_stays(
    proxy, gateway, target, version, connection, stays, said, local
):
    running = gateway(STATIC) if local else proxy(target())
    field = f"Connection: {connection}\r\n" if connection else ""
    data = f"GET / HTTP/{version}\r\nHost: test\r\n{field}\r\n".encode()
    with RawSocket.connect(running.port) as client:
        client.send(data)
        answer = client.read_answer()
        assert (answer.status, answer.get("connection")) == (200, said)
        if stays:
            client.send(data)
            assert client.read_answer().status == 200
        else:
            assert client.read_to_end() == b""


def test_a_target_that_closes_does_not_close_the_client(proxy, target):
    upstream = target(answer_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"))
    running = proxy(upstream)
    with RawSocket.connect(running.port) as client:
        for _ in range(3):
            client.send(GET)
            answer = client.read_answer()
            assert (answer.body, answer.get("connection")) == (b"ok", None)
    assert len(upstream.sessions) == 3


def test_a_client_that_closes_does_not_close_the_target(proxy, target):
    upstream = target()
    running = proxy(upstream)
    for _ in range(3):
        with RawSocket.connect(running.port) as client:
            client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert client.read_answer().status == 200
            assert client.read_to_end() == b""
    assert len(upstream.sessions) == 1
    assert b"onnection: close" not in upstream.received


def test_an_http_1_0_client_without_host_is_served(proxy, target):
    upstream = target()
    with RawSocket.connect(proxy(upstream).port) as client:
        client.send(b"GET /old HTTP/1.0\r\n\r\n")
        answer = client.read_answer()
        assert (answer.raw_head[:12], answer.body) == (b"HTTP/1.1 200", b"ok")
    assert upstream.received.startswith(b"GET /old HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % upstream.port)


def test_an_idle_connection_ends_after_keepalive_timeout(proxy, target):
    running = proxy(target(), extra="limits: {keepalive_timeout: 100ms}\n")
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        assert client.read_answer().status == 200
        assert client.read_to_end() == b"", "closed without a word"


def test_empty_lines_between_requests_are_no_requests(proxy, target):
    upstream = target()
    with RawSocket.connect(proxy(upstream).port) as client:
        client.send(b"\r\n\r\n" + GET + b"\r\n")
        assert client.read_answer().status == 200
        client.send(GET)
        assert client.read_answer().status == 200
    assert upstream.received.count(b"GET ") == 2


# Pipelining


def sized(session: TargetSession) -> None:
    """Answer `/size/framing` with so many bytes."""
    while True:
        try:
            head, body = session.read_request()
        except EOFError:
            return
        _, size, framing = head.split(b" ")[1].split(b"/")
        content = (size + b".") * int(size) + body
        if framing == b"chunked":
            content = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (content[:5], content[5:]) if part)
            session.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + content + b"0\r\n\r\n")
        else:
            session.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)


def test_pipelined_requests_of_mixed_sizes_are_answered_in_order(proxy, target):
    running = proxy(target(sized))
    sizes = [1, 30_000, 2, 5, 70_000, 1, 3]
    framings = cycle(["length", "chunked", "length"])
    paths = [f"/{size}/{framing}" for size, framing in zip(sizes, framings, strict=False)]
    with RawSocket.connect(running.port) as client:
        client.send(b"".join(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode() for path in paths))
        for size in sizes:
            assert client.read_answer().body == f"{size}.".encode() * size
    assert [line["path"] for line in running.access_log()] == paths


def test_pipelined_posts_keep_their_bodies_apart(proxy, target):
    running = proxy(target(sized))
    bodies = [b"x" * size for size in (1, 100, 70_000, 5, 200_000, 1)]
    data = b""
    for index, body in enumerate(bodies):
        head = b"POST /%d/length HTTP/1.1\r\nHost: test\r\n" % (index + 1)
        if index % 2:
            data += head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            data += head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with RawSocket.connect(running.port) as client:
        sender = threading.Thread(target=client.send, args=(data,))
        sender.start()
        for index, body in enumerate(bodies):
            assert client.read_answer().body == (b"%d." % (index + 1)) * (index + 1) + body
        sender.join(TIMEOUT)


@pytest.mark.parametrize("local", [False, True])
def test_a_burst_of_a_thousand_requests_is_answered(proxy, gateway, target, local):
    upstream = target()
    running = gateway(STATIC) if local else proxy(upstream)
    with RawSocket.connect(running.port) as client:
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: test\r\n\r\n" % number for number in range(1000)))
        for _ in range(1000):
            assert client.read_answer().status == 200
    assert [line["path"] for line in running.access_log()] == [f"/{number}" for number in range(1000)]
    if not local:
        assert len(upstream.sessions) == 1, "one after the other, on one connection"


def test_pipelining_ends_where_the_client_said_close(proxy, target):
    upstream = target()
    running = proxy(upstream)
    with RawSocket.connect(running.port) as client:
        client.send(GET + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET)
        assert client.read_answer().status == 200
        assert client.read_answer().get("connection") == "close"
        assert client.read_to_end() == b""
        assert not client.was_reset
    assert upstream.received.count(b"GET ") == 2


def test_a_malformed_request_behind_good_ones_spoils_none_of_them(proxy, target):
    upstream = target()
    with RawSocket.connect(proxy(upstream).port) as client:
        client.send(GET + GET + b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + GET)
        assert [client.read_answer().status for _ in range(3)] == [200, 200, 400]
        assert client.read_to_end() == b""
    assert upstream.received.count(b"GET ") == 2


def test_a_client_that_pipelines_without_reading_is_not_read_any_more(gateway):
    """What waits is bounded: the rest stays with the client."""
    running = gateway(STATIC)
    client = slow_reader(running.port)
    with client:
        sent = push(client.sock, cycle([GET * 500]), 200 * MEGABYTE)
        assert sent < KERNEL
        (held,) = running.call(
            lambda: [
                (len(one._codec.buffer), one.transport.get_write_buffer_size())
                for one in running.listeners[0].connections
            ]
        )
        assert held[0] <= MEGABYTE
        assert held[1] <= MEGABYTE
        answered = 0
        client.sock.settimeout(TIMEOUT)
        while answered < 3000:
            assert client.read_answer().status == 200
            answered += 1


# Two paces


def slow_reader(port: int) -> RawSocket:
    """A client with a small receive buffer."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.connect(("127.0.0.1", port))
    return RawSocket(sock)


def push(sock: socket.socket, pieces, most: int) -> int:
    """Send until the other side takes no more, or `most` bytes are gone; return how many went."""
    sock.setblocking(False)
    sent = 0
    for piece in pieces:
        left = memoryview(piece)
        while left:
            try:
                count = sock.send(left)
            except BlockingIOError:
                if not select.select([], [sock], [], BLOCKED_SECONDS)[1]:
                    sock.settimeout(TIMEOUT)
                    return sent
                continue
            sent += count
            left = left[count:]
        if sent >= most:
            break
    sock.settimeout(TIMEOUT)
    return sent


def drain(sock: socket.socket, count: int) -> int:
    """Read up to `count` bytes, without keeping them; return how many came before the end."""
    buffer = bytearray(MEGABYTE)
    left = count
    while left and (got := sock.recv_into(buffer, min(left, MEGABYTE))):
        left -= got
    return count - left


PIECE = bytes(range(256)) * 256


def test_a_client_that_does_not_read_stops_the_target(proxy, target):
    total = 128 * MEGABYTE
    blocked, resumed = threading.Event(), threading.Event()
    sent: list[int] = []

    def script(session: TargetSession) -> None:
        session.read_head()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        sent.append(push(session.sock, cycle([PIECE]), total))
        blocked.set()
        resumed.wait(TIMEOUT)
        rest = total - sent[0]
        while rest:
            session.sock.sendall(memoryview(PIECE)[: min(rest, len(PIECE))])
            rest -= min(rest, len(PIECE))

    running = proxy(target(script))
    with slow_reader(running.port) as client:
        client.send(GET)
        client.read_until(b"\r\n\r\n")
        assert blocked.wait(2 * TIMEOUT)
        assert sent[0] < KERNEL, "the target was made to wait"
        assert buffered(running) <= MEGABYTE, "and the gateway holds little of what came"
        resumed.set()
        assert len(client.buffer) + drain(client.sock, total - len(client.buffer)) == total, "and nothing is lost"


def buffered(running) -> int:
    """Bytes that the gateway holds for its clients."""
    return running.call(lambda: sum(one.transport.get_write_buffer_size() for one in running.listeners[0].connections))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_target_that_does_not_read_stops_the_client(proxy, target, chunked):
    total = 128 * MEGABYTE
    blocked = threading.Event()
    received: list[int] = []

    def script(session: TargetSession) -> None:
        session.read_head()
        blocked.wait(2 * TIMEOUT)
        received.append(len(session.buffer))
        if chunked:
            end = bytes(session.buffer[-5:])
            buffer = bytearray(MEGABYTE)
            while end != b"0\r\n\r\n":
                got = session.sock.recv_into(buffer)
                assert got, "the body broke off"
                received[0] += got
                end = (end + buffer[max(0, got - 5) : got])[-5:]
        else:
            received[0] += drain(session.sock, total - received[0])
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nread")

    upstream = target(script)
    running = proxy(upstream, extra="limits: {body: 1GiB}\n")
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % total
    piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE
    with RawSocket.connect(running.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\n" + framing + b"\r\n\r\n")
        sent = push(client.sock, cycle([piece]), total)
        assert sent < KERNEL, "the client was made to wait"
        blocked.set()
        rest = len(piece) - sent % len(piece)
        client.send(piece[-rest:])
        sent += rest
        whole = total // len(PIECE) * len(piece)
        while sent < whole:
            client.send(piece)
            sent += len(piece)
        if chunked:
            client.send(b"0\r\n\r\n")
        assert client.read_answer().body == b"read"
    assert upstream.errors == []
    assert received[0] >= total


def test_a_client_that_pauses_for_longer_than_the_idle_timeout_is_not_the_targets_fault(proxy, target):
    """The idle timeout watches the target: while the gateway does not read from it, its time stands still."""
    total = 32 * MEGABYTE

    def script(session: TargetSession) -> None:
        session.read_head()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        session.send(bytes(total))

    upstream: Target = target(script)
    running = proxy(upstream, service="timeouts: {idle: 150ms}")
    with slow_reader(running.port) as client:
        client.send(GET)
        client.read_until(b"\r\n\r\n")
        assert not select.select([client.sock], [], [], 0)[2]
        threading.Event().wait(0.6)  # the pause is what is tested: four times the timeout
        assert len(client.buffer) + drain(client.sock, total - len(client.buffer)) == total
    assert running.access_log()[0].get("reason") is None


APP = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(int(scope["path"][1:]))})
"""
IN_PROCESS = """
services: {s: {app: "keepalive_app:app"}}
routes: [{name: all, match: {path: "/{rest...}"}, service: s}]
limits: {keepalive_timeout: 200ms, write_timeout: 200ms}
"""


@pytest.mark.parametrize("field", [b"", b"Connection: close\r\n"])
def test_a_client_that_never_reads_its_answer_does_not_hold_its_connection_for_ever(gateway, field):
    """The exchange is over, its answer's end waits in the gateway, and the client takes nothing of it."""
    running = gateway(IN_PROCESS, files={"keepalive_app.py": APP})
    total = 64 * MEGABYTE
    with slow_reader(running.port) as client:
        client.send(b"GET /%d HTTP/1.1\r\nHost: test\r\n%b\r\n" % (total, field))
        client.read_until(b"\r\n\r\n")
        until_none(running)


@pytest.mark.parametrize("field", [b"", b"Connection: close\r\n"])
def test_a_client_that_reads_its_answer_slowly_gets_all_of_it(gateway, field):
    """What counts is whether it reads at all: the whole answer takes longer than `write_timeout`."""
    total = 24 * MEGABYTE
    running = gateway(IN_PROCESS, files={"keepalive_app.py": APP})
    pause = threading.Event()
    with slow_reader(running.port) as client:
        client.send(b"GET /%d HTTP/1.1\r\nHost: test\r\n%b\r\n" % (total, field))
        client.read_until(b"\r\n\r\n")
        left = total - len(client.buffer)
        while left:
            pause.wait(0.05)
            left -= drain(client.sock, min(left, 2 * MEGABYTE))


def until_none(running) -> None:
    """Wait until the gateway has no client connections."""
    pause = threading.Event()
    for _ in range(100):
        if not connections(running):
            return
        pause.wait(0.05)
    raise AssertionError(f"{connections(running)} connections are still there")
