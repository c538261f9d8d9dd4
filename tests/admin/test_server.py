"""The server of the admin API: its start, its end within a bound, clients that are slow, and what it leaves alone."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gatewright.admin import server as module
from gatewright.admin.server import AdminServer
from tests.kit.wire import TIMEOUT, RawSocket

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
BIG = b"x" * (32 * 1024 * 1024)  # more than any socket's buffers hold


class App:
    """An ASGI application: `/` answers, `/late` once it is told to, `/wait` never, `/big` with more than anybody reads."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.go = asyncio.Event()
        self.cancelled = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            self.waiting.set()
            await receive()
        if scope["path"] == "/wait":
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled = True
        if scope["path"] == "/late":
            self.waiting.set()
            await self.go.wait()
        body = BIG if scope["path"] == "/big" else b"ok"
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})


def serve(test: Callable[[AdminServer, App, int], Coroutine[Any, Any, None]]) -> None:
    """Run `test(server, app, port)` beside a server that serves, in one loop."""

    async def run() -> None:
        app = App()
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        server = AdminServer(app, [sock])
        await server.start()
        try:
            await test(server, app, port)
        finally:
            await server.stop(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT):
            await run()

    asyncio.run(bounded())


async def talk(port: int, data: bytes) -> Any:
    """Connect, send `data`, and return (reader, writer)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def answered(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head.split(b" ")[1] + b" " + await reader.readexactly(2)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Return what came before the connection ended."""
    try:
        return await reader.read(-1)
    except ConnectionResetError:
        return b""


def test_when_start_returns_it_serves_and_when_stop_returns_it_does_not() -> None:
    async def test(server: AdminServer, app: App, port: int) -> None:
        reader, writer = await talk(port, REQUEST)
        assert await answered(reader) == b"200 ok"
        assert server.url == f"http://127.0.0.1:{port}"
        await server.stop(1)
        assert await ended(reader) == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await talk(port, REQUEST)

    serve(test)


def test_it_serves_all_addresses_that_it_is_given() -> None:
    async def test() -> None:
        sockets = [socket.create_server((host, 0)) for host in ("127.0.0.1", "127.0.0.2")]
        places = [sock.getsockname() for sock in sockets]
        server = AdminServer(App(), sockets)
        await server.start()
        for host, port in places:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(REQUEST)
            assert await answered(reader) == b"200 ok"
            writer.close()
        await server.stop(1)
        for host, port in places:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(host, port)

    asyncio.run(test())


def test_it_leaves_signals_and_logs_alone() -> None:
    def mine(*_: object) -> None:
        """Stands for the supervisor's handler."""

    handlers = {name: list(logging.getLogger(name).handlers) for name in ("", "uvicorn", "uvicorn.error")}

    async def test(server: AdminServer, app: App, port: int) -> None:
        reader, writer = await talk(port, REQUEST)
        await answered(reader)
        assert signal.getsignal(signal.SIGTERM) is mine
        assert {name: list(logging.getLogger(name).handlers) for name in handlers} == handlers
        writer.close()

    former = signal.signal(signal.SIGTERM, mine)
    try:
        serve(test)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, former)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HT",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n12",
        REQUEST.replace(b"/ ", b"/wait "),
        REQUEST.replace(b"/ ", b"/big "),
    ],
    ids=["silent", "half a head", "half a body", "an answer that never comes", "an answer that nobody reads"],
)
def test_no_client_holds_up_the_end(data: bytes) -> None:
    async def test(server: AdminServer, app: App, port: int) -> None:
        reader, writer = await talk(port, data)
        if b"/wait" in data:
            await app.waiting.wait()
        elif b"/big" in data:
            await reader.readuntil(b"\r\n\r\n")
        begun = time.monotonic()
        await server.stop(0.2)
        assert time.monotonic() - begun < 3
        assert not server._server.server_state.connections
        await ended(reader)
        assert app.cancelled == (b"/wait" in data)
        writer.close()

    serve(test)


def test_a_request_under_way_is_finished() -> None:
    async def test(server: AdminServer, app: App, port: int) -> None:
        reader, writer = await talk(port, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n")
        await app.waiting.wait()
        idle, idle_writer = await talk(port, REQUEST)
        assert await answered(idle) == b"200 ok"
        stopping = asyncio.ensure_future(server.stop(TIMEOUT))  # noqa: TID251
        assert await ended(idle) == b""  # so the end has begun
        idle_writer.close()
        writer.write(b"{}")
        assert await answered(reader) == b"200 ok"
        assert await ended(reader) == b""
        await stopping
        writer.close()

    serve(test)


def test_a_client_that_sends_no_more_gets_its_answer_and_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    half_closed = asyncio.Event()
    real = module._Connection.eof_received

    def eof_received(connection: Any) -> Any:
        half_closed.set()
        return real(connection)

    monkeypatch.setattr(module._Connection, "eof_received", eof_received)

    async def test(server: AdminServer, app: App, port: int) -> None:
        reader, writer = await talk(port, REQUEST.replace(b"/ ", b"/late "))
        await app.waiting.wait()
        writer.write_eof()
        await half_closed.wait()
        app.go.set()
        assert await answered(reader) == b"200 ok"
        assert await ended(reader) == b""
        writer.close()

    serve(test)


def test_stop_without_start_closes_the_socket() -> None:
    sock = socket.create_server(("127.0.0.1", 0))

    async def run() -> None:
        await AdminServer(App(), [sock]).stop()

    asyncio.run(run())
    assert sock.fileno() == -1


def test_what_keeps_it_from_starting_is_raised() -> None:
    async def run() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.close()
        server = AdminServer(App(), [sock])
        with pytest.raises(OSError, match="Bad file descriptor"):
            await server.start()

    asyncio.run(asyncio.wait_for(run(), TIMEOUT))


@pytest.mark.parametrize(
    "data", [b"", b"GET / HTTP/1.1\r\nHo", REQUEST + b"GET / HTTP/1.1\r\nHo"], ids=["silent", "half", "second"]
)
def test_a_head_that_takes_too_long_ends_the_connection(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.05)

    async def test(server: AdminServer, app: App, port: int) -> None:
        reader, writer = await talk(port, data)
        came = await ended(reader)
        assert came.startswith(b"HTTP/1.1 200") if data.startswith(REQUEST) else came == b""
        writer.close()

    serve(test)


@pytest.mark.parametrize("path", [b"/wait", b"/big"])
def test_an_exchange_that_takes_too_long_ends_the_connection(monkeypatch: pytest.MonkeyPatch, path: bytes) -> None:
    monkeypatch.setattr(module, "EXCHANGE_SECONDS", 0.05)
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.05)

    lost = asyncio.Event()
    real = module._Connection.connection_lost

    def connection_lost(connection: Any, exc: Exception | None) -> None:
        lost.set()
        real(connection, exc)

    monkeypatch.setattr(module._Connection, "connection_lost", connection_lost)

    async def test(server: AdminServer, app: App, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as raw:  # reads nothing
            raw.sendall(REQUEST.replace(b"/ ", path + b" "))
            await lost.wait()

    serve(test)


def test_too_many_connections_are_answered_with_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTIONS", 3)

    async def test(server: AdminServer, app: App, port: int) -> None:
        idle = [await talk(port, REQUEST) for _ in range(2)]
        for reader, _ in idle:
            assert await answered(reader) == b"200 ok"
        reader, writer = await talk(port, REQUEST)
        assert (await reader.readuntil(b"\r\n")).split(b" ")[1] == b"503"
        for _, other in idle:
            other.close()
        writer.close()

    serve(test)


def test_a_request_that_is_none_is_answered_with_400(capfd: pytest.CaptureFixture[str]) -> None:
    async def test(server: AdminServer, app: App, port: int) -> None:
        def ask() -> bytes:
            with RawSocket.connect(port) as client:
                client.send(b"GET\r\n\r\n")
                return client.read_to_end()

        assert (await asyncio.to_thread(ask)).startswith(b"HTTP/1.1 400")

    serve(test)
    assert capfd.readouterr() == ("", "")
