"""A Consul agent that says what a test tells it to, one answer a question, in whatever order and shape.

A question waits for its answer, as a blocking query does. What the real one does, `tests.kit.servers` runs.
"""

import json
import queue
from collections.abc import Callable, Iterable
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from tests.kit.wire import TIMEOUT, Target, TargetSession

Step = bytes | Callable[[TargetSession], None]


class Question:
    """A request, as the agent read it."""

    def __init__(self, head: bytes) -> None:
        line, *fields = head.decode().rstrip().split("\r\n")
        self.method, url, _ = line.split(" ")
        parts = urlsplit(url)
        self.path = parts.path
        self.query = parse_qsl(parts.query, keep_blank_values=True)
        self.headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}

    def get(self, name: str) -> str | None:
        """A parameter of the query."""
        return dict(self.query).get(name)


class FakeConsul:
    """The agent: `say` gives the next question its answer, `asked` waits for the next question."""

    def __init__(self) -> None:
        self._answers: queue.Queue[Step | None] = queue.Queue()
        self._questions: queue.Queue[Question] = queue.Queue()
        self._target = Target(self._serve)
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _ in range(len(self._target.sessions) + 1):
            self._answers.put(None)
        self._target.close()

    @property
    def url(self) -> str:
        return self._target.url

    @property
    def port(self) -> int:
        return self._target.port

    def _serve(self, session: TargetSession) -> None:
        head, _ = session.read_request()
        self.count += 1
        self._questions.put(Question(head))
        answer = self._answers.get()
        if answer is None:
            raise EOFError
        if isinstance(answer, bytes):
            session.send(answer)
        else:
            answer(session)

    def say(self, entries: Iterable[Any], index: object = 1, *fields: str) -> None:
        """Answer with instances."""
        self.send(answer(json.dumps(list(entries)).encode(), f"X-Consul-Index: {index}", *fields))

    def send(self, step: Step) -> None:
        """Answer with these very bytes, or let a function of the connection do it."""
        self._answers.put(step)

    def asked(self) -> Question:
        """Return the next question, in order, once it has come."""
        return self._questions.get(timeout=TIMEOUT)


def answer(body: bytes, *fields: str, status: int = 200) -> bytes:
    """An agent's answer."""
    lines = [f"HTTP/1.1 {status} Text", "Content-Type: application/json", f"Content-Length: {len(body)}", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def entry(
    port: Any, name: str = "", address: str = "127.0.0.1", status: str = "passing", **service: Any
) -> dict[str, Any]:
    """An instance as /v1/health/service tells it."""
    own = {"ID": name or f"web-{port}", "Service": "web", "Address": address, "Port": port, "Tags": []}
    return {
        "Node": {"Node": "one", "Address": "127.0.0.9"},
        "Service": own | service,
        "Checks": [{"CheckID": "serfHealth", "Status": "passing"}, {"CheckID": "own", "Status": status}],
    }
