"""The idle mode: what thousands of open keep-alive connections cost in memory (`--idle`).

Owns opening connections that have each done one request, checking that the proxy still serves them, and
memory before and after. Gives its result to report. Called by __main__.
"""

import contextlib
import resource
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import wire
from benchmarks.lab import Lab, Running, Subject
from benchmarks.process import BenchmarkError, Memory

_PER_SOURCE_ADDRESS = 5000
_SPARE_FILES = 512
_CHECKED = 100


@dataclass(frozen=True, slots=True)
class Idle:
    """Memory of one subject's process tree without and with `connections` idle connections."""

    name: str
    connections: int
    before: Memory
    after: Memory


def measure(lab: Lab, subjects: Sequence[Subject], connections: int) -> list[Idle]:
    """Measure one subject after the other.

    One that refuses, closes or does not answer a connection is reported on stderr and left out. Raises
    BenchmarkError if too few files may be open, or if nothing could be measured.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit < connections + _SPARE_FILES:
        raise BenchmarkError(
            f"{connections} connections need {connections + _SPARE_FILES} open files, the limit is {limit}: "
            f"raise it (ulimit -Hn) or ask for fewer (--idle {limit - _SPARE_FILES})"
        )
    results = []
    for subject in subjects:
        print(f"benchmarks: {connections} idle connections to {subject.name}", file=sys.stderr, flush=True)
        running = lab.start(subject)
        with running.process:
            try:
                results.append(_measure_one(running, connections))
            except (OSError, wire.WireError) as error:
                running.process.check_alive()
                print(f"benchmarks: {subject.name} left out: {error}", file=sys.stderr)
    if not results:
        raise BenchmarkError("no proxy held that many connections")
    return results


def _measure_one(running: Running, connections: int) -> Idle:
    before = running.process.memory()
    with contextlib.ExitStack() as stack:
        opened: list[socket.socket] = []
        for number in range(connections):
            # Ports are unique per pair of addresses: a few source addresses make sure that they suffice.
            source = f"127.0.0.{2 + number // _PER_SOURCE_ADDRESS % 250}"
            connection = stack.enter_context(wire.connect(running.port, source=source))
            _request(running, connection)
            opened.append(connection)
        after = running.process.memory()
        # Connections that the proxy had closed would make the number meaningless: use some once more.
        for connection in opened[:: max(1, connections // _CHECKED)]:
            _request(running, connection)
    return Idle(running.name, connections, before, after)


def _request(running: Running, connection: socket.socket) -> None:
    answer = wire.exchange(connection, wire.request_bytes(running.port))
    if answer.status != 200:
        raise wire.WireError(f"status {answer.status}")
