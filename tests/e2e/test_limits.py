"""What one client may take, on the wire: status and reason, and that the answer arrives whatever the client does."""

import select
import ssl
import threading
from pathlib import Path

import pytest
import trustme

from tests.kit.recording import Recording, recording, told
from tests.kit.wire import OK, Answer, RawSocket, Target, TargetSession, get

ROUTES = """
  - name: large
    match: {path: /large}
    service: s
    limits: {body: 3000}
  - name: small
    match: {path: /small}
    service: s
    limits: {body: 10}
  - name: unlimited
    match: {path: /unlimited}
    service: s
    limits: {body: unlimited}
limits:
  request_line: 200
  headers: 1000
  header_count: 5
  body: 1000
"""
SHORT = "limits: {header_timeout: 200ms, body_timeout: 200ms, keepalive_timeout: 200ms}"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with recording(tmp_path_factory.mktemp("limits"), extra=ROUTES) as pair:
        yield pair


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    with recording(tmp_path_factory.mktemp("hasty"), extra=SHORT) as pair:
        yield pair


def head_of(size: int) -> bytes:
    """A head of `size` bytes, the empty line at its end not counted."""
    start = b"GET / HTTP/1.1\r\nHost: a\r\nA: "
    return start + b"b" * (size - len(start)) + b"\r\n\r\n"


def line_of(size: int) -> bytes:
    return b"GET /" + b"a" * (size - len(b"GET / HTTP/1.1")) + b" HTTP/1.1\r\nHost: a\r\n\r\n"


def fields(count: int) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * (count - 1) + b"\r\n"


def named_fields(count: int) -> bytes:
    """Fields that Connection names count as well, though they do not cross."""
    return b"GET / HTTP/1.1\r\nHost: a\r\nConnection: A\r\n" + b"A: b\r\n" * (count - 2) + b"\r\n"


@pytest.mark.parametrize("data", [line_of(200), head_of(1000), fields(5), named_fields(5)])
def test_what_is_just_within_a_limit_is_served(pair: Recording, data):
    assert pair.exchange(data)[0].status == 200


@pytest.mark.parametrize("time", ["first", "second"])
@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (line_of(201), 414, "request_line_too_long"),
        (line_of(201)[:-4], 414, "request_line_too_long"),
        (b"GET /" + b"a" * 300, 414, "request_line_too_long"),
        (head_of(1001), 431, "headers_too_large"),
        (head_of(1100)[:-4], 431, "headers_too_large"),
        (fields(6), 431, "too_many_headers"),
        (named_fields(6), 431, "too_many_headers"),
    ],
)
def test_what_is_past_a_limit_is_refused_at_once(pair: Recording, data, status, reason, time):
    pair.refused(data, status, reason)


def length(size: int, path: bytes = b"/") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (path, size)


def chunks(path: bytes, *sizes: int) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (size, b"a" * size) for size in sizes) + b"0\r\n\r\n"
    return b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % path + body


@pytest.mark.parametrize(("path", "limit"), [(b"/", 1000), (b"/large", 3000), (b"/small", 10)])
def test_bodies(pair: Recording, path, limit):
    assert pair.exchange(length(limit, path) + b"a" * limit)[0].status == 200
    assert pair.exchange(chunks(path, limit - 4, 4))[0].status == 200
    pair.refused(length(limit + 1, path), 413, "body_too_large")
    pair.refused(length(10**17, path), 413, "body_too_large")
    pair.refused(chunks(path, limit - 4, 5)[:-5], 413, "body_too_large")


@pytest.mark.parametrize("data", [length(1001) + b"a" * 1001, chunks(b"/", 1001)])
def test_a_body_past_the_limit_that_is_here_costs_the_client_no_connection(pair: Recording, data):
    with RawSocket.connect(pair.port) as client:
        client.send(data)
        answer = client.read_answer()
        assert (answer.status, told(answer), answer.get("connection")) == (413, "body_too_large", None)
        client.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_answer().status == 200
    assert pair.crossed().startswith(b"GET /next HTTP/1.1\r\n")


def test_a_route_may_take_any_size(pair: Recording):
    with RawSocket.connect(pair.port) as client:
        client.send(length(2_000_000, b"/unlimited"))
        client.send(b"a" * 2_000_000)
        assert client.read_answer().status == 200
    assert pair.crossed().endswith(b"a" * 2_000_000)


def test_a_whole_body_past_the_limit_is_refused_before_it_is_invited(pair: Recording):
    data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n"
    pair.refused(data, 413, "body_too_large")


def test_chunks_past_the_limit_end_the_request_that_has_begun(proxy, target):
    begun, rest = threading.Event(), []

    def script(session: TargetSession) -> None:
        session.read_until(b"5\r\nhello\r\n")
        begun.set()
        rest.append(session.read_to_end())

    upstream = target(script)
    running = proxy(upstream, extra="limits: {body: 1000}")
    with RawSocket.connect(running.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert begun.wait(10)
        client.send(b"3e8\r\n" + b"a" * 1000 + b"\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = client.read_answer()
        assert (answer.status, told(answer), answer.get("connection")) == (413, "body_too_large", "close")
        assert client.read_to_end() == b""
    upstream.join()
    assert b"0\r\n\r\n" not in rest[0], "the target was told that the body is complete"
    assert b"smuggled" not in upstream.received


LARGE = 5 * 1024 * 1024


@pytest.fixture(scope="module")
def tls_pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    listener = '\nlisteners: [{bind: "127.0.0.1:0", tls: {cert: cert.pem, key: key.pem}}, {bind: "127.0.0.1:0"}]\n'
    with recording(folder, extra=ROUTES + listener) as pair:
        tls_port, pair.port = pair.port, pair.running.listeners[1].port
        yield tls_port, context


def test_the_answer_arrives_over_tls_too(tls_pair):
    port, context = tls_pair
    with RawSocket.connect(port, context) as client:
        client.send(length(LARGE))
        client.send(b"a" * LARGE)
        answer = client.read_answer()
        assert (answer.status, told(answer)) == (413, "body_too_large")


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_the_answer_arrives_though_the_client_sends_all_before_it_reads(pair: Recording, coding):
    with RawSocket.connect(pair.port) as client:
        if coding == "length":
            client.send(length(LARGE))
            client.send(b"a" * LARGE)
        else:
            client.send(chunks(b"/", *[64 * 1024] * (LARGE // 65536)))
        answer = client.read_answer()
        assert (answer.status, told(answer)) == (413, "body_too_large")
        assert client.read_to_end() == b""
        assert not client.was_reset


def test_the_answer_to_a_malformed_body_arrives_though_the_client_goes_on_sending(pair: Recording):
    with RawSocket.connect(pair.port) as client:
        client.send(b"POST /unlimited HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        client.send(b"zz\r\n")
        client.send(b"a" * LARGE)
        answer = client.read_answer()
        assert (answer.status, told(answer)) == (400, "bad_framing")
        assert client.read_to_end() == b""
        assert not client.was_reset


# Time


def drip(client: RawSocket, data: bytes) -> Answer:
    """Send `data` a byte each 20 ms until an answer comes, and return it."""
    for index in range(len(data)):
        client.send(data[index : index + 1])
        if select.select([client.sock], [], [], 0.02)[0]:
            return client.read_answer()
    raise AssertionError("all of it was taken")


def test_a_head_that_does_not_come_gets_408(hasty: Recording):
    hasty.refused(b"GET / HTTP/1.1\r\nHost: a\r\n", 408, "header_timeout")


def test_a_head_that_comes_byte_by_byte_gets_408(hasty: Recording):
    with RawSocket.connect(hasty.port) as client:
        answer = drip(client, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 100)
        assert (answer.status, told(answer), answer.get("connection")) == (408, "header_timeout", "close")
        assert client.read_to_end() == b""
    assert hasty.crossed() == b""


def test_a_second_head_that_comes_byte_by_byte_gets_408(hasty: Recording):
    with RawSocket.connect(hasty.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nG")
        assert client.read_answer().status == 200
        assert drip(client, b"ET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 100).status == 408
        assert client.read_to_end() == b""


@pytest.mark.parametrize(
    "begun", [length(10), length(10) + b"hello", chunks(b"/", 5)[:-5]], ids=["head", "length", "chunks"]
)
def test_a_body_that_pauses_gets_408(proxy, target, begun):
    rest = []

    def script(session: TargetSession) -> None:
        session.read_head()
        rest.append(session.read_to_end())

    upstream = target(script)
    running = proxy(upstream, extra=SHORT)
    with RawSocket.connect(running.port) as client:
        client.send(begun)
        answer = client.read_answer()
        assert (answer.status, told(answer), answer.get("connection")) == (408, "body_timeout", "close")
        assert client.read_to_end() == b""
    upstream.join()
    assert rest in ([b"hello"], [b"5\r\naaaaa\r\n"], [b""]), "the body was completed"


def test_a_body_that_comes_slowly_but_comes_is_served(hasty: Recording):
    with RawSocket.connect(hasty.port) as client:
        client.send(length(20))
        assert drip(client, b"a" * 19 + b"a").status == 200


def test_an_idle_connection_ends_silently(hasty: Recording):
    with RawSocket.connect(hasty.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_answer().status == 200
        assert client.read_to_end() == b""
        assert not client.was_reset


def test_an_empty_line_makes_no_request_of_an_idle_connection(hasty: Recording):
    with RawSocket.connect(hasty.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_answer().status == 200
        client.send(b"\r\n")
        assert client.read_to_end() == b"", "a 408 that nobody asked for, and may be taken for the next answer"


def test_a_connection_that_says_nothing_ends_silently(hasty: Recording):
    with RawSocket.connect(hasty.port) as client:
        assert client.read_to_end() == b""
        assert not client.was_reset


def test_the_time_of_an_exchange_is_not_the_clients(tmp_path: Path):
    """A target may take longer than any of the client's limits."""
    late = threading.Event()

    def script(session: TargetSession) -> None:
        session.read_request()
        late.wait(0.5)  # nobody sets it: the target takes this long
        session.send(OK)

    target: Target
    with recording(tmp_path, script, extra=SHORT) as pair:
        target = pair.target
        assert get(pair.port).status == 200
    assert not target.errors
