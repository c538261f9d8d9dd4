"""A steady load that checks every answer: `python -m tests.kit.load PORT`. A process of its own, so that it keeps its pace.

Requests leave at a fixed rate over keep-alive connections, whatever becomes of those before them; each names itself in
its path and must come back in its answer. It ends by itself after `--seconds`, or at the end of its stdin.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import uvloop

ANSWER_SECONDS = 15.0


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.asked = ""
        self.sent = 0.0
        self.buffer = b""
        self.open = True
        self.served = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, number: int) -> None:
        self.asked = f"/r/{number}"
        self.sent = time.monotonic()
        method = self.load.methods[number % len(self.load.methods)]
        self.transport.write(f"{method} {self.asked} HTTP/1.1\r\nHost: load.test\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return
        self.buffer = b""
        status = int(head[9:12])
        asked, self.asked = self.asked, ""
        self.served += 1
        if status != 200 or not rest.startswith(asked.encode() + b" "):
            self.load.fail(f"status {status}: {rest[:160]!r}")
        else:
            self.load.done(time.monotonic() - self.sent, rest.partition(b" ")[2].decode())
        if b"connection: close" in lower:
            self.open = False
            self.load.closed_after += 1
            self.transport.close()
        else:
            self.load.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.asked:
            self.load.fail(f"connection lost with a request under way: {exc!r}, {self.served} served before")
        elif self.open:
            self.load.closed_idle += 1
        self.open = False


class Load:
    """The generator and its account."""

    def __init__(self, port: int, rate: float, connections: int, methods: Sequence[str] = ("GET",)) -> None:
        self.port, self.rate, self.limit, self.methods = port, rate, connections, methods
        self.free: deque[Connection] = deque()
        self.count = 0
        self.good = 0
        self.failures: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.closed_after = 0
        self.closed_idle = 0
        self.opened = 0
        self.under_way: set[asyncio.Task[None]] = set()

    def fail(self, why: str) -> None:
        self.failures[why] += 1

    def done(self, seconds: float, tag: str) -> None:
        self.good += 1
        self.tags[tag] += 1
        self.latencies.append(seconds)

    async def one(self, number: int) -> None:
        while self.free:
            connection = self.free.pop()
            if connection.open:
                connection.ask(number)
                return
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self), "127.0.0.1", self.port
            )
        except OSError as error:
            self.fail(f"cannot connect: {error!r}")
            return
        self.opened += 1
        connection.ask(number)

    async def run(self, seconds: float) -> None:
        began = time.monotonic()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
        while not stop.is_set() and time.monotonic() - began < seconds:
            due = int((time.monotonic() - began) * self.rate)
            while self.count < due:
                self.count += 1
                task = asyncio.get_running_loop().create_task(self.one(self.count))
                self.under_way.add(task)
                task.add_done_callback(self.under_way.discard)
            await asyncio.sleep(0.002)
        deadline = time.monotonic() + ANSWER_SECONDS
        while self.good + sum(self.failures.values()) < self.count and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    def account(self) -> dict[str, Any]:
        latencies = sorted(self.latencies) or [0.0]
        return {
            "sent": self.count,
            "good": self.good,
            "failures": dict(self.failures.most_common(10)),
            "unanswered": self.count - self.good - sum(self.failures.values()),
            "tags": dict(self.tags),
            "opened": self.opened,
            "closed_after": self.closed_after,
            "closed_idle": self.closed_idle,
            "p50_ms": round(latencies[len(latencies) // 2] * 1000, 2),
            "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1000, 2),
            "max_ms": round(latencies[-1] * 1000, 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=float, default=2000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--methods", default="GET", help="in turn, with a comma between them; none has a body")
    options = parser.parse_args()
    load = Load(options.port, options.rate, options.connections, options.methods.split(","))
    uvloop.run(load.run(options.seconds))
    print(json.dumps(load.account()))


if __name__ == "__main__":
    main()
