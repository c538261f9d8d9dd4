"""Methods, bodies and their framings cross the gateway in both directions, unchanged and written in one form."""

import pytest

from tests.kit.bodies import CHUNKED, CLOSE, LENGTH, chunks, noise
from tests.kit.wire import RawSocket, TargetSession, answer_all, get, request

SIZES = [0, 1, 4095, 65535, 65536, 65537, 300_000]
MARKER = "!#$%&'*+-.^_`|~9aZ"


def recorder(reply: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"):
    """A script that keeps (head, body) of every request."""
    seen: list[tuple[bytes, bytes]] = []

    def script(session: TargetSession) -> None:
        while True:
            try:
                seen.append(session.read_request())
            except EOFError:
                return
            session.send(reply)

    return seen, script


def fields(head: bytes, name: bytes) -> list[bytes]:
    """The values of a field in a head."""
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return [value.strip() for key, _, value in lines if key.lower() == name]


# Methods


@pytest.mark.parametrize(
    "method",
    ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "M-SEARCH", "get", MARKER, "X" * 32],
)
@pytest.mark.parametrize("body", [b"", b"with a body"])
def test_every_method_crosses_as_sent(proxy, target, method, body):
    seen, script = recorder()
    running = proxy(target(script))
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    answer = request(running.port, f"{method} /m HTTP/1.1\r\nHost: test\r\n{length}\r\n".encode() + body)
    assert (answer.status, answer.body) == (200, b"ok")
    assert seen[0][0].startswith(f"{method} /m HTTP/1.1\r\n".encode())
    assert seen[0][1] == body
    assert running.access_log()[0]["method"] == method


@pytest.mark.parametrize(("method", "status"), [("CONNECT", 501), ("X" * 33, 400), ("G(T", 400), ("", 400)])
def test_what_is_no_method_here_is_refused(proxy, target, method, status):
    upstream = target()
    answer = request(proxy(upstream).port, f"{method} /m HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    assert (answer.status, answer.get("connection")) == (status, "close")
    assert upstream.received == b""


@pytest.mark.parametrize(
    ("method", "length"),
    [("GET", None), ("HEAD", None), ("DELETE", None), ("POST", b"0"), ("PUT", b"0"), ("PATCH", b"0")],
)
def test_a_request_without_a_body_says_so_where_a_body_is_usual(proxy, target, method, length):
    seen, script = recorder(b"HTTP/1.1 204 No Content\r\n\r\n")
    request(proxy(target(script)).port, f"{method} / HTTP/1.1\r\nHost: test\r\n\r\n".encode(), method)
    assert fields(seen[0][0], b"content-length") == ([length] if length else [])
    assert fields(seen[0][0], b"transfer-encoding") == []


# Request bodies


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_a_request_body_with_a_length_crosses(proxy, target, size, method):
    body = noise(size)
    seen, script = recorder()
    running = proxy(target(script))
    head = f"{method} /u HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\nContent-Type: a/b\r\n\r\n".encode()
    assert request(running.port, head + body).status == 200
    head, received = seen[0]
    assert received == body
    assert fields(head, b"content-length") == [str(size).encode()]
    assert fields(head, b"content-type") == [b"a/b"]
    assert running.access_log()[0]["bytes_in"] == size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [1000, 100_000])
def test_a_chunked_request_body_crosses(proxy, target, size, piece):
    body = noise(size)
    seen, script = recorder()
    running = proxy(target(script))
    head = b"POST /u HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert request(running.port, head + chunks(body, piece)).status == 200
    head, received = seen[0]
    assert received == body
    assert len(fields(head, b"content-length") + fields(head, b"transfer-encoding")) == 1, "one framing, not two"
    assert running.access_log()[0]["bytes_in"] == size


def test_a_chunked_body_that_is_here_already_is_sent_with_its_length(proxy, target):
    seen, script = recorder()
    body = b"POST /u HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"
    assert request(proxy(target(script)).port, body).status == 200
    assert fields(seen[0][0], b"content-length") == [b"6"]
    assert seen[0][1] == b"hello!"


@pytest.mark.parametrize("step", [1, 7])
def test_a_chunked_request_in_small_pieces_crosses(proxy, target, step):
    seen, script = recorder()
    running = proxy(target(script))
    data = b"POST /u HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(noise(60), 7)
    with RawSocket.connect(running.port) as client:
        client.sock.setsockopt(6, 1, 1)  # TCP_NODELAY
        for start in range(0, len(data), step):
            client.send(data[start : start + step])
        assert client.read_answer().status == 200
    assert seen[0][1] == noise(60)


def test_request_trailers_cross_but_not_those_that_would_change_the_message(proxy, target):
    received: list[bytes] = []

    def script(session: TargetSession) -> None:
        session.read_head()
        received.append(session.read_until(b"\r\n\r\n"))
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    trailers = b"X-Sum: 1\r\nContent-Length: 9\r\nHost: evil\r\nTransfer-Encoding: chunked\r\nx-sum: 2\r\n"
    head = b"POST /u HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: X-Sum\r\n\r\n"
    upstream = target(script)
    running = proxy(upstream)
    assert request(running.port, head + chunks(b"hello", 5, trailers)).status == 200
    assert received == [b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n"]
    sent = upstream.received
    assert fields(sent, b"te") == [b"trailers"]
    assert fields(sent, b"trailer") == [b"X-Sum"]


# Answers' bodies


def framed(body: bytes, framing: str, extra: bytes = b"") -> bytes:
    if framing == LENGTH:
        return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (extra, len(body), body)
    if framing == CHUNKED:
        return b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n%b" % (extra, chunks(body, 5000))
    return b"HTTP/1.1 200 OK\r\n%b\r\n%b" % (extra, body)


def once(reply: bytes):
    def script(session: TargetSession) -> None:
        session.read_request()
        session.send(reply)

    return script


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("framing", [LENGTH, CHUNKED, CLOSE])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_an_answers_body_crosses_in_every_framing(proxy, target, size, framing, version):
    body = noise(size)
    running = proxy(target(once(framed(body, framing, b"X-A: 1\r\nx-a: 2\r\n"))))
    with RawSocket.connect(running.port) as client:
        client.send(f"GET / HTTP/{version}\r\nHost: test\r\n\r\n".encode())
        answer = client.read_answer()
        assert (answer.status, answer.body, answer.all("x-a")) == (200, body, ["1", "2"])
        known = framing == LENGTH or answer.get("content-length") is not None
        if version == "1.0":
            assert answer.get("transfer-encoding") is None
            assert client.read_to_end() == b""
        elif not known:
            assert answer.get("transfer-encoding") == "chunked"
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert client.read_answer().body == body, "the client's connection outlives the target's"
    assert running.access_log()[0]["bytes_out"] == size


def test_answer_trailers_reach_clients_that_can_have_them(proxy, target):
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    reply += chunks(b"hello", 5, b"X-Sum: 1\r\nContent-Length: 3\r\nConnection: close\r\n")
    running = proxy(target(answer_all(reply)))
    answer = get(running.port)
    assert (answer.body, answer.trailers, answer.get("trailer")) == (b"hello", [("X-Sum", "1")], "X-Sum")
    old = request(running.port, b"GET / HTTP/1.0\r\n\r\n")
    assert (old.body, old.trailers) == (b"hello", [])


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"200 OK\r\nContent-Length: 1234", "1234"),
        (b"200 OK\r\nTransfer-Encoding: chunked", None),
        (b"200 OK\r\nX-A: b", None),
        (b"404 Not Found\r\nContent-Length: 0", "0"),
    ],
)
def test_head_has_the_fields_of_get_and_no_body(proxy, target, head, expected):
    upstream = target(answer_all(b"HTTP/1.1 " + head + b"\r\n\r\n"))
    running = proxy(upstream)
    with RawSocket.connect(running.port) as client:
        for _ in range(2):
            client.send(b"HEAD / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert client.read_answer("HEAD").get("content-length") == expected
            assert client.buffer == b""
    assert len(upstream.sessions) == 1, "the target's connection is used again"
    assert running.access_log()[0]["bytes_out"] == 0


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"204 No Content", None),
        (b"204 No Content\r\nContent-Length: 0", None),
        (b'304 Not Modified\r\nETag: "x"', None),
        (b"304 Not Modified\r\nContent-Length: 77", "77"),
        (b"304 Not Modified\r\nTransfer-Encoding: chunked", None),
    ],
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_answers_that_never_have_a_body_end_with_their_head(proxy, target, head, expected, version):
    running = proxy(target(answer_all(b"HTTP/1.1 " + head + b"\r\n\r\n")))
    with RawSocket.connect(running.port) as client:
        for _ in range(2):
            client.send(f"GET / HTTP/{version}\r\nHost: test\r\nConnection: keep-alive\r\n\r\n".encode())
            answer = client.read_answer()
            assert (answer.status, answer.get("content-length")) == (int(head[:3]), expected)
            assert answer.get("transfer-encoding") is None


def test_a_target_that_answers_in_http_1_0_is_understood(proxy, target):
    replies = {
        b"/stay": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nstay",
        b"/leave": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nleave",
        b"/close": b"HTTP/1.0 200 OK\r\n\r\nclose",
    }

    def script(session: TargetSession) -> None:
        while True:
            path = session.read_head().split(b" ")[1]
            session.send(replies[path])
            if path == b"/close":
                return

    upstream = target(script)
    running = proxy(upstream)
    with RawSocket.connect(running.port) as client:
        for path in ("/stay", "/leave", "/close"):
            client.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            assert client.read_answer().body == path[1:].encode()
    paths = [
        [line.split(b" ")[1] for line in session.received.split(b"\r\n") if line[:4] == b"GET "]
        for session in upstream.sessions
    ]
    assert paths == [[b"/stay", b"/leave"], [b"/close"]]
