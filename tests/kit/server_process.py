"""A server in a process of its own, at free ports of 127.0.0.1 and with a folder for its data.

It can be stopped, killed, paused and started again, at the same ports and with the same data. What is particular to
Redis, Consul and the others is in `tests.kit.servers`.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

START_SECONDS = 30.0
STOP_SECONDS = 15.0
_POLL = 0.02
_SETTLE = 0.1
_TRIES = 3  # another process may take a port between its choice and its use
_PORTS = range(10_000, 30_000)  # below those that the system hands out, so that a restart finds its port free


def built_programs() -> Path:
    """Return the folder where scripts/servers.sh puts what it builds."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "gatewright" / "servers" / "bin"


def program(name: str) -> str:
    """Return the path of a server's program; skip the test (with CI set: fail it) where there is none."""
    places = [str(built_programs()), os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        reason = f"{name} is not installed: run `make servers`"
        if os.environ.get("CI", "").lower() not in ("", "0", "false"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nothing uses at this moment, also not for UDP."""
    found: list[int] = []
    for port in random.sample(_PORTS, 200):
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            try:
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError("there are no free ports")


_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # nothing here is to pass a proxy


def fetch(url: str, body: object = None, method: str | None = None, headers: Mapping[str, str] | None = None) -> Any:
    """Return what a URL answers, decoded if it is JSON; `body` is sent as JSON. Raises OSError, also for a status >= 400."""
    fields = dict(headers or {})
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        fields["Content-Type"] = "application/json"
    with _open(urllib.request.Request(url, data, fields, method=method), timeout=10) as answer:
        text = answer.read().decode()
        return json.loads(text) if text and "json" in answer.headers.get("Content-Type", "") else text


class Server:
    """A server's process. A subclass says how it is started and how it is known to be ready."""

    name = ""

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self.folder = folder
        self.ports = ports
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Write what configuration it needs; return what starts it, in the foreground."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Tell whether it answers; an OSError means no."""
        raise NotImplementedError

    @property
    def port(self) -> int:
        """Where clients connect to."""
        return self.ports[0]

    @property
    def url(self) -> str:
        """The same as a URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self.process is not None, f"{self.name} does not run"
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has printed since it was started."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it and return when it is ready."""
        assert self.process is None, f"{self.name} runs already"
        command = self.command()
        environ = {**os.environ, "OTEL_TRACES_SAMPLER": "always_off"}  # Jaeger would trace itself
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is the tests' affair, who then end it
            )
        try:
            self.until(self._answers, "ready")
            self._runs_for(_SETTLE)  # who has answered may be another, that took the port: then this one ends by now
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        try:
            return self.is_ready()
        except (OSError, ValueError):
            return False

    def until(self, condition: Callable[[], Any], what: str, seconds: float = START_SECONDS) -> Any:
        """Return what `condition()` returns once that is true; it is asked often while the server runs."""
        deadline = time.monotonic() + seconds
        while not (result := condition()):
            self._runs_for(_POLL)
            assert time.monotonic() < deadline, f"{self.name} was not {what} in time:\n{self.log}"
        return result

    def _runs_for(self, seconds: float) -> None:
        """Wait so long. Raises ServerEnded when it ends meanwhile."""
        assert self.process is not None
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        raise ServerEnded(f"{self.name} ended by itself with exit code {code}:\n{self.log}")

    def stop(self) -> None:
        """Have it end in order; it is killed when it does not."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def kill(self) -> None:
        """End it as a crash would, and the processes that it has started."""
        if self.process is None:
            return
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(STOP_SECONDS)
        self.process = None

    def restart(self) -> None:
        """Stop and start it."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Have it do nothing any more: connections stay open and are even accepted, but nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        os.kill(self.pid, signal.SIGCONT)


class ServerEnded(AssertionError):
    """A server ended by itself."""


S = TypeVar("S", bound=Server)


@contextmanager
def running(make: Callable[[Path, Sequence[int]], S], port_count: int) -> Iterator[S]:
    """Start the server that `make` makes from a folder and ports; end it, and remove the folder."""
    with tempfile.TemporaryDirectory(prefix="gatewright-", ignore_cleanup_errors=True) as folder:
        for attempt in range(_TRIES):
            place = Path(folder) / str(attempt)
            place.mkdir()
            server = make(place, free_ports(port_count))
            try:
                server.start()
                break
            except ServerEnded:
                if attempt == _TRIES - 1:
                    raise
        try:
            yield server
        finally:
            server.stop()
