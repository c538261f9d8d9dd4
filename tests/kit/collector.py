"""A collector of traces for tests: takes OTLP over HTTP and reads it with OpenTelemetry's own protobuf classes.

It can be told to refuse, to be slow and to be dead. Knows nothing of the gateway.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SECONDS = 10.0
SERVER, CLIENT = 2, 3


@dataclass
class Span:
    """A span as the collector got it: IDs in hex digits, times in nanoseconds."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    start: int
    end: int
    state: str
    flags: int
    error: bool
    message: str
    attributes: dict[str, Any]
    events: list[tuple[str, int, dict[str, Any]]] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)


def read(data: bytes) -> list[Span]:
    """Return the spans of an ExportTraceServiceRequest."""
    spans = []
    for of_resource in ExportTraceServiceRequest.FromString(data).resource_spans:
        resource = _values(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                assert span.status.code in (0, 2)
                spans.append(
                    Span(
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.name,
                        span.kind,
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        span.trace_state,
                        span.flags,
                        span.status.code == 2,
                        span.status.message,
                        _values(span.attributes),
                        [(event.name, event.time_unix_nano, _values(event.attributes)) for event in span.events],
                        resource,
                    )
                )
    return spans


def _values(attributes: Any) -> dict[str, Any]:
    values = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
    assert len(values) == len(attributes), "a key comes twice"
    return values


class Collector:
    """A collector. `answers` are the statuses (and fields) of the next answers; then 200. `hold` stops it from answering."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.requests: list[dict[str, str]] = []  # their header fields, with the path as ":path"
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._news = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, fields = collector._take({":path": self.path, **dict(self.headers.items())}, body)
                collector.may_answer.wait(SECONDS)
                self.send_response(status)
                for name, value in fields.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _take(self, fields: dict[str, str], body: bytes) -> tuple[int, dict[str, str]]:
        with self._news:
            self.requests.append(fields)
            status, extra = self.answers.pop(0) if self.answers else (200, {})
            if status == 200:
                self.spans += read(body)
            self._news.notify_all()
        return status, extra

    def wait_for(self, count: int) -> list[Span]:
        """Return the spans, once there are `count`."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.spans) >= count, SECONDS), f"{len(self.spans)} of {count} spans"
        return list(self.spans)

    def wait_for_requests(self, count: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: len(self.requests) >= count, SECONDS), f"{len(self.requests)} requests"

    def close(self) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def collector() -> Iterator[Collector]:
    """Run a collector."""
    running = Collector()
    try:
        yield running
    finally:
        running.close()


def until(condition: Callable[[], Any]) -> None:
    """Return when `condition()` is true; it is asked often."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)
