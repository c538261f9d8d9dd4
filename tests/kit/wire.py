"""Raw sockets for tests: a client that sends exactly these bytes, and a target that records exactly what it was sent."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

TIMEOUT = 10.0


@dataclass
class Answer:
    """An HTTP/1 answer as a client read it, by a reader that shares no code with the gateway."""

    status: int
    phrase: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    raw_head: bytes = b""

    def get(self, name: str) -> str | None:
        """The first value of a field."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def all(self, name: str) -> list[str]:
        """All values of a field."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class RawSocket:
    """A connected socket with a buffer; every wait ends after TIMEOUT seconds."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(TIMEOUT)
        self.buffer = b""

    @classmethod
    def connect(cls, port: int, tls: ssl.SSLContext | None = None, server_name: str = "localhost") -> Self:
        sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        return cls(tls.wrap_socket(sock, server_hostname=server_name) if tls else sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def fill(self) -> bool:
        """Read more; False at the end of the stream. A reset counts as an end, and is remembered in `was_reset`."""
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            self.was_reset = True
            return False
        self.buffer += data
        return bool(data)

    was_reset = False

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            if not self.fill():
                raise EOFError(f"the connection ended before {mark!r}: {self.buffer!r}")
        end = self.buffer.index(mark) + len(mark)
        found, self.buffer = self.buffer[:end], self.buffer[end:]
        return found

    def read_exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            if not self.fill():
                raise EOFError(f"the connection ended with {len(self.buffer)} of {count} bytes")
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    def read_to_end(self) -> bytes:
        """Read until the peer closes."""
        while self.fill():
            pass
        found, self.buffer = self.buffer, b""
        return found

    def read_answer(self, method: str = "GET") -> Answer:
        """Read one answer with its body. Raises EOFError when the connection ends before the message does."""
        head = self.read_until(b"\r\n\r\n")
        lines = head[:-4].decode("latin-1").split("\r\n")
        _, status, *phrase = lines[0].split(" ", 2)
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        answer = Answer(int(status), phrase[0] if phrase else "", headers, raw_head=head)
        if answer.status < 200 or answer.status in (204, 304) or method == "HEAD":
            return answer
        if (answer.get("transfer-encoding") or "").lower() == "chunked":
            while size := int(self.read_until(b"\r\n").split(b";")[0], 16):
                answer.body += self.read_exactly(size)
                assert self.read_exactly(2) == b"\r\n"
            while (line := self.read_until(b"\r\n")) != b"\r\n":
                name, _, value = line[:-2].decode("latin-1").partition(":")
                answer.trailers.append((name, value.strip()))
        elif (length := answer.get("content-length")) is not None:
            answer.body = self.read_exactly(int(length))
        else:
            answer.body = self.read_to_end()
        return answer

    def reset(self) -> None:
        """Close with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()


def request(port: int, data: bytes, method: str = "GET") -> Answer:
    """Send `data` on a new connection and return the answer."""
    with RawSocket.connect(port) as client:
        client.send(data)
        return client.read_answer(method)


def get(port: int, path: str = "/", headers: str = "") -> Answer:
    """GET a path."""
    return request(port, f"GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n".encode())


Script = Callable[["TargetSession"], None]


class TargetSession(RawSocket):
    """One connection that a target accepted. Everything that is read lands in `received`."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.received = b""

    def fill(self) -> bool:
        before = len(self.buffer)
        more = super().fill()
        self.received += self.buffer[before:]
        return more

    def read_head(self) -> bytes:
        """Read a request's head."""
        return self.read_until(b"\r\n\r\n")

    def read_request(self) -> tuple[bytes, bytes]:
        """Read a request: (head, body). Understands Content-Length and chunked."""
        head = self.read_head()
        low = head.lower()
        if b"\r\ntransfer-encoding: chunked\r\n" in low:
            body = b""
            while size := int(self.read_until(b"\r\n").split(b";")[0], 16):
                body += self.read_exactly(size)
                self.read_exactly(2)
            while self.read_until(b"\r\n") != b"\r\n":
                pass
            return head, body
        if b"\r\ncontent-length: " in low:
            length = int(low.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
            return head, self.read_exactly(length)
        return head, b""


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answer_all(reply: bytes = OK) -> Script:
    """A script that answers every request on a connection with `reply`."""

    def script(session: TargetSession) -> None:
        while True:
            try:
                session.read_request()
            except (EOFError, OSError):
                return
            session.send(reply)

    return script


class Target:
    """A target on a free port, in threads: `script` is run on each connection. `sessions` are all connections so far."""

    def __init__(self, script: Script | None = None, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.script = script or answer_all()
        self.sessions: list[TargetSession] = []
        self.errors: list[BaseException] = []
        self._tls = tls
        self._server = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port: int = self._server.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def received(self) -> bytes:
        """All bytes that came on all connections."""
        return b"".join(session.received for session in self.sessions)

    def join(self) -> None:
        """Wait until the script of every connection so far has ended."""
        for thread in self._threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive(), "a target's script did not end"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            session = TargetSession(sock)
            self.sessions.append(session)
            with session:
                self.script(session)
        except (EOFError, OSError):
            pass
        except BaseException as error:  # shown by the test's `errors`
            self.errors.append(error)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._server.close()
        for session in self.sessions:
            session.close()
