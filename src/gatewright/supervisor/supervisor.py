"""The supervisor: the process that `gatewright run` is. Starts, reloads, watches and ends everything; serves nothing.

What happens when, stands here; how, in the modules that it holds together: `crew` (workers), `configuration` (what they
run), `watch`, `admin` (the admin API's server).
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from gatewright.control.discovery.discovery import READY_SECONDS
from gatewright.control.discovery.registration import Places, Registration
from gatewright.control.discovery.wanted import Found
from gatewright.control.errors import ConfigurationError, StartError
from gatewright.control.logs import use_own_log
from gatewright.control.tracking import Tracking
from gatewright.core.clock import SystemClock
from gatewright.core.tasks import background, spawn
from gatewright.supervisor.configuration import Configurations, Outcome, Trigger
from gatewright.supervisor.crew import Crew
from gatewright.supervisor.launch import Launched
from gatewright.supervisor.messages import Discovered, Reopen, Row
from gatewright.supervisor.notify import Notifier
from gatewright.supervisor.operations import SupervisorOperations
from gatewright.supervisor.plan import StartFailed
from gatewright.supervisor.process import WorkerLost
from gatewright.supervisor.serving import AdminServing
from gatewright.supervisor.watch import Watch
from gatewright.telemetry.own_log import OwnLog
from gatewright.telemetry.totals import Totals

_log = logging.getLogger("gatewright.supervisor")
_AGAIN_SECONDS = 2.0  # a worker needs less to be replaced
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class Phase(Enum):
    """Where the gateway as a whole stands."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Supervisor:
    """One gateway: a configuration file, and the processes that serve it."""

    def __init__(self, path: Path, first: Launched, announce: Callable[[str], None], own_log: OwnLog) -> None:
        """`first` is the process of the first worker, `announce` gets a line for each address that is served. Made in a
        running loop.
        """
        self._first = first
        self.phase = Phase.STARTING
        self.started_at = datetime.now(UTC)
        self.began = time.monotonic()  # for how long it runs: dates may be set
        self.totals = Totals()
        self.crew = Crew(self.totals, self._crew_changed)
        self.configurations = Configurations(path, self.crew)
        self.tracking = Tracking(self._probed, self._found, SystemClock())
        self._registration = Registration(SystemClock())
        self._admin = AdminServing(SupervisorOperations(self))
        self._known_as_ready = False
        self._announce = announce
        self._own_log = own_log
        self._watch = Watch()
        self._watch.set([path], time.time())
        self._notifier = Notifier()
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._asked = False  # by SIGHUP, for a reload that has not begun
        self._one_by_one = asyncio.Lock()

    async def run(self) -> None:
        """Serve until a signal ends it. Raises ConfigurationError and StartError."""
        loop = asyncio.get_running_loop()
        for number in (*_ENDING, signal.SIGHUP, signal.SIGUSR1):
            loop.add_signal_handler(number, self._signals.put_nowait, number)
        watching: asyncio.Task[None] | None = None
        try:
            if not await self._started():
                return
            watching = spawn(self._look_around())
            await self._serve()
            watching.cancel()
            await self._stop()
        finally:
            if watching is not None:
                watching.cancel()
            self.tracking.stop()
            self._registration.stop()
            self.crew.close()
            await self._admin.close()
            self.configurations.close()

    @property
    def phase_name(self) -> str:
        """starting, ready or draining."""
        return self.phase.value

    # Start

    async def _started(self) -> bool:
        """Start; return False if a signal has said to end before that was done."""
        starting, told = spawn(self._start()), spawn(self._told_to_end())
        await asyncio.wait((starting, told), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return False
        if told.done():  # both came at once: the signal is for who serves now
            self._signals.put_nowait(told.result())
        told.cancel()
        starting.result()
        return True

    async def _start(self) -> None:
        configurations, began = self.configurations, time.time()
        try:
            _, loaded = await asyncio.gather(self.crew.take_first(self._first), asyncio.to_thread(configurations.load))
        except WorkerLost as error:
            raise StartError(f"a worker process cannot be started: {error}") from error
        if loaded.config is None:
            raise ConfigurationError(loaded.errors)
        use_own_log(self._own_log, loaded.config)
        try:
            self.tracking.update(loaded.config)  # it asks while the workers start
            await configurations.start(loaded)
        except StartFailed as error:
            faults = configurations.errors_of(loaded, error.faults)
            raise (ConfigurationError(faults) if faults else StartError(str(error))) from error
        self.phase = Phase.READY
        for url in configurations.urls():
            self._announce(f"listening on {url}")
        # Only now: what the admin API needs takes as long to import as a worker to start, and clients come first.
        if configurations.admin is not None:
            await self._admin.load()
        await self._settle(began)
        if configurations.admin is not None:
            self._announce(f"admin API on http://{configurations.admin.place}")
        background(self._tell_ready())

    async def _tell_ready(self) -> None:
        """Tell systemd and Consul once it is ready: a service whose instances nobody knows yet could not serve."""
        await self.tracking.discovery.answered(READY_SECONDS)
        if self.phase is Phase.READY:
            self._notifier.ready()
            self._known_as_ready = True
            self._register()

    def _register(self) -> None:
        """Have the gateway's entry in Consul as the configuration says."""
        configurations = self.configurations
        admin = configurations.admin
        tls = configurations.config.listeners[0].tls is not None
        places = Places(configurations.places()[0], tls, admin.place if admin is not None else None)
        self._registration.update(configurations.config, places)

    # While it runs

    async def _serve(self) -> None:
        """Do what signals say, until one says to end."""
        if self._asked:  # during the start
            background(self._reload_by_signal())
        while (number := await self._signals.get()) not in _ENDING:
            if number == signal.SIGHUP:
                if not self._asked:  # any number of signals before it begins ask for one reload
                    self._asked = True
                    background(self._reload_by_signal())
            else:
                self.crew.tell(Reopen())

    async def _reload_by_signal(self) -> None:
        async with self._one_by_one:
            self._asked = False
            await self.reload("signal")

    async def reload(
        self, trigger: Trigger, text: str | None = None, expected: str | None = None, save: bool = False
    ) -> Outcome:
        """Go over to the file as it is now, or to `text`; nothing changes if that cannot be had.

        Raises VersionChanged, see `Configurations.reload`. Whoever asked may be cancelled: a reload is not left half
        done.
        """
        return await asyncio.shield(spawn(self._reload(trigger, text, expected, save)))

    async def _reload(self, trigger: Trigger, text: str | None, expected: str | None, save: bool) -> Outcome:
        self._notifier.reloading()
        configurations, began = self.configurations, time.time()
        if text is None:
            self._watch.accept()
        try:
            outcome = await configurations.reload(trigger, text, expected, save)
            if outcome.again and trigger != "api":  # nobody else would try it again
                await asyncio.sleep(_AGAIN_SECONDS)
                outcome = await configurations.reload(trigger)
            if save and not outcome.errors:
                self._watch.accept(configurations.path)
            await self._settle(began)
        finally:
            if self.phase is Phase.READY:
                self._notifier.ready()
        return outcome

    async def _settle(self, began: float) -> None:
        """Follow the configuration, whose files were read since `began`, with what is not the workers' part of it."""
        configurations = self.configurations
        config = configurations.config
        use_own_log(self._own_log, config)
        self.tracking.update(config)
        self.crew.forget_targets(self.tracking.names(config), config.services)
        self._watch.set(configurations.files, began)
        await self._admin.serve(configurations.config.admin, configurations.admin)
        if self._known_as_ready and self.phase is Phase.READY:
            self._register()

    async def _look_around(self) -> None:
        await asyncio.gather(self._watch_files(), self.crew.look_after())

    async def _watch_files(self) -> None:
        while True:
            await self._watch.change()
            if self.configurations.config.watch:
                try:
                    await self.reload("file")
                except Exception:  # a defect; the next change must be seen all the same
                    _log.exception("a reload failed")

    def _probed(self, service: str, target: str, healthy: bool) -> None:
        self.crew.set_target(Row(service, target, healthy=healthy))

    def _found(self, found: Found) -> None:
        instances = [(each.url, each.weight) for each in found.instances]
        self.crew.set_targets(Discovered(found.service, found.identity, instances))

    def _crew_changed(self) -> None:
        if self.phase is Phase.READY and not self.crew.ready:
            _log.error("no worker serves")

    # The end

    async def _stop(self) -> None:
        """Fail readiness, wait, drain; a second signal ends the grace, a third kills what is left."""
        self.phase = Phase.DRAINING
        self._notifier.stopping()
        shutdown = self.configurations.config.shutdown
        _log.info("finishing what is under way; signal again to break it off")
        if not await self._unless_told(self._drain(shutdown.delay, shutdown.grace)):
            await self._unless_told(self._drain(0, 0))

    async def _unless_told(self, draining: Coroutine[Any, Any, None]) -> bool:
        """Drain; return False if another signal came before that was done."""
        work, told = spawn(draining), spawn(self._told_to_end())
        await asyncio.wait((work, told), return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if not work.done():
            work.cancel()
            return False
        work.result()
        return True

    async def _drain(self, delay: float, grace: float) -> None:
        await asyncio.gather(asyncio.sleep(delay), self._registration.leave())
        await self.crew.cover(grace)
        self.configurations.close_listeners()  # the workers have their own, and accept what waits there
        self.crew.dismiss(grace)
        await self.crew.ended(grace)

    async def _told_to_end(self) -> signal.Signals:
        while (number := await self._signals.get()) not in _ENDING:
            if number == signal.SIGHUP:
                self._asked = True
            else:
                self.crew.tell(Reopen())
        return number
