"""For tests of the cache: a gateway whose time is moved by hand, and a target that keeps count."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

from gatewright.plugins.cache.store import PURGES, MemoryStore
from tests.kit.gateway import run_gateway
from tests.kit.wire import TIMEOUT, Answer, Target, TargetSession, request

FRESH = ["Cache-Control: max-age=60"]


class ManualClock:
    """Stands still until it is moved. `wall` starts at the machine's time, because targets' dates are compared with it."""

    def __init__(self) -> None:
        self.passed = 0.0
        self._wall = float(int(time.time()))

    def now(self) -> float:
        return 1000.0 + self.passed

    def wall(self) -> float:
        return self._wall + self.passed

    def date(self, seconds: float = 0.0) -> str:
        """An HTTP date so many seconds from now."""
        return formatdate(self.wall() + seconds, usegmt=True)


class Origin:
    """A target's script. What `replies` has for a path is sent in turn, the last one again and again."""

    def __init__(self) -> None:
        self.replies: dict[str, list[bytes | Callable[[TargetSession], None]]] = {}
        self.heads: dict[str, list[str]] = defaultdict(list)

    def __call__(self, session: TargetSession) -> None:
        while True:
            head, _ = session.read_request()
            text = head.decode("latin-1")
            path = text.split(" ")[1].partition("?")[0]
            self.heads[path].append(text)
            replies = self.replies[path]
            reply = replies.pop(0) if len(replies) > 1 else replies[0]
            if isinstance(reply, bytes):
                session.send(reply)
            else:
                reply(session)

    def asked(self, path: str) -> int:
        """How many requests came for `path`."""
        return len(self.heads[path])


def sent(head: str, name: str) -> str | None:
    """The value of a field that the target was sent."""
    for line in head.split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name.lower():
            return value.strip()
    return None


class Gate:
    """A reply that is held back until it is let go."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.asked = threading.Event()
        self.go = threading.Event()

    def __call__(self, session: TargetSession) -> None:
        self.asked.set()
        for piece in self.pieces:
            assert self.go.wait(TIMEOUT)
            session.send(piece)


def told(answer: Answer) -> str | None:
    """What the answer says that the cache did."""
    return answer.get("cache-status")


@dataclass
class Step:
    """A request, the target's reply if it is asked, and what must come of it."""

    fields: list[str] = field(default_factory=list)  # of the reply; {+60} is the date in 60 seconds
    # new: the target's reply; stored: without asking; validated: after asking if it is good; instead: of what the target
    # said; none: nobody is asked, and nothing stored
    want: str = "new"
    ask: str = ""  # more of the request's head
    status: int = 200
    later: float = 0.0  # seconds that pass before
    gets: int | None = None  # the status that the client sees
    has: dict[str, str | None] = field(default_factory=dict)
    method: str = "GET"
    of: int | None = None  # the step whose body is served; without: that of the last new one


class Bench:
    """A gateway with a cache, its clock in our hand, and a target that replies as told."""

    def __init__(
        self, settings: str, stack: ExitStack, folder: Path, before: str = "", behind: str = "", listener: str = "",
        redis: str = "",
    ) -> None:  # fmt: skip
        self.clock = ManualClock()
        self.origin = Origin()
        self.target = stack.enter_context(Target(self.origin))
        config = (
            f'listeners: [{{bind: "127.0.0.1:0", {listener}}}]\n'
            f'state: {{redis: "{redis}"}}\n'
            f'services: {{s: {{targets: ["{self.target.url}"], retry: {{attempts: 0}}, breaker: false, outlier: false}}}}\n'
            f"routes: [{{name: all, match: {{path: '/{{rest...}}'}}, service: s, plugins: [{behind}]}}]\n"
            f"plugins: [{before + ',' if before else ''} {{cache: {settings}}}]\n"
        )
        self.running = stack.enter_context(run_gateway(folder, config, files={"mine.py": MINE}, clock=self.clock))
        self.port = self.running.port
        self._paths = 0

    @property
    def store(self) -> MemoryStore:
        return self.running.gateway.services.shared("cache.memory", MemoryStore)

    def purge(self, kind: str, value: str) -> None:
        """Tell every worker to remove something."""
        self.running.call(self.running.gateway.services.publish, PURGES, [kind, value])

    def path(self) -> str:
        """A path that nobody has used."""
        self._paths += 1
        return f"/p{self._paths}"

    def reply(self, status: int, fields: list[str], body: bytes, bare: bool = False) -> bytes:
        texts = [self._dated(each) for each in fields]
        if status not in (204, 304) and not any(
            each.startswith(("Content-Length", "Transfer-Encoding")) for each in texts
        ):
            texts.append(f"Content-Length: {len(body)}")
        return "\r\n".join([f"HTTP/1.1 {status} Because", *texts, "", ""]).encode("latin-1") + (b"" if bare else body)

    def _dated(self, text: str) -> str:
        before, brace, rest = text.partition("{")
        if not brace:
            return text
        seconds, _, after = rest.partition("}")
        return before + self.clock.date(float(seconds)) + after

    def ask(self, path: str, head: str = "", method: str = "GET") -> Answer:
        data = f"{method} {path} HTTP/1.1\r\nHost: test\r\n{self._dated(head)}\r\n"
        return request(self.port, data.encode("latin-1"), method)

    def play(self, steps: list[Step]) -> None:
        """Go through the steps on a path of their own."""
        path = self.path()
        bodies = [f"{path} body {number}".encode() for number in range(len(steps))]
        last = 0
        for number, step in enumerate(steps):
            self.clock.passed += step.later
            bare = step.method == "HEAD" or step.status in (204, 304)
            self.origin.replies[path] = [self.reply(step.status, step.fields, bodies[number], bare)]
            before = self.origin.asked(path)
            answer = self.ask(path, step.ask, step.method)
            told = f"step {number}: {answer}, {self.origin.asked(path) - before} requests to the target"
            assert self.origin.asked(path) - before == (step.want not in ("stored", "none")), told
            assert answer.status == (step.gets or (200 if step.want in ("validated", "instead") else step.status)), told
            if step.want == "new" and not bare:
                last = number
            if step.method == "GET" and step.want != "none" and answer.status not in (204, 304):
                assert answer.body == bodies[last if step.of is None else step.of], told
            if step.want == "validated":
                head = self.origin.heads[path][-1]
                assert sent(head, "if-none-match") or sent(head, "if-modified-since"), head
            for name, value in step.has.items():
                assert answer.get(name) == value, f"{name}: {told}"


LATE = "{use: './mine.py:Late'}"
WHO = "{use: './mine.py:Who'}"
MINE = """
from gatewright import Consumer, Exchange, Plugin, PluginConfig, Response
class None_(PluginConfig): pass
class Who(Plugin[None_], name="who"):
    def on_request(self, exchange):
        name = exchange.request.headers.get("x-key")
        if name:
            exchange.consumer = Consumer(name)
class Refuse(Plugin[None_], name="refuse"):
    def on_request(self, exchange):
        return exchange.reject(403, "refused", "No")
class Late(Plugin[None_], name="late"):  # stands behind the cache
    def on_request(self, exchange):
        exchange.request.headers.set("X-Late", "yes")
    def on_response(self, exchange, response):
        response.headers.add("X-Seen", "once")
        response.headers.set("X-Condition", exchange.request.headers.get("if-none-match") or "none")
"""
