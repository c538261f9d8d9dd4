"""The headers mode: the request that each proxy really sends to its target (`--headers`).

Owns a target that remembers the last request's head. It is the evidence for what the peers' records say
that they do. Gives its result to report. Called by __main__.
"""

import socketserver
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import wire
from benchmarks.lab import Lab, Subject

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True, slots=True)
class Forwarded:
    """The head of the request that one subject sent, as text without its last empty line."""

    name: str
    head: str


class _RecordingServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    last_head = b""


class _Handler(socketserver.StreamRequestHandler):
    server: _RecordingServer

    def handle(self) -> None:
        head = b""
        for line in self.rfile:
            head += line
            if line == b"\r\n":
                self.server.last_head = head
                self.wfile.write(_ANSWER)
                head = b""


def measure(lab: Lab, subjects: Sequence[Subject]) -> list[Forwarded]:
    """Send one request through each subject. Raises BenchmarkError if one does not start."""
    results = []
    with _RecordingServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            for subject in subjects:
                running = lab.start(subject, upstream_port=server.server_address[1])
                with running.process:
                    wire.fetch(running.port)
                results.append(Forwarded(subject.name, server.last_head.decode("latin-1").strip()))
        finally:
            server.shutdown()
    return results
