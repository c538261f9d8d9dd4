"""A worker: one process of the data plane, told by the supervisor what to do.

It ends when it has drained, and when the supervisor is gone: no worker outlives it. Signals of the terminal are the
supervisor's to handle; SIGTERM to a worker alone drains it, and the supervisor starts another.
"""

import asyncio
import faulthandler
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from gatewright.app import Gateway, StartError
from gatewright.control.discovery.wanted import Found, Instance
from gatewright.control.loader import check_data
from gatewright.control.logs import use_own_log
from gatewright.core.contents import recalling
from gatewright.core.tasks import spawn
from gatewright.supervisor.channel import Channel
from gatewright.supervisor.children import end_children, part_from_children, signal_at_parents_end
from gatewright.supervisor.launch import FOR_THE_SUPERVISOR
from gatewright.supervisor.messages import (
    RELEASE,
    VERSION,
    Abort,
    Ask,
    Commit,
    Committed,
    Configure,
    Discovered,
    Drain,
    Fault,
    FromSupervisor,
    Hello,
    Leaving,
    Prepare,
    Prepared,
    Publish,
    Reopen,
    Report,
    Row,
    Serve,
    Serving,
    SetTarget,
    SetTargets,
    Started,
)
from gatewright.telemetry.counters import Counters
from gatewright.telemetry.lag import LoopLag
from gatewright.telemetry.own_log import OwnLog, start_own_log

_log = logging.getLogger("gatewright.worker")
REPORT_SECONDS = 0.25
_QUIET_REPORTS = 4  # without news, every fourth report is sent
ORPHAN_GRACE = 3.0  # for what is under way when the supervisor has died
_LAST_REPORTS = 10.0  # for a supervisor that is held up
_LAST_WORDS = 1.0
_LONGEST_TEXT = 4000
_MOST_CONTENTS = 16 * 1024 * 1024
_FROZEN_SECONDS = 75.0  # of CPU time; the supervisor kills one that stands still sooner, this is for when it is gone
_TIDY_SECONDS = 2.0
_GC_THRESHOLD = 20_000  # exchanges leave no cycles behind: look for the rare ones of plugins rarely


class Worker:
    """The worker's side of the channel, and the gateway that it drives."""

    def __init__(self, sock: socket.socket, own_log: OwnLog) -> None:
        self._own_log = own_log
        self._counters = Counters()
        self._lag = LoopLag()
        self._gateway: Gateway | None = None
        self._prepared: tuple[int, Any] | None = None
        self._early: list[SetTarget | SetTargets] = []  # that came before the gateway was up
        self._tidying: asyncio.TimerHandle | None = None
        self._jobs: asyncio.Queue[tuple[Any, list[socket.socket]]] = asyncio.Queue()
        self._over = asyncio.Event()
        self._told = asyncio.Event()  # how long the end may take
        self._grace = 0.0
        self._last: tuple[Any, ...] = ()
        self._silent = 0
        self._channel: Channel[FromSupervisor] = Channel(sock, FromSupervisor, self._received, self._lost)

    async def run(self) -> int:
        """Serve until told to stop; return the exit code."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._told_by_signal)
        self._channel.send(Hello(VERSION, RELEASE, os.getpid()))
        self._lag.start()
        working, reporting, over = spawn(self._work()), spawn(self._report_often()), spawn(self._over.wait())
        await asyncio.wait((working, over), return_when=asyncio.FIRST_COMPLETED)
        failed = working.done()
        if failed:  # a defect: the supervisor starts another worker
            _log.error("the worker cannot go on", exc_info=None if working.cancelled() else working.exception())
        self._channel.send(Leaving())
        working.cancel()
        over.cancel()
        await asyncio.wait((working,))
        if self._gateway is not None:
            await self._stop(self._gateway)
        reporting.cancel()
        self._lag.stop()
        while self._report(0):
            pass
        await self._channel.flushed(_LAST_REPORTS)
        return 1 if failed else 0

    async def _stop(self, gateway: Gateway) -> None:
        """Drain, for as long as was said last, and end. An end that has begun is not cut short: users' code would stop
        half-way, and cannot be stopped again."""
        while True:
            self._told.clear()
            draining, told = spawn(gateway.drain(self._grace)), spawn(self._told.wait())
            await asyncio.wait((draining, told), return_when=asyncio.FIRST_COMPLETED)
            told.cancel()
            if draining.done():
                break
            draining.cancel()
            await asyncio.wait((draining,))
        draining.result()
        await gateway.end()

    # Messages

    def _received(self, message: FromSupervisor, sockets: list[socket.socket]) -> None:
        if isinstance(message, SetTarget | SetTargets):
            if self._gateway is None:
                self._early.append(message)
            elif isinstance(message, SetTarget):
                _set_target(self._gateway, message.row)
            else:
                self._gateway.set_targets(_found(message.discovered))
        elif isinstance(message, Ask):
            self._report(message.number)
        elif isinstance(message, Reopen):
            if self._gateway is not None:
                self._gateway.reopen_logs()
        elif isinstance(message, Publish):
            if self._gateway is not None:
                self._gateway.services.hear(message.topic, message.content)
        elif isinstance(message, Drain):
            self._end_within(message.grace)
        else:
            if isinstance(message, Configure):
                self._early.clear()  # it holds all that was told before it
            self._jobs.put_nowait((message, sockets))

    def _lost(self, error: Exception | None) -> None:
        """The supervisor is gone: end, and let nobody wait for long."""
        _log.error("the supervisor is gone%s: stopping", f" ({error})" if error is not None else "")
        self._end_within(ORPHAN_GRACE)

    def _told_by_signal(self) -> None:
        """Somebody wants this worker alone to end; the second time at once."""
        grace = self._gateway.config.shutdown.grace if self._gateway is not None else 0.0
        self._end_within(0.0 if self._over.is_set() else grace)

    def _end_within(self, grace: float) -> None:
        self._grace = grace
        self._over.set()
        self._told.set()

    async def _work(self) -> None:
        """Do one thing after the other, in the order of the messages."""
        while True:
            message, sockets = await self._jobs.get()
            if isinstance(message, Configure):
                await self._configure(message, sockets)
            elif isinstance(message, Serve):
                await self._serve(message, sockets)
            elif isinstance(message, Prepare):
                await self._prepare(message)
            elif isinstance(message, Commit):
                await self._commit(message, sockets)
            elif isinstance(message, Abort):
                await self._abort(message.number)

    # The configuration

    async def _configure(self, message: Configure, sockets: list[socket.socket]) -> None:
        with recalling(message.contents) as read:
            await self._bring_up(message, sockets, read)

    async def _bring_up(self, message: Configure, sockets: list[socket.socket], read: dict[str, bytes]) -> None:
        base_dir = Path(message.base_dir)
        config, problems = check_data(message.data, base_dir, None)
        if config is None:  # the supervisor has found it good: it is of another release, or a file has changed since
            self._channel.send(Started(_faults(problems)))
            return
        use_own_log(self._own_log, config)
        folder = Path(message.folder)
        gateway = Gateway(config, base_dir, probe=False, counters=self._counters, folder=folder, data=message.data)
        gateway.services.links.relay = lambda topic, content: self._channel.offer(Publish(topic, content))
        for discovered in message.discovered:
            gateway.set_targets(_found(discovered))
        shared = _by_listener(message.sockets, sockets)
        try:
            await gateway.start([shared.get(index, []) for index in range(len(config.listeners))])
        except StartError as error:
            text = "" if error.problems else _clipped(str(error))
            self._channel.send(Started(_faults(error.problems), text))
            return
        self._gateway = gateway
        for row in message.targets:
            _set_target(gateway, row)
        early, self._early = self._early, []
        for each in early:
            self._received(each, [])
        contents = _bounded(read | gateway.contents)
        self._channel.send(Started([], files=_texts(gateway.files), contents=contents))
        # One that is stopped (SIGSTOP, a debugger) then goes on: only one that runs can end itself.
        signal_at_parents_end(signal.SIGCONT)

    async def _serve(self, message: Serve, sockets: list[socket.socket]) -> None:
        assert self._gateway is not None
        await self._gateway.serve(_by_listener(message.sockets, sockets))
        self._channel.send(Serving(message.number))

    async def _prepare(self, message: Prepare) -> None:
        assert self._gateway is not None
        await self._abort(None)
        base_dir = Path(message.base_dir)
        prepared: Any = None
        faults: list[Fault] = []
        error = ""
        contents: dict[str, bytes] = {}
        try:
            with recalling({}) as read:
                prepared, problems = await self._gateway.prepare(message.data, base_dir)
            faults = _faults(problems)
            if prepared is not None:
                contents = _bounded(read | prepared.contents)
        except StartError as exc:
            error = _clipped(str(exc))
        except BaseException as exc:  # whatever users' code makes of it, this worker must go on
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            _log.exception("a configuration could not be prepared")
            error = _clipped(f"the configuration cannot be prepared: {type(exc).__name__}")
        if prepared is not None:
            self._prepared = (message.number, prepared)
        self._channel.send(Prepared(message.number, faults, error, _texts(self._gateway.tried), contents))

    async def _commit(self, message: Commit, sockets: list[socket.socket]) -> None:
        assert self._gateway is not None
        prepared, self._prepared = self._prepared, None
        assert prepared is not None
        assert prepared[0] == message.number
        await self._gateway.commit(prepared[1], _by_listener(message.sockets, sockets))
        use_own_log(self._own_log, self._gateway.config)
        self._channel.send(Committed(message.number))
        self._tidy_soon()

    async def _abort(self, number: int | None) -> None:
        """Throw away what was prepared under `number`; None: whatever was."""
        prepared = self._prepared
        if self._gateway is not None and prepared is not None and number in (None, prepared[0]):
            self._prepared = None
            await self._gateway.discard(prepared[1])
            self._tidy_soon()

    def _tidy_soon(self) -> None:
        """Collect what configurations have left behind: modules and classes are cycles, and full collections rare."""
        if self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_later(_TIDY_SECONDS, self._tidy)

    def _tidy(self) -> None:
        self._tidying = None
        gc.collect()

    # Numbers

    async def _report_often(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            # The system, unlike the watchdog's thread, also ends a worker in which users' code holds the interpreter.
            # Its CPU time counts: one that was stopped, or its whole container, does nothing wrong.
            signal.setitimer(signal.ITIMER_PROF, _FROZEN_SECONDS)
            if not self._channel.congested:
                try:
                    self._report(None)
                except Exception:  # a defect; without the next reports this worker would be taken for dead
                    _log.exception("a report failed")

    def _report(self, number: int | None) -> bool:
        """Report; `number` None: only if there is news, or there has been none for a while. Tell whether counts had
        changed: there may be more of them.
        """
        gateway = self._gateway
        self._counters.lines_dropped = gateway.lines_dropped if gateway is not None else 0
        self._counters.spans_dropped = gateway.spans_dropped if gateway is not None else 0
        rows = self._counters.changes()
        # Thousands of targets take milliseconds: who asks is told of them, but one that ends is not asked any more.
        told_of_targets = number is not None or self._over.is_set()
        targets = gateway.target_states() if gateway is not None and told_of_targets else None
        connections = gateway.connections if gateway is not None else 0
        in_flight = gateway.in_flight if gateway is not None else 0
        ages = self._counters.ages()
        now = (connections, in_flight, ages)
        if number is None:
            self._silent += 1
            if not rows and now == self._last and self._silent < _QUIET_REPORTS:
                return False
        self._silent = 0
        self._last = now
        self._channel.send(Report(number or 0, rows, connections, in_flight, targets, self._lag.worst, ages))
        return bool(rows)


def _set_target(gateway: Gateway, row: Row) -> None:
    gateway.set_target(row.service, row.target, healthy=row.healthy, draining=row.draining, weight=row.weight)


def _found(discovered: Discovered) -> Found:
    instances = tuple(Instance(url, weight) for url, weight in discovered.instances)
    return Found(discovered.service, discovered.identity, instances)


def _faults(problems: Sequence[Any]) -> list[Fault]:
    return [
        Fault(list(each.path), _clipped(each.message), each.suggestion, each.at.value, each.quote, each.wide)
        for each in problems
    ]


def _clipped(text: str) -> str:
    """Return a text that a message can hold: users' exceptions say what they like, at any length."""
    return text[:_LONGEST_TEXT].encode("utf-8", "backslashreplace").decode()


def _bounded(contents: dict[str, bytes]) -> dict[str, bytes]:
    """Return contents that a message can hold; none, if they are larger."""
    return contents if sum(map(len, contents.values())) < _MOST_CONTENTS else {}


def _texts(paths: Iterable[Path]) -> list[str]:
    return sorted(map(str, paths))


def _by_listener(counts: list[tuple[int, int]], sockets: list[socket.socket]) -> dict[int, list[socket.socket]]:
    """Return the sockets that came with a message by their listener's index."""
    left = iter(sockets)
    return {index: [next(left) for _ in range(count)] for index, count in counts}


def _end_with(sock: socket.socket) -> None:
    """End this process when the supervisor has gone and the event loop, blocked by a plugin, does not see it."""
    watch = select.poll()
    watch.register(sock.fileno(), 0)  # only the hang-up, which is always told
    watch.poll()
    time.sleep(ORPHAN_GRACE + 1.0)
    os.kill(os.getpid(), signal.SIGKILL)


async def _run(sock: socket.socket, own_log: OwnLog) -> None:
    # What the imports made will never be garbage; without this every full collection walks all of it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 50)
    code = await Worker(sock, own_log).run()
    end_children()
    own_log.wait(_LAST_WORDS)
    # Not by way of the interpreter's end: that waits for threads, and one may be held by users' code for ever.
    os._exit(code)


def main() -> None:
    """Run a worker on the channel whose descriptor is the first argument; the second is its index."""
    for number in FOR_THE_SUPERVISOR:
        signal.signal(number, signal.SIG_IGN)
    faulthandler.register(signal.SIGPROF, chain=True)  # where it was is told before the signal ends it
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # they have waited since the launch
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    part_from_children(sock)
    own_log = start_own_log(label=f"worker {sys.argv[2]}")
    threading.Thread(target=_end_with, args=(sock.dup(),), name="gatewright-watchdog", daemon=True).start()
    try:
        uvloop.run(_run(sock, own_log))
    finally:
        own_log.wait(_LAST_WORDS)


if __name__ == "__main__":
    main()
