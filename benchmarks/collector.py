"""A collector of spans that counts: OTLP over HTTP, which all proxies of a run can send to.

Owns a server in threads of this program, so that its time is known as the benchmark's own, and as much of
protobuf as it takes to count spans. A proxy sends to `/NAME/v1/traces`, and its spans are counted under NAME.
Used by features and plugins.
"""

import socketserver
import threading
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Self

from benchmarks.process import BenchmarkError

# Field numbers in opentelemetry/proto/trace/v1: TracesData.resource_spans, ResourceSpans.scope_spans, ScopeSpans.spans.
_RESOURCE_SPANS, _SCOPE_SPANS, _SPANS = 1, 2, 2
_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}


class Collector:
    """Use as a context manager. `spans` and `requests` count what came, by name."""

    def __init__(self) -> None:
        self.spans: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.collector = self
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, name: str, spans: int) -> None:
        """Count one request of `name`'s with that many spans."""
        with self._lock:
            self.spans[name] += spans
            self.requests[name] += 1


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    collector: Collector


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    rbufsize = 1 << 20

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Content-Encoding") == "gzip":
            body = zlib.decompress(body, wbits=31)
        name = self.path.split("/")[1]
        self.server.collector.take(name, count_spans(body))
        # An empty ExportTraceServiceResponse: everything was taken.
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = bytearray()
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline() not in (b"\r\n", b"\n", b""):  # trailers
            pass
        return bytes(body)


def count_spans(body: bytes) -> int:
    """How many spans an ExportTraceServiceRequest holds. Raises BenchmarkError if it is none."""
    try:
        return _count(body, 0, len(body), (_RESOURCE_SPANS, _SCOPE_SPANS, _SPANS))
    except IndexError as error:
        raise BenchmarkError("a collector got a body that is no protobuf") from error


def _count(data: bytes, at: int, end: int, path: tuple[int, ...]) -> int:
    """How many messages lie at `path` within data[at:end]."""
    wanted, *inner = path
    found = 0
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            length, at = _varint(data, at)
            if tag >> 3 == wanted:
                found += _count(data, at, at + length, tuple(inner)) if inner else 1
            at += length
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            _, at = _varint(data, at)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = data[at] & 0x7F
    shift = 7
    while data[at] & 0x80:
        at += 1
        value |= (data[at] & 0x7F) << shift
        shift += 7
    return value, at + 1
