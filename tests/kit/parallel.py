"""Clients that ask without end, each on a connection of its own, and what they were told and when.

For limits that are counted in several processes: what was let pass is held against the definition of each algorithm.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.kit.wire import RawSocket


@dataclass
class Heard:
    """What all clients have been told so far.

    `allowed` has, by path, when each request that was let pass was sent and answered, in seconds of the monotonic clock;
    `broken` counts connections that ended under a request.
    """

    allowed: dict[str, list[tuple[float, float]]]
    statuses: set[int] = field(default_factory=set)
    broken: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def least(self) -> int:
        """How many were let pass on the path where these were the fewest."""
        return min(map(len, self.allowed.values()))


@contextmanager
def asking(ports: Sequence[int], paths: Sequence[str], clients: int, fields: str = "") -> Iterator[Heard]:
    """Have `clients` ask for all `paths` in turn, divided among `ports`, until the block ends; one whose connection is lost
    opens another. `fields` are lines of each request's head."""
    heard = Heard({path: [] for path in paths})

    def client(number: int) -> None:
        connection: RawSocket | None = None
        turn = number
        while not heard.stop.is_set():
            path = paths[turn % len(paths)]
            turn += 1
            sent = time.monotonic()
            try:
                connection = connection or RawSocket.connect(ports[number % len(ports)])
                connection.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n".encode())
                status = connection.read_answer().status
            except (EOFError, OSError):
                heard.broken += 1
                if connection is not None:
                    connection.close()
                connection = None
                continue
            heard.statuses.add(status)
            if status == 200:
                heard.allowed[path].append((sent, time.monotonic()))
        if connection is not None:
            connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield heard
    finally:
        heard.stop.set()
        for thread in threads:
            thread.join()


def most_in_a_span(allowed: Sequence[tuple[float, float]], seconds: float) -> int:
    """Return the most that certainly passed within one span of so many seconds: sent and answered in it."""
    return max(
        (sum(end - seconds < sent and answered <= end for sent, answered in allowed) for _, end in allowed), default=0
    )


def most_beyond_a_rate(allowed: Sequence[tuple[float, float]], rate: float) -> float:
    """Return by how many the requests of any span at most exceed `rate` a second times its length."""
    most = 0.0
    for start, _ in allowed:
        within = [answered for sent, answered in allowed if sent >= start]
        most = max(most, *(place + 1 - rate * (answered - start) for place, answered in enumerate(within)))
    return most
