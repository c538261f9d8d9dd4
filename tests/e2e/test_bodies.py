"""Methods, bodies and their framings cross the gateway in both directions, unchanged and written in one form."""

import hashlib
import random
import threading

import pytest

from tests.kit.wire import TIMEOUT, RawSocket, TargetSession, answer_all, get, request

SIZES = [0, 1, 4095, 65535, 65536, 65537, 300_000]
MARKER = "!#$%&'*+-.^_`|~9aZ"


def noise(size: int) -> bytes:
    """Bytes of every value, the same each time."""
    return random.Random(size).randbytes(size)


def chunks(data: bytes, size: int, trailers: bytes = b"") -> bytes:
    """`data` in the chunked coding."""
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailers + b"\r\n"


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

LENGTH, CHUNKED, CLOSE = "length", "chunked", "close"


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


# Both at once


def echo(session: TargetSession) -> None:
    """Answer with the body as it comes, chunk by chunk."""
    session.read_head()
    session.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while size := int(session.read_until(b"\r\n"), 16):
        piece = session.read_exactly(size)
        session.read_exactly(2)
        session.send(b"%x\r\n%b\r\n" % (size, piece))
    session.read_until(b"\r\n")
    session.send(b"0\r\n\r\n")


def test_both_bodies_stream_at_the_same_time(proxy, target):
    running = proxy(target(echo))
    with RawSocket.connect(running.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert b"200" in client.read_until(b"\r\n\r\n"), "the answer begins before the request ends"
        for word in (b"one", b"two", b"three"):
            client.send(b"%x\r\n%b\r\n" % (len(word), word))
            assert client.read_until(word) == b"%x\r\n%b" % (len(word), word)
            client.read_exactly(2)
        client.send(b"0\r\n\r\n")
        assert client.read_until(b"0\r\n\r\n") == b"0\r\n\r\n"


@pytest.mark.parametrize("complete", [True, False])
def test_an_early_answer_reaches_the_client_while_it_uploads(proxy, target, complete):
    """A target may refuse a body that it has not read. The client learns it; nobody uses these connections again."""
    bodies = (b"Content-Length: 4\r\n\r\nmuch", b"\r\nmuch")

    def script(session: TargetSession) -> None:
        session.read_head()
        session.read_exactly(1000)
        session.send(b"HTTP/1.1 413 Too Much\r\n" + bodies[not complete])
        if not complete:
            session.sock.shutdown(1)
        session.read_to_end()

    upstream = target(script)
    running = proxy(upstream)
    with RawSocket.connect(running.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 900000\r\n\r\n" + bytes(2000))
        answer = client.read_answer()
        assert (answer.status, answer.phrase, answer.body) == (413, "Too Much", b"much")
        assert answer.get("connection") == "close"
        client.send(bytes(300_000))  # what is still on its way is taken and forgotten, not met with a reset
        assert client.read_to_end() == b""
        assert not client.was_reset
    upstream.script = answer_all()
    assert get(running.port).status == 200
    assert len(upstream.sessions) == 2, "the half-used connection was not taken again"


def test_the_upload_goes_on_while_the_answer_streams(proxy, target):
    body = noise(3_000_000)

    def script(session: TargetSession) -> None:
        session.read_head()
        session.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        digest = hashlib.sha256(session.read_exactly(len(body))).hexdigest().encode()
        session.send(b"40\r\n" + digest + b"\r\n0\r\n\r\n")

    running = proxy(target(script))
    with RawSocket.connect(running.port) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        head = client.read_until(b"begun\r\n")
        assert b"200 OK" in head
        client.send(body)
        assert (
            client.read_until(b"0\r\n\r\n") == b"40\r\n" + hashlib.sha256(body).hexdigest().encode() + b"\r\n0\r\n\r\n"
        )


def test_a_target_that_closes_in_the_middle_of_an_upload_gives_502(proxy, target):
    def script(session: TargetSession) -> None:
        session.read_head()
        session.read_exactly(1000)

    running = proxy(target(script))
    with RawSocket.connect(running.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 900000\r\n\r\n" + bytes(1000))
        answer = client.read_answer()
        assert (answer.status, answer.get("connection")) == (502, "close")
        assert b"upstream_reset" in answer.body
    assert running.access_log()[0]["reason"] == "upstream_reset"


@pytest.mark.parametrize("framing", [LENGTH, CHUNKED])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_an_answer_that_breaks_off_never_looks_complete(proxy, target, framing, version):
    def script(session: TargetSession) -> None:
        session.read_head()
        framed_head = b"Content-Length: 100" if framing == LENGTH else b"Transfer-Encoding: chunked"
        session.send(b"HTTP/1.1 200 OK\r\n" + framed_head + b"\r\n\r\n5\r\nhello\r\n")
        if framing == CHUNKED:
            session.send(b"5\r\nwor")

    running = proxy(target(script))
    with RawSocket.connect(running.port) as client:
        client.send(f"GET / HTTP/{version}\r\nHost: test\r\n\r\n".encode())
        if framing == CHUNKED and version == "1.0":
            client.read_to_end()
            assert client.was_reset, "without a length, only a reset tells that something is missing"
        else:
            with pytest.raises(EOFError):
                client.read_answer()
    line = running.access_log()[0]
    assert line["reason"] == "upstream_truncated"


def test_a_body_over_the_limit_is_refused_in_every_framing(proxy, target):
    upstream = target()
    running = proxy(upstream, extra="limits: {body: 1000B}\n")
    head = b"POST / HTTP/1.1\r\nHost: test\r\n"
    for data in (
        head + b"Content-Length: 1001\r\n\r\n",
        head + b"Content-Length: 1001\r\n\r\n" + bytes(1001),
        head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(bytes(1001), 100),
        head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(bytes(1001), 100)[:-5],
    ):
        answer = request(running.port, data)
        assert answer.status == 413
        assert b"body_too_large" in answer.body
    assert get(running.port).status == 200
    running_length = request(running.port, head + b"Content-Length: 1000\r\n\r\n" + bytes(1000))
    assert running_length.status == 200
    assert upstream.errors == []


def test_a_connection_closed_over_a_limit_does_not_stay_for_ever(proxy, target):
    """The body's last bytes are those that break the limit: the connection still has a deadline."""
    begun = threading.Event()

    def script(session: TargetSession) -> None:
        session.read_head()
        begun.set()
        session.read_to_end()

    running = proxy(target(script), extra="limits: {body: 1000B}\n")
    with RawSocket.connect(running.port) as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + bytes(1000) + b"\r\n"
        )
        assert begun.wait(TIMEOUT)
        client.send(b"1\r\nx\r\n0\r\n\r\n")
        assert client.read_answer().status == 413
        assert client.read_to_end() == b""
        deadlines = running.call(lambda: [connection.deadline for connection in running.listeners[0].connections])
        assert len(deadlines) == 1
        assert deadlines[0] < float("inf")
