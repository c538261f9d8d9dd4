"""The workers: as many as configured, each replaced when it dies, their numbers summed.

It owns processes and what they are told; what a configuration holds, it passes on unread. The supervisor calls it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection

from gatewright.core.tasks import background, spawn
from gatewright.supervisor.folder import SharedFolder
from gatewright.supervisor.launch import Launched
from gatewright.supervisor.messages import (
    Configure,
    Discovered,
    Drain,
    Leaving,
    Message,
    Publish,
    Report,
    Row,
    SetTarget,
    SetTargets,
)
from gatewright.supervisor.plan import Plan, StartFailed
from gatewright.supervisor.process import State, WorkerLost, WorkerProcess
from gatewright.supervisor.slot import Slot
from gatewright.telemetry.totals import Totals

_log = logging.getLogger("gatewright.supervisor")
START_SECONDS = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
_STEADY_SECONDS = 60.0  # a worker that lived so long has not died of its start
_ASK_SECONDS = 1.0
_SERVE_SECONDS = 5.0
_LEND_PAUSE = 1.0  # a slot that stays empty for so long has its sockets served by others
_LEAVING_GRACE = 3600.0  # one worker fewer is no reason to break streams off
_OUTDATED_GRACE = 30.0
_LOOK_SECONDS = 0.05
_STARTING_SECONDS = 10.0
# After its grace a worker may take 1 second for last words, 11 for users' code that stops, 2 for spans, 2 for the
# access log and 2 for what it has to tell; that much later it has ended by itself, or hangs.
_OVERDUE = 20.0
_STUCK_SECONDS = 60.0  # a worker says something at least once a second


class Crew:
    """All workers. `plan` is what they run; whoever is started later runs it too."""

    def __init__(self, totals: Totals, changed: Callable[[], None]) -> None:
        """`changed` is called when a worker becomes ready or ends."""
        self.totals = totals
        self.plan: Plan | None = None
        self.restarts = 0
        self._closing = False
        self._changed = changed
        self._folder = SharedFolder()
        self._slots: list[Slot] = []
        self._leaving: set[WorkerProcess] = set()
        self._states: dict[tuple[str, str], Row] = {}
        self._discovered: dict[str, Discovered] = {}

    # Who is there

    @property
    def ready(self) -> list[WorkerProcess]:
        """The workers that serve."""
        return [worker for worker in self.workers if worker.state is State.READY]

    @property
    def workers(self) -> list[WorkerProcess]:
        """All that run, also those that start or leave."""
        return [slot.worker for slot in self._slots if slot.worker is not None] + list(self._leaving)

    def ends(self) -> bool:
        """Tell whether all have been told to end."""
        return self._closing

    def restarts_of(self, worker: WorkerProcess) -> int:
        """Return how often the worker in that place was replaced."""
        return self._slots[worker.index].restarts if worker.index < len(self._slots) else 0

    # Starting

    async def take_first(self, launched: Launched) -> None:
        """Take the first process, which was started before there was a plan. Raises WorkerLost."""
        slot = Slot(0)
        self._slots.append(slot)
        slot.worker = WorkerProcess(0, self._told, self._ended)
        await slot.worker.spawn(launched)

    async def start(self, plan: Plan) -> None:
        """Have all of them run `plan`. Raises StartFailed when one cannot, with all ended."""
        self.plan = plan
        self._resize(plan)
        filled = await asyncio.gather(*(self._fill(slot) for slot in self._slots), return_exceptions=True)
        for error in filled:
            if error is not None:
                raise error
        self._keep_all()

    async def start_anew(self, plan: Plan) -> None:
        """Where no worker serves, have one run `plan`, and all others follow it.

        Raises StartFailed, and the plan is what it was.
        """
        former, self.plan = self.plan, plan
        for slot in self._slots:  # whoever is being started has the former plan
            self._vacate(slot)
        try:
            await self._fill(self._slots[0])
            self._resize(plan)
        except StartFailed:
            self.plan = former
            raise
        finally:
            self._keep_all()

    def _keep_all(self) -> None:
        for slot in self._slots:
            if slot.task is None:
                slot.task = spawn(self._keep(slot))

    def _vacate(self, slot: Slot) -> None:
        """End whoever is in the slot or on the way into it; nobody follows yet."""
        if slot.task is not None:
            slot.task.cancel()
        slot.task = None
        worker, slot.worker = slot.worker, None
        if worker is not None:
            worker.dismiss()

    async def _fill(self, slot: Slot) -> None:
        """Put a worker that runs the plan into the slot. Raises StartFailed, and then nobody is in it."""
        worker = slot.worker
        try:
            if worker is None:
                worker = slot.worker = WorkerProcess(slot.index, self._told, self._ended)
                await worker.spawn()
            plan = self.plan  # as it is now: a former one's sockets may be closed
            assert plan is not None
            counts, sockets = plan.give(worker, worker.index)
            states, discovered = list(self._states.values()), list(self._discovered.values())
            folder = str(self._folder.path)
            message = Configure(
                plan.data, plan.base_dir, folder, plan.version, states, discovered, counts, plan.contents
            )
            started = await worker.start(message, sockets, START_SECONDS)
            if started.faults or started.error:
                raise StartFailed(started.faults, started.error)
        except (StartFailed, WorkerLost, TimeoutError, OSError) as error:
            slot.worker = None
            if worker is not None:
                worker.dismiss()
            if isinstance(error, StartFailed):
                raise
            raise StartFailed([], f"a worker cannot be started: {str(error) or 'it took too long'}") from error
        worker.version = plan.version
        plan.contents = plan.contents or started.contents
        if worker.state is not State.DRAINING:  # nobody has told it to end meanwhile
            worker.state = State.READY
        if self.plan is not plan:
            self.replace(worker)
        self._changed()

    async def _keep(self, slot: Slot) -> None:
        """Replace the slot's worker whenever it leaves or dies; ever more slowly if it dies again and again."""
        pause = _FIRST_PAUSE
        while True:
            if slot.worker is None:
                await self._refill(slot)
            began, worker = time.monotonic(), slot.worker
            if worker is not None:
                await worker.left.wait()
                slot.worker = None
                if worker.state is State.DRAINING:  # it finishes what it has, and its successor need not wait for that
                    continue
                slot.restarts += 1
                self.restarts += 1
            if time.monotonic() - began > _STEADY_SECONDS:
                pause = _FIRST_PAUSE
            if pause > _LEND_PAUSE:
                background(self._lend(slot.index))
            try:
                async with asyncio.timeout(pause):
                    await slot.hurry.wait()
                pause = _FIRST_PAUSE
            except TimeoutError:
                pause = min(pause * 2, _LONGEST_PAUSE)
            slot.hurry.clear()

    async def _refill(self, slot: Slot) -> None:
        try:
            await self._fill(slot)
            _log.info("worker %d serves", slot.index)
        except StartFailed as error:
            _log.error("worker %d cannot be started yet: %s", slot.index, error)
            background(self._lend(slot.index))

    async def _lend(self, index: int) -> None:
        """Have a worker that serves take over the sockets of a place that is empty: who connects would wait there."""
        plan = self.plan
        heirs = [worker for worker in self.ready if plan is not None and worker.version == plan.version]
        if plan is None or not heirs:
            return
        heir = min(heirs, key=lambda worker: len(worker.held))
        counts, sockets = plan.give(heir, index)
        if sockets:
            _log.warning("worker %d also serves the connections of worker %d", heir.index, index)
            with contextlib.suppress(WorkerLost, TimeoutError):
                await heir.serve(counts, sockets, _SERVE_SECONDS)

    # While they run

    def _told(self, worker: WorkerProcess, message: Report | Publish | Leaving) -> None:
        if isinstance(message, Leaving):
            if worker.state in (State.STARTING, State.READY):  # somebody has told it alone to end
                self._leaves(worker)
            return
        if isinstance(message, Report):
            self.totals.update(str(worker.key), message.rows, self.plan.paths if self.plan is not None else {})
            return
        for other in self.workers:
            if other is not worker:
                other.send(message)

    def _ended(self, worker: WorkerProcess) -> None:
        self.totals.retire(str(worker.key))
        self._leaving.discard(worker)
        self._changed()

    def tell(self, message: Message) -> None:
        """Send a message to every worker."""
        for worker in self.workers:
            worker.send(message)

    def set_target(self, row: Row) -> None:
        """Tell every worker of a target's state, those that will come as well."""
        known = self._states.get((row.service, row.target))
        if known is not None:
            row = Row(
                row.service,
                row.target,
                known.healthy if row.healthy is None else row.healthy,
                known.draining if row.draining is None else row.draining,
                known.weight if row.weight is None else row.weight,
            )
        self._states[row.service, row.target] = row
        self.tell(SetTarget(row))

    def set_targets(self, discovered: Discovered) -> None:
        """Tell every worker of a service's instances, those that will come as well."""
        self._discovered[discovered.service] = discovered
        self.tell(SetTargets(discovered))

    def state_of(self, service: str, target: str) -> Row:
        """Return what was last set of a target."""
        return self._states.get((service, target)) or Row(service, target)

    def forget_targets(self, known: set[tuple[str, str]], services: Collection[str]) -> None:
        """Keep only what is known of these targets and services: there are no others any more. What an operator has
        set of a target stays as long as the service does: the target may come back.
        """
        for key, row in list(self._states.items()):
            if key not in known:
                del self._states[key]
                if key[0] in services and not (row.draining is None and row.weight is None):
                    self._states[key] = Row(*key, None, row.draining, row.weight)
        self._discovered = {name: found for name, found in self._discovered.items() if name in services}

    async def refresh(self) -> int:
        """Have every worker's numbers as they are now; those of one that does not answer are as old as its last.

        Returns how many have answered, and so have done all that they were told before.
        """
        asked = [spawn(worker.ask(_ASK_SECONDS)) for worker in self.ready]
        if asked:
            await asyncio.wait(asked)
        return sum(task.exception() is None for task in asked)

    # Fewer, more, none

    def adopt(self, plan: Plan, prepared: Collection[WorkerProcess]) -> None:
        """Go over to a plan that the `prepared` workers have; replace others, start those that are missing, end those
        that are too many."""
        self.plan = plan
        for worker in self.ready:
            if worker not in prepared:
                self.replace(worker)
        self._resize(plan)
        self._keep_all()
        for slot in self._slots:
            slot.hurry.set()

    def _resize(self, plan: Plan) -> None:
        """Have as many slots as the plan says."""
        while len(self._slots) > plan.workers:
            self._leave(self._slots.pop(), _LEAVING_GRACE)
        while len(self._slots) < plan.workers:
            self._slots.append(Slot(len(self._slots)))

    def replace(self, worker: WorkerProcess) -> None:
        """End a worker that has not the present configuration, or is of no more use; another takes its place."""
        self._see_off(worker, _OUTDATED_GRACE)

    def _see_off(self, worker: WorkerProcess, grace: float) -> None:
        """Have a worker end within `grace` seconds; one that is not gone a little later is killed."""
        self._leaves(worker)
        worker.send(Drain(grace))
        background(self._bury(worker, grace + _OVERDUE))

    def _leaves(self, worker: WorkerProcess) -> None:
        """A worker accepts no more: it is nobody's successor now, and has one if its slot is kept."""
        if worker.gone.is_set():
            return
        self._leaving.add(worker)
        for slot in self._slots:
            if slot.worker is worker:
                slot.worker = None
        worker.leaves()

    async def _bury(self, worker: WorkerProcess, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await worker.gone.wait()
        except TimeoutError:
            _log.error("worker %d (pid %d) does not end and is killed", worker.index, worker.pid)
            worker.kill()

    async def look_after(self) -> None:
        """Kill workers whose event loop stands still, blocked by a plugin: their clients would wait for ever."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(_STUCK_SECONDS / 10)
            stood_still = time.monotonic() - began > _STUCK_SECONDS / 5
            for worker in self.ready:
                if stood_still:  # this process did (a paused container, a debugger): nobody could be heard
                    worker.heard_now()
                elif worker.silent_for() > _STUCK_SECONDS:
                    _log.error(
                        "worker %d (pid %d) has stood still for %g s and is killed: does a plugin block?",
                        worker.index, worker.pid, _STUCK_SECONDS,
                    )  # fmt: skip
                    worker.kill()

    def _leave(self, slot: Slot, grace: float) -> None:
        """Have nobody in the slot any more."""
        if slot.task is not None:
            slot.task.cancel()
        if slot.worker is not None and not slot.worker.gone.is_set():
            self._see_off(slot.worker, grace)

    async def cover(self, seconds: float) -> None:
        """Before the end: have somebody accept who waits at the sockets of a place that is empty. Workers that are
        being started are waited for: they have sockets already, and may have accepted somebody.
        """
        if not seconds:
            return
        await self.refresh()  # who has been told to end itself has said so by then
        until = time.monotonic() + min(seconds, _STARTING_SECONDS)
        while time.monotonic() < until and any(slot.is_starting for slot in self._slots):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        serving = {worker.index for worker in self.ready}
        await asyncio.gather(*(self._lend(slot.index) for slot in self._slots if slot.index not in serving))

    def dismiss(self, grace: float) -> None:
        """Tell all to end within `grace` seconds, which what is under way has. The last word counts."""
        self._closing = True
        for worker in self._leaving:
            worker.send(Drain(grace))
        while self._slots:
            self._leave(self._slots.pop(), grace)

    async def ended(self, grace: float) -> None:
        """Return when all have ended; who has not, a little later than `grace` seconds from now, is killed."""
        leaving = list(self._leaving)
        waits = [spawn(worker.gone.wait()) for worker in leaving]
        if waits:
            await asyncio.wait(waits, timeout=grace + _OVERDUE)
        for worker in leaving:
            worker.kill()
        if waits:
            await asyncio.wait(waits, timeout=_OVERDUE)

    def close(self) -> None:
        """End all at once, and what they shared."""
        for worker in self.workers:
            worker.dismiss()
        self._folder.remove()
