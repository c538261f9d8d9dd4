"""The laboratory: an upstream and the chosen proxies, running on their cores, ready for a mode to measure.

Owns finding the chosen proxies, ports, configuration files in one temporary directory, waiting until a
proxy answers, and ending everything. It knows no mode and prints nothing. Called by __main__, and by every
mode through `Lab`.
"""

import contextlib
import os
import resource
import shlex
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks import peers, wire
from benchmarks.machine import Cores
from benchmarks.process import BenchmarkError, Process

_READY_TIMEOUT = 20.0
_READY_POLL = 0.005


@dataclass(frozen=True, slots=True)
class Subject:
    """A proxy that can be started: its record, the words that start it, and its version."""

    name: str
    peer: peers.Peer
    command: list[str]
    version: str


@dataclass(frozen=True, slots=True)
class Running:
    """A started process that answers on 127.0.0.1:`port`."""

    name: str
    process: Process
    port: int
    start_seconds: float
    """From starting the process to its first good answer."""
    admin_port: int
    """Where it was told to listen for questions about itself, if its configuration has @ADMIN@."""
    directory: Path
    requests: tuple[Mapping[str, str], ...] = ({},)
    """Header fields of the requests that it gets, as in its peer's record."""

    def fetch(self) -> wire.Answer:
        """One of the requests that it gets. Raises OSError and WireError."""
        return wire.fetch(self.port, self.requests[0])


def find_subjects(
    names: Sequence[str], commands: Mapping[str, str], known: Mapping[str, peers.Peer] = peers.PEERS
) -> tuple[list[Subject], list[str]]:
    """The installed subjects among `names`, and for each missing one a line that says how to install it.

    `known` are all there are, a gateway first. `commands` replaces programs: a peer's name gives the command to
    use for it; any other name adds one more gateway that is started by that command. Raises BenchmarkError for a
    name that is neither a peer nor in `commands`.
    """
    subjects: list[Subject] = []
    skipped: list[str] = []
    gateway = next(iter(known.values()))
    for name in dict.fromkeys([*names, *commands]):
        peer = known.get(name, gateway if name in commands else None)
        if peer is None:
            raise BenchmarkError(f"there is no peer {name!r}; choose from {', '.join(known)}")
        program = None if name in commands else peer.find()
        command = shlex.split(commands[name]) if name in commands else [program] if program else []
        if command:
            subjects.append(Subject(name, peer, command, peers.version_of(peer, command)))
        else:
            skipped.append(f"{name} is not installed, skipped; to install it: {peer.install}")
    return subjects, skipped


def raise_file_limit(wanted: int) -> int:
    """Raise the limit of open files, which children inherit, as far as allowed; gives the limit reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
    return max(soft, limit)


class Lab:
    """Starts the upstream when entered and proxies on demand; ends everything when left, also on an error."""

    def __init__(self, cores: Cores) -> None:
        self.cores = cores
        self.places: dict[str, object] = {}
        """What a mode fills into templates, beside what every template has."""
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        # The benchmark itself must not disturb the proxy's core, and the load generator inherits this core.
        os.sched_setaffinity(0, {self.cores.load})
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="gatewright-bench-"))
            # Servers that were started by root drop to another user, who must still reach their files.
            Path(directory).chmod(0o755)
            self._directory = Path(directory)
            self._stack = stack.pop_all()
        try:
            self.upstream = self._start_upstream()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def keep(self, subject: Subject) -> Running:
        """Start `subject` before the upstream and let it run until the laboratory is left."""
        running = self.start(subject)
        self._stack.enter_context(running.process)
        return running

    def start(self, subject: Subject, *, upstream_port: int | None = None) -> Running:
        """Start `subject` and wait for its first good answer; the caller enters `running.process` to end it.

        Raises BenchmarkError if the program ends, or gives no good answer in time.
        """
        target = self.upstream.port if upstream_port is None else upstream_port
        return self._launch(subject, upstream=target, core=self.cores.proxy)

    def _start_upstream(self) -> Running:
        program = peers.UPSTREAM.find()
        if program is None:
            raise BenchmarkError(f"nginx, the upstream, is not installed: {peers.UPSTREAM.install}")
        subject = Subject("upstream", peers.UPSTREAM, [program], "")
        running = self._launch(subject, upstream=0, core=self.cores.load)
        self._stack.enter_context(running.process)
        return running

    def _launch(self, subject: Subject, *, upstream: int, core: int) -> Running:
        peer = subject.peer
        port = _free_port()
        directory = Path(tempfile.mkdtemp(prefix=f"{subject.name}-", dir=self._directory))
        directory.chmod(0o755)

        admin_port = _free_port()
        places = {"PORT": port, "UPSTREAM": upstream, "ADMIN": admin_port, "DIR": directory, "NAME": subject.name}

        def fill(template: str) -> str:
            return peers.filled(template, {**places, **self.places})

        for name, text in {**peer.files, peer.config_name: peer.config}.items():
            (directory / name).write_text(fill(text), encoding="utf-8")
        began = time.perf_counter()
        process = Process(
            subject.name,
            [*subject.command, *(fill(argument) for argument in peer.arguments)],
            core=core,
            log=directory / "output.log",
            env={name: fill(value) for name, value in peer.env.items()},
        )
        try:
            _wait_until_good(process, port, peer.requests[0], deadline=began + _READY_TIMEOUT)
        except BaseException:
            process.stop()
            raise
        seconds = time.perf_counter() - began
        return Running(subject.name, process, port, seconds, admin_port, directory, peer.requests)


def _wait_until_good(process: Process, port: int, fields: Mapping[str, str], *, deadline: float) -> None:
    problem = "nobody listens"
    while time.perf_counter() < deadline:
        try:
            status = wire.fetch(port, fields, timeout=2.0).status
        except (OSError, wire.WireError) as error:
            problem = str(error)
        else:
            if status == 200:
                return
            problem = f"it answers {status}"
        process.check_alive()
        time.sleep(_READY_POLL)
    waited = f"no good answer on port {port} after {_READY_TIMEOUT:.0f} s ({problem})"
    raise BenchmarkError(f"{process.name}: {waited}:\n{process.log_tail()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
