"""Both bodies at once, and bodies that end early: refused, broken off, over a limit."""

import hashlib
import threading

import pytest

from tests.kit.bodies import CHUNKED, LENGTH, chunks, noise
from tests.kit.wire import TIMEOUT, RawSocket, TargetSession, answer_all, get, request


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
