"""A measured process tree: started on one core, watched through /proc, and always ended.

Owns starting (own session, pinned core, ended by the kernel if the benchmark dies), CPU time and memory of
the whole tree, and stopping. It knows nothing of HTTP or of what the process is. Called by every mode;
Linux only.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STOP_TIMEOUT = 5.0
_LOG_LINES_SHOWN = 15
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class BenchmarkError(Exception):
    """The benchmark cannot go on; the message is for the person who runs it."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process tree in bytes. `pss` counts shared pages once; None if the kernel does not tell."""

    rss: int
    pss: int | None


@dataclass(frozen=True, slots=True)
class _Stat:
    pid: int
    parent: int
    session: int
    cpu_ticks: int
    rss_pages: int


def _prepare_child(core: int) -> Callable[[], None]:
    def prepare() -> None:
        os.sched_setaffinity(0, {core})  # before exec, so that every thread of the program inherits it
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return prepare


class Process:
    """One program and all its descendants. Use as a context manager: leaving it ends the whole tree."""

    def __init__(
        self, name: str, command: Sequence[str], *, core: int, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        """Start `command` pinned to `core`, its output in the file `log`, `env` added to the environment.

        Raises BenchmarkError when the program cannot be started.
        """
        self.name = name
        self._log = log
        try:
            with log.open("wb") as output:
                self._popen = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(env or {})},
                    start_new_session=True,
                    preexec_fn=_prepare_child(core),
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise BenchmarkError(f"{name}: cannot start {command[0]}: {error}") from error
        self.pid = self._popen.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def check_alive(self) -> None:
        """Raise BenchmarkError, with the end of the program's output, if the program has ended."""
        status = self._popen.poll()
        if status is not None:
            raise BenchmarkError(f"{self.name} ended with status {status}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines that the program wrote."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-_LOG_LINES_SHOWN:])

    def cpu_seconds(self) -> float:
        """User plus system time of the tree so far, with that of descendants that were waited for."""
        return sum(stat.cpu_ticks for stat in self._tree()) / _TICKS_PER_SECOND

    def memory(self) -> Memory:
        """Memory of the tree now."""
        tree = self._tree()
        pss = [_pss_bytes(stat.pid) for stat in tree]
        known = [value for value in pss if value is not None]
        return Memory(
            rss=sum(stat.rss_pages for stat in tree) * _PAGE_BYTES,
            pss=sum(known) if len(known) == len(pss) else None,
        )

    def stop(self) -> None:
        """Ask the tree to end, and kill what has not ended after five seconds. Safe to call twice."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._kill_group()
                self._popen.wait()
        self._kill_group()  # what the program left behind

    def _kill_group(self) -> None:
        # The group's id is the leader's pid, which the kernel does not give out again while the group lives.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _tree(self) -> list[_Stat]:
        """The program and its descendants: by parent, or by session for those whose parent has ended."""
        everything = _all_processes()
        members = {self.pid}
        grew = True
        while grew:
            found = {s.pid for s in everything if s.parent in members or s.session == self.pid}
            grew = not found <= members
            members |= found
        return [stat for stat in everything if stat.pid in members]


def _all_processes() -> list[_Stat]:
    stats = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            text = Path(entry.path, "stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        # The name may hold spaces and parentheses: the numbers start behind its last parenthesis.
        fields = text[text.rindex(")") + 2 :].split()
        stats.append(
            _Stat(
                pid=int(entry.name),
                parent=int(fields[1]),
                session=int(fields[3]),
                cpu_ticks=sum(int(ticks) for ticks in fields[11:15]),  # utime, stime, cutime, cstime
                rss_pages=int(fields[21]),
            )
        )
    return stats


def memory_of(pid: int) -> Memory:
    """Memory of one process now."""
    rss = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    return Memory(rss=rss, pss=_pss_bytes(pid))


def _pss_bytes(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None
