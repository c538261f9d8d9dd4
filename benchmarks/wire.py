"""The smallest HTTP/1.1 client that the benchmark needs: one keep-alive connection, one GET at a time.

Owns connecting, the request's bytes and finding an answer's end by its `Content-Length`. It knows nothing
of proxies or processes. Called by lab (readiness), idle, headers and open_loop. Not for general use: an
answer without a length is refused, as every proxy here passes the upstream's length on.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

PATH = "/bench"
_READ_SIZE = 65536
# Linux: choose the source port at connect time, so that ports are unique per destination and not per machine.
_IP_BIND_ADDRESS_NO_PORT = 24
_NO_FIELDS: Mapping[str, str] = MappingProxyType({})


class WireError(Exception):
    """The peer answered something that this client does not understand, or closed the connection."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete answer: its status code, its size on the wire in bytes, and its body."""

    status: int
    size: int
    body: bytes


def request_bytes(port: int, fields: Mapping[str, str] = _NO_FIELDS) -> bytes:
    """The request that every mode sends: the same head as wrk's, nothing more but `fields`."""
    lines = [f"GET {PATH} HTTP/1.1", f"Host: 127.0.0.1:{port}", *(f"{name}: {fields[name]}" for name in fields)]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def parse(data: bytes | bytearray) -> Answer | None:
    """Read one answer from all bytes received so far; None while it is incomplete.

    Raises WireError for a head without a status or a length, and for bytes behind the answer's end.
    """
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head = bytes(data[:head_end]).lower()
    mark = head.find(b"\r\ncontent-length:")
    status = head[9:12]
    length = head[mark + 17 :].split(b"\r\n", 1)[0].strip()
    if mark < 0 or not head.startswith(b"http/1.1 ") or not status.isdigit() or not length.isdigit():
        raise WireError(f"an answer without status or Content-Length: {head[:80]!r}")
    body_start = head_end + 4
    end = body_start + int(length)
    if len(data) < end:
        return None
    if len(data) > end:
        raise WireError(f"{len(data) - end} bytes after the end of an answer")
    return Answer(status=int(status), size=end, body=bytes(data[body_start:end]))


def connect(port: int, *, source: str = "", timeout: float = 5.0) -> socket.socket:
    """Connect to 127.0.0.1:`port`, from the loopback address `source` if given; `timeout` in seconds."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source:
            connection.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            connection.bind((source, 0))
        connection.connect(("127.0.0.1", port))
    except OSError:
        connection.close()
        raise
    return connection


def exchange(connection: socket.socket, request: bytes) -> Answer:
    """Send `request` and wait for the whole answer. Raises OSError (also on timeout) and WireError."""
    connection.sendall(request)
    received = bytearray()
    while True:
        data = connection.recv(_READ_SIZE)
        if not data:
            raise WireError("the connection was closed in the middle of an answer")
        received += data
        answer = parse(received)
        if answer is not None:
            return answer


def fetch(port: int, fields: Mapping[str, str] = _NO_FIELDS, *, timeout: float = 5.0) -> Answer:
    """One GET on a connection of its own. Raises OSError (also on timeout) and WireError."""
    with connect(port, timeout=timeout) as connection:
        return exchange(connection, request_bytes(port, fields))
