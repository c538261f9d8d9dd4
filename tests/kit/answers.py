"""Reading the gateway's own answers, and targets that answer by plan."""

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from tests.kit.wire import OK, Answer, Script, TargetSession


def reason(answer: Answer) -> str:
    """The reason of an answer that the gateway made itself."""
    assert answer.get("content-type") == "application/problem+json", answer
    return str(json.loads(answer.body)["reason"])


def why(answer: Answer) -> tuple[int, str]:
    """Status and reason of an answer that the gateway made itself."""
    return answer.status, reason(answer)


def reply(status: int, body: bytes = b"", *fields: str) -> bytes:
    """An answer with a body, as a target writes it."""
    lines = [f"HTTP/1.1 {status} Because", f"Content-Length: {len(body)}", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


Step = bytes | Callable[[TargetSession], None]


def plan(*steps: Step, then: Step = OK) -> Script:
    """A script over all connections: the n-th request gets the n-th step (bytes are sent), later ones `then`."""
    lock = threading.Lock()
    left: Iterable[Step] = iter(steps)

    def script(session: TargetSession) -> None:
        while True:
            session.read_request()
            with lock:
                step = next(left, then)  # type: ignore[call-overload]
            if isinstance(step, bytes):
                session.send(step)
            else:
                step(session)

    return script


def hang_up(session: TargetSession) -> None:
    """Close without an answer."""
    raise EOFError


def keep_silent(session: TargetSession) -> None:
    """Answer nothing until the gateway closes."""
    session.read_to_end()
    raise EOFError


def closed_port() -> int:
    """A port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def full_port() -> Iterator[int]:
    """The port of a socket that listens and takes no more connections."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(10):
            client = stack.enter_context(socket.socket())
            client.settimeout(0.2)
            try:
                client.connect(server.getsockname())
            except TimeoutError:
                yield server.getsockname()[1]
                return
        raise AssertionError("it takes every connection")


def services(name_to_urls: dict[str, list[str]], lines: str = "", routes: str = "") -> str:
    """A configuration with services; `lines` go into each, and without `routes` the first gets everything."""
    text = "services:\n"
    for name, urls in name_to_urls.items():
        text += f"  {name}:\n    targets: [{', '.join(urls)}]\n"
        text += "".join(f"    {line}\n" for line in lines.splitlines())
    first = next(iter(name_to_urls))
    return text + (routes or f"routes: [{{name: all, match: {{path: '/{{rest...}}'}}, service: {first}}}]\n")
