"""One worker as the supervisor sees it: its process, the channel to it, and what it last reported.

A worker is a fresh interpreter, not a fork: nothing of the supervisor (threads, sockets, admin API) is in it.
"""

import asyncio
import itertools
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeVar

from gatewright.core.tasks import background
from gatewright.supervisor.channel import Channel
from gatewright.supervisor.launch import Launched, launch
from gatewright.supervisor.messages import (
    RELEASE,
    VERSION,
    Ask,
    Commit,
    Committed,
    Configure,
    FromWorker,
    Hello,
    Leaving,
    Message,
    Prepare,
    Prepared,
    Publish,
    Report,
    Serve,
    Serving,
    Started,
)

_log = logging.getLogger("gatewright.supervisor")
A = TypeVar("A", bound=Message)
HELLO_SECONDS = 30.0
_keys = itertools.count(1)


class State(Enum):
    """What a worker is doing. STOPPED is final."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


class WorkerLost(Exception):
    """The worker ended, or was ended, before it answered. `killed`: by SIGKILL, so that its code may be good."""

    def __init__(self, text: str, killed: bool = False) -> None:
        super().__init__(text)
        self.killed = killed


class WorkerProcess:
    """A worker. `told` is called with what it says unasked, `ended` once when the process is gone."""

    def __init__(
        self,
        index: int,
        told: Callable[["WorkerProcess", Report | Publish | Leaving], None],
        ended: Callable[["WorkerProcess"], None],
    ) -> None:
        """`index` is its place among the workers, from 0."""
        self.index = index
        self.state = State.STARTING
        self.started_at = datetime.now(UTC)
        self.version: str | None = None  # of the configuration that it runs
        self.report: Report | None = None
        self.held: set[socket.socket] = set()  # listening sockets that it was given
        self.gone = asyncio.Event()
        self.left = asyncio.Event()  # gone, or it accepts no more
        self._heard = time.monotonic()
        self.key = next(_keys)  # never used again, as a pid may be
        self.files: list[str] = []  # of users' code that its configuration depends on
        self._told = told
        self._ended = ended
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel[FromWorker] | None = None
        self._answers: dict[tuple[type[Message], int], asyncio.Future[Any]] = {}
        self._numbers = 0

    @property
    def pid(self) -> int:
        """The process's ID, 0 before it runs."""
        return self._process.pid if self._process is not None else 0

    async def spawn(self, launched: Launched | None = None) -> None:
        """Start the process, unless it is `launched`, and wait until it speaks. Raises WorkerLost and OSError."""
        launched = launched or launch(self.index)
        self._process = launched.process
        self._channel = Channel(launched.sock, FromWorker, self._received, self._lost)
        hello = self._answer(Hello, 0)
        background(self._watch(launched.process))
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                said = await hello
        except TimeoutError:
            self.dismiss()
            raise WorkerLost(f"did not start within {HELLO_SECONDS:g} s") from None
        if (said.version, said.release) != (VERSION, RELEASE):
            self.dismiss()
            what = f"release {said.release}, this gateway of {RELEASE}"
            raise WorkerLost(f"is of {what}: the package was replaced, restart the gateway")

    async def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of the process, and tell everybody who waits for it."""
        code = await _end_of(process)
        expected = self.state is State.STOPPED or (self.state is State.DRAINING and code == 0)
        self.state = State.STOPPED
        if not expected:
            _log.error("worker %d (pid %d) %s", self.index, self.pid, in_words(code))
        await asyncio.sleep(0)  # the last bytes of the channel are read before it is judged
        text = f"worker {self.index} (pid {self.pid}) {in_words(code)}"
        self._fail_all(WorkerLost(text, code == -signal.SIGKILL))
        if self._channel is not None:
            self._channel.close()
        self.gone.set()
        self.left.set()
        self._ended(self)

    def silent_for(self) -> float:
        """Return for how many seconds it has said nothing."""
        return time.monotonic() - self._heard

    # Messages

    def send(self, message: Message, sockets: Sequence[socket.socket] = ()) -> None:
        """Send a message, if there is still somebody to read it."""
        if self._channel is not None and not self._channel.closed:
            self._channel.send(message, sockets)

    def number(self) -> int:
        """Return a number for the next question."""
        self._numbers += 1
        return self._numbers

    async def start(self, message: Configure, sockets: Sequence[socket.socket], seconds: float) -> Started:
        """Give it its configuration; return how that went. Raises WorkerLost, TimeoutError."""
        return await self._ask(Started, 0, message, sockets, seconds)

    async def serve(self, counts: list[tuple[int, int]], sockets: Sequence[socket.socket], seconds: float) -> None:
        """Have it serve further sockets, so many for each listener. Raises WorkerLost, TimeoutError."""
        number = self.number()
        await self._ask(Serving, number, Serve(number, counts), sockets, seconds)

    async def prepare(self, message: Prepare, seconds: float) -> Prepared:
        """Send a Prepare and return its outcome. Raises WorkerLost, TimeoutError."""
        return await self._ask(Prepared, message.number, message, (), seconds)

    async def commit(self, message: Commit, sockets: Sequence[socket.socket], seconds: float) -> Committed:
        """Send a Commit and wait for its end. Raises WorkerLost, TimeoutError."""
        return await self._ask(Committed, message.number, message, sockets, seconds)

    async def ask(self, seconds: float) -> Report:
        """Return a report of now. Raises WorkerLost, TimeoutError."""
        number = self.number()
        return await self._ask(Report, number, Ask(number), (), seconds)

    async def _ask(
        self, kind: type[A], number: int, message: Message, sockets: Sequence[socket.socket], seconds: float
    ) -> A:
        answer = self._answer(kind, number)
        try:
            self.send(message, sockets)
            async with asyncio.timeout(seconds):
                return await answer
        finally:
            self._answers.pop((kind, number), None)

    def _answer(self, kind: type[A], number: int) -> asyncio.Future[A]:
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._answers[kind, number] = future
        if self.state is State.STOPPED or (self._channel is not None and self._channel.closed):
            future.set_exception(WorkerLost(f"worker {self.index} is gone"))
        return future

    def _received(self, message: FromWorker, sockets: list[socket.socket]) -> None:
        for sock in sockets:  # a worker sends none
            sock.close()
        number = getattr(message, "number", 0)
        if isinstance(message, Report):
            if message.targets is None and self.report is not None:
                message.targets = self.report.targets
            self.report = message
            self._heard = time.monotonic()
            self._told(self, message)
        elif isinstance(message, Publish | Leaving):
            self._told(self, message)
        elif isinstance(message, Started | Prepared):
            self.files = message.files or self.files
        future = self._answers.pop((type(message), number), None)
        if future is not None and not future.done():
            future.set_result(message)

    def _lost(self, error: Exception | None) -> None:
        if error is not None:
            _log.error("the channel to worker %d (pid %d) broke: %s", self.index, self.pid, error)
        self.kill()  # without its channel it cannot be told anything any more

    def leaves(self) -> None:
        """It accepts no more and will end: it answers nothing any more, and another may take its place."""
        self.state = State.DRAINING
        self._fail_all(WorkerLost(f"worker {self.index} (pid {self.pid}) was told to end"))
        self.left.set()

    def heard_now(self) -> None:
        """Take it for one that has just said something."""
        self._heard = time.monotonic()

    def _fail_all(self, error: WorkerLost) -> None:
        answers, self._answers = self._answers, {}
        for future in answers.values():
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever waits gets it; nobody may

    # Ends

    def dismiss(self) -> None:
        """End it at once, on purpose: nobody need be told how it ended."""
        self.state = State.STOPPED
        self.kill()

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self._process is not None and not self.gone.is_set():
            self._process.kill()


async def _end_of(process: subprocess.Popen[bytes]) -> int:
    """Return the process's exit code once it has ended."""
    try:
        fd, ended = os.pidfd_open(process.pid), asyncio.Event()
    except (AttributeError, OSError):  # not every system has it or allows it, and there may be no file left
        return await asyncio.to_thread(process.wait)
    asyncio.get_running_loop().add_reader(fd, ended.set)
    try:
        await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
    return process.wait()


def in_words(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}"
