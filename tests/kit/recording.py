"""A gateway in front of one recording target, for tests of what crosses and what does not.

Whether a target was sent anything is asked with a second request on a new connection: the gateway serves it after
the first one, over the same and only connection to the target, so whatever leaked stands before it.
"""

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit.gateway import RunningGateway, run_gateway
from tests.kit.wire import Answer, RawSocket, Script, Target, get

_SERVICE = """
services:
  s:
    targets: ["{url}"]
    retry: {{attempts: 0}}
    pool: {{max_connections: 1}}
    {service}
routes:
  - name: all
    match: {{path: "/{{rest...}}"}}
    service: s
{extra}
"""


class Recording:
    """The pair. `crossed` tells what one exchange made the target see."""

    def __init__(self, running: RunningGateway, target: Target) -> None:
        self.running = running
        self.target = target
        self.port = running.port
        self._numbers = itertools.count()
        self._seen = 0

    def crossed(self) -> bytes:
        """Return every byte that the target was sent since the last call, and check that the gateway still serves."""
        path = f"/control/{next(self._numbers)}"
        answer = get(self.port, path)
        assert answer.status == 200, f"the gateway does not serve any more: {answer}"
        received = self.target.received[self._seen :]
        self._seen = len(self.target.received)
        sent, mark, _ = received.partition(f"GET {path} HTTP/1.1\r\n".encode())
        assert mark, f"the control request did not arrive: {received!r}"
        return sent

    def exchange(self, data: bytes, method: str = "GET") -> tuple[Answer, bytes]:
        """Send `data` on a new connection, read one answer; return it and what crossed."""
        with RawSocket.connect(self.port) as client:
            client.send(data)
            answer = client.read_answer(method)
        return answer, self.crossed()

    def refused(self, data: bytes, status: int, reason: str) -> Answer:
        """Send `data`; check that it gets this one refusal, that the connection ends, and that nothing crosses."""
        with RawSocket.connect(self.port) as client:
            client.send(data)
            answer = client.read_answer()
            rest = client.read_to_end()
        leaked = self.crossed()
        assert (answer.status, told(answer)) == (status, reason), (answer.status, answer.body)
        assert answer.get("content-type") == "application/problem+json"
        assert answer.get("connection") == "close"
        assert rest == b"", f"a second answer: {rest!r}"
        assert leaked == b"", f"the target was sent {leaked!r}"
        return answer


def told(answer: Answer) -> str:
    """The reason in a problem+json body."""
    problem = json.loads(answer.body)
    assert problem["status"] == answer.status
    return str(problem["reason"])


def without_id(request: bytes) -> bytes:
    """Replace the generated request IDs, which no test can foresee."""
    return re.sub(rb"(\r\nX-Request-ID: )[0-9a-f]{32}\r\n", rb"\1ID\r\n", request)


@contextmanager
def recording(folder: Path, script: Script | None = None, service: str = "", extra: str = "") -> Iterator[Recording]:
    """Start the pair; `service` is a line for the service, `extra` text at the end of the configuration."""
    with Target(script) as target:
        config = _SERVICE.format(url=target.url, service=service, extra=extra)
        with run_gateway(folder, config) as running:
            yield Recording(running, target)
