"""Answers that come bit by bit (server-sent events) reach the client as they come: byte by byte, nothing waits."""

import threading

import pytest

from tests.kit.wire import TIMEOUT, RawSocket, TargetSession, get

EVENT = b'event: tick\ndata: {"n": 1}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"


class Paced:
    """A target that sends its next bytes only when the client has the ones before."""

    def __init__(self, pieces: list[bytes], end: bytes = b"") -> None:
        self._pieces = pieces
        self._end = end
        self.next = threading.Semaphore(0)

    def __call__(self, session: TargetSession) -> None:
        session.read_request()
        for piece in self._pieces:
            assert self.next.acquire(timeout=TIMEOUT)
            session.send(piece)
        assert self.next.acquire(timeout=TIMEOUT)
        session.send(self._end)
        if not self._end:
            session.close()


def single_bytes(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def test_every_byte_of_a_stream_until_close_passes_at_once(proxy, target):
    script = Paced([HEAD + b"\r\n", *single_bytes(EVENT)])
    running = proxy(target(script))
    with RawSocket.connect(running.port) as client:
        client.send(b"GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n")
        script.next.release()
        head = client.read_until(b"\r\n\r\n")
        assert b"\r\nContent-Type: text/event-stream\r\n" in head
        assert b"\r\nTransfer-Encoding: chunked\r\n" in head
        for byte in single_bytes(EVENT):
            script.next.release()
            assert client.read_exactly(6) == b"1\r\n" + byte + b"\r\n"
        script.next.release()
        assert client.read_exactly(5) == b"0\r\n\r\n"


def test_every_chunk_passes_at_once(proxy, target):
    script = Paced(
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n"] + [b"1b\r\n" + EVENT[:27] + b"\r\n"] * 5, b"0\r\n\r\n"
    )
    running = proxy(target(script))
    with RawSocket.connect(running.port) as client:
        client.send(b"GET /events HTTP/1.1\r\nHost: test\r\n\r\n")
        script.next.release()
        client.read_until(b"\r\n\r\n")
        for _ in range(5):
            script.next.release()
            assert client.read_exactly(33) == b"1b\r\n" + EVENT[:27] + b"\r\n"
        script.next.release()
        assert client.read_exactly(5) == b"0\r\n\r\n"


def test_a_chunk_that_is_cut_anywhere_passes_as_far_as_it_came(proxy, target):
    script = Paced([HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *single_bytes(b"5\r\nhello\r\n")], b"0\r\n\r\n")
    running = proxy(target(script))
    with RawSocket.connect(running.port) as client:
        client.send(b"GET /events HTTP/1.1\r\nHost: test\r\n\r\n")
        script.next.release()
        client.read_until(b"\r\n\r\n")
        for _ in range(3):
            script.next.release()
        for byte in single_bytes(b"hello"):
            script.next.release()
            assert client.read_exactly(6) == b"1\r\n" + byte + b"\r\n"
        for _ in range(3):
            script.next.release()
        assert client.read_exactly(5) == b"0\r\n\r\n"


def test_http_1_0_clients_get_streams_too(proxy, target):
    script = Paced([HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n"], b"0\r\n\r\n")
    running = proxy(target(script))
    with RawSocket.connect(running.port) as client:
        client.send(b"GET /events HTTP/1.0\r\n\r\n")
        script.next.release()
        assert b"\r\nConnection: close\r\n" in client.read_until(b"\r\n\r\n")
        script.next.release()
        assert client.read_exactly(5) == b"hello"
        script.next.release()
        assert client.read_to_end() == b""


@pytest.mark.parametrize("piece", [1, 100])
def test_a_requests_bytes_pass_at_once_too(proxy, target, piece):
    received = threading.Semaphore(0)

    def script(session: TargetSession) -> None:
        session.read_head()
        told = 0
        while not session.buffer.endswith(b"0\r\n\r\n"):
            for _ in range(session.buffer.count(b"x") // piece - told):
                told += 1
                received.release()
            session.fill()
        session.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    running = proxy(target(script))
    with RawSocket.connect(running.port) as client:
        client.send(b"POST /events HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(10):
            client.send(b"%x\r\n%b\r\n" % (piece, b"x" * piece))
            assert received.acquire(timeout=TIMEOUT)
        client.send(b"0\r\n\r\n")
        assert client.read_answer().status == 204


def test_a_silent_stream_ends_after_the_idle_timeout(proxy, target):
    script = Paced([HEAD + b"\r\n", b"hello"])
    script.next.release(2)
    running = proxy(target(script), service="timeouts: {idle: 200ms}")
    with RawSocket.connect(running.port) as client:
        client.send(b"GET /events HTTP/1.1\r\nHost: test\r\n\r\n")
        with pytest.raises(EOFError):
            client.read_answer()
    line = running.access_log()[0]
    assert (line["status"], line["reason"], line["bytes_out"]) == (200, "idle_timeout", 5)
    script.next.release()


def test_a_stream_in_process_passes_at_once(gateway):
    """An ASGI application that yields is served like a target over the network: one piece at a time."""
    app = """
import asyncio
go = asyncio.Semaphore(0)

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    if scope["path"] == "/next":
        go.release()
    else:
        for number in range(3):
            await go.acquire()
            await send({"type": "http.response.body", "body": b"data: %d\\n\\n" % number, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
"""
    running = gateway(
        'services: {s: {app: "streams_app:app"}}\nroutes: [{name: all, match: {path: "/{rest...}"}, service: s}]\n',
        files={"streams_app.py": app},
    )
    with RawSocket.connect(running.port) as client:
        client.send(b"GET /events HTTP/1.1\r\nHost: test\r\n\r\n")
        assert b"text/event-stream" in client.read_until(b"\r\n\r\n")
        for number in range(3):
            assert get(running.port, "/next").status == 200
            assert client.read_exactly(14) == b"9\r\ndata: %d\n\n\r\n" % number
        assert client.read_exactly(5) == b"0\r\n\r\n"
