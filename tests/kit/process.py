"""A real `gatewright run`: supervisor, workers, sockets; told what to do by signals and the admin API."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 20.0
_LISTENING = re.compile(r"gatewright: listening on https?://\S+:(\d+)")
_ADMIN = re.compile(r"gatewright: admin API on http://\S+:(\d+)")


class GatewayProcess:
    """A running gateway. Its stderr is read all the time; `said` has the lines so far."""

    def __init__(
        self,
        folder: Path,
        config: str,
        environ: dict[str, str] | None = None,
        wrapper: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """What `config` does not say: listener and admin API at free ports of 127.0.0.1, no access log, no file watch.

        `wrapper` is a command that becomes the one given to it as arguments.
        """
        self.folder = folder
        self.file = folder / "gateway.yaml"
        self.write(config)
        self.said: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-c", "from gatewright.cli import main; main()", "run", str(self.file)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environ or {})},
            **options,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, keep), daemon=True)
            for stream, keep in ((self.process.stderr, self.said), (self.process.stdout, []))
        ]
        for reader in self._readers:
            reader.start()

    def write(self, config: str) -> None:
        """Put another configuration into the file, whole at once."""
        for key, line in (
            ("listeners", 'listeners: [{bind: "127.0.0.1:0"}]'),
            ("admin", 'admin: {bind: "127.0.0.1:0"}'),
            ("access_log", "access_log: false"),
            ("watch", "watch: false"),
        ):
            if f"{key}:" not in config:
                config = f"{line}\n{config}"
        new = self.file.with_suffix(".new")
        new.write_text(config)
        new.replace(self.file)

    def _read(self, stream: Any, keep: list[str]) -> None:
        for line in stream:
            with self._news:
                keep.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        """Return the first `count` lines that match, waiting for them."""
        deadline = time.monotonic() + SECONDS
        with self._news:
            while True:
                found = [line for line in self.said if re.search(pattern, line)]
                if len(found) >= count:
                    return found[:count]
                left = deadline - time.monotonic()
                assert left > 0, f"{pattern!r} was not said:\n" + "\n".join(self.said)
                assert self.process.poll() is None or self._readers[0].is_alive(), "it ended:\n" + "\n".join(self.said)
                self._news.wait(min(left, 1.0))

    def ready(self) -> "GatewayProcess":
        """Return when it serves."""
        self.wait_for("admin API on")
        return self

    @property
    def port(self) -> int:
        """The first listener's."""
        return self.ports[0]

    @property
    def ports(self) -> list[int]:
        """Those of the listeners that were announced."""
        self.ready()
        return [int(match[1]) for line in self.said if (match := _LISTENING.match(line))]

    @property
    def admin_port(self) -> int:
        """The admin API's."""
        return next(int(match[1]) for line in self.ready().said if (match := _ADMIN.match(line)))

    def admin(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Ask the admin API; return status and body (decoded if it is JSON)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=SECONDS)
        try:
            fields = dict(headers or {})
            if body is not None and not isinstance(body, str):
                body = json.dumps(body)
                fields.setdefault("Content-Type", "application/json")
            elif body is not None:
                fields.setdefault("Content-Type", "application/yaml")
            connection.request(method, path, body, fields)
            answer = connection.getresponse()
            data = answer.read()
            is_json = "json" in (answer.getheader("content-type") or "")
            return answer.status, json.loads(data) if is_json and data else data.decode()
        finally:
            connection.close()

    def status(self) -> Any:
        """Return what the admin API says of the whole."""
        return self.admin("GET", "/status")[1]

    def workers(self) -> list[int]:
        """Return the pids of the workers that serve."""
        return [worker["pid"] for worker in self.status()["workers"] if worker["state"] == "ready"]

    def until(self, condition: Any, what: str = "the condition") -> Any:
        """Return what `condition()` returns, once that is true; it is asked often."""
        deadline = time.monotonic() + SECONDS
        while True:
            if result := condition():
                return result
            assert time.monotonic() < deadline, f"{what} did not come true:\n" + "\n".join(self.said)
            time.sleep(0.02)

    def reload(self) -> tuple[int, Any]:
        """Have it read its file again."""
        return self.admin("POST", "/reload")

    def tell(self, number: int) -> None:
        """Send the supervisor a signal."""
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; return the exit code."""
        if self.process.poll() is None:
            self.tell(number)
        code = self.process.wait(SECONDS)
        for reader in self._readers:
            reader.join(SECONDS)
        return code

    def kill(self) -> None:
        """End it whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SECONDS)
        for reader in self._readers:
            reader.join(SECONDS)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


class EchoProcess:
    """A fast target (`tests.kit.echo`) in a process of its own; `port` is where."""

    def __init__(self, tag: str = "echo") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kit.echo", tag], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def __enter__(self) -> "EchoProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.communicate(timeout=SECONDS)


@contextmanager
def echo(tag: str = "echo") -> Iterator[int]:
    """Run a fast target and give its port."""
    with EchoProcess(tag) as process:
        yield process.port


class LoadProcess:
    """A steady load (`tests.kit.load`) in a process of its own."""

    def __init__(
        self, port: int, rate: int = 2000, connections: int = 32, seconds: float = 100, methods: str = "GET"
    ) -> None:
        """`methods`: in turn, with a comma between them."""
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.kit.load", str(port), "--rate", str(rate)),
                *("--connections", str(connections), "--seconds", str(seconds), "--methods", methods),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def end(self) -> dict[str, Any]:
        """Stop sending, wait for the last answers, return the account."""
        out, _ = self.process.communicate(timeout=SECONDS + 15)
        return json.loads(out)  # type: ignore[no-any-return]

    def kill(self) -> None:
        """End it without asking for anything."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
