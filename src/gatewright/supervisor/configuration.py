"""The configuration that runs, and the way to another one: loaded and checked here, tried in every worker, and taken
over by all of them or by none.

The supervisor never runs users' code. What only their code can tell, a worker does, in `Fault`s that get their places
in the file here.
"""

import asyncio
import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from gatewright.admin.masking import mask_text
from gatewright.control.errors import At, ConfigError, Problem, first_of
from gatewright.control.loader import Loaded, load
from gatewright.control.models import GatewayConfig
from gatewright.control.process_models import MAX_WORKERS
from gatewright.core.cpus import usable_cpus
from gatewright.supervisor.addresses import Addresses, close_all, open_addresses
from gatewright.supervisor.crew import Crew
from gatewright.supervisor.messages import Abort, Commit, Fault, Prepare, Prepared
from gatewright.supervisor.plan import Plan, StartFailed
from gatewright.supervisor.process import State, WorkerLost, WorkerProcess
from gatewright.supervisor.sockets import Listening, inherited_sockets
from gatewright.supervisor.watch import Signature, digest_of, signature
from gatewright.telemetry.secrets import names_secret

_log = logging.getLogger("gatewright.supervisor")
PREPARE_SECONDS = 60.0
_COMMIT_SECONDS = 30.0
_SHUTTING_DOWN = "the gateway is shutting down"

Trigger = Literal["start", "file", "signal", "api"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a start or reload went. With `errors` nothing was changed; `again`: another attempt may go better."""

    at: datetime
    trigger: Trigger
    version: str
    changed: bool
    errors: list[ConfigError] = field(default_factory=list)
    again: bool = False


@dataclass(frozen=True, slots=True)
class _Trial:
    """What came of trying a configuration: what is wrong with it, or the `contents` of the files that it was made
    from. `killed`: the worker that was the first to try was lost by SIGKILL, which says nothing of the configuration.
    """

    errors: list[ConfigError]
    contents: dict[str, bytes] = field(default_factory=dict)
    killed: bool = False


class VersionChanged(Exception):
    """Another configuration runs than the one that was to be replaced."""


class Configurations:
    """Holds the configuration that runs, and replaces it."""

    def __init__(self, path: Path, crew: Crew, environ: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.source: Literal["file", "api"] = "file"
        self._crew = crew
        self._environ = os.environ if environ is None else environ
        self._loaded: Loaded | None = None
        self._tried: tuple[Path, ...] = ()  # files of the last attempt: what was wrong may be put right in one of them
        self._addresses = Addresses()
        self._inherited = inherited_sockets()
        self._read = b""  # digest of what the file held when it was last read or written here, whatever came of it
        self._runs = b""  # digest of what the file held when what runs was read from it or written to it
        self._made_from: dict[Path, Signature | None] = {}
        self._number = 0
        self._lock = asyncio.Lock()
        self.succeeded = 0
        self.failed = 0
        self.last: Outcome | None = None
        self.last_success: datetime | None = None

    @property
    def config(self) -> GatewayConfig:
        """The configuration that runs."""
        assert self._loaded is not None
        assert self._loaded.config is not None
        return self._loaded.config

    @property
    def saved(self) -> bool:
        """Tell whether the file holds what runs."""
        return self._runs != b"" and self._runs == digest_of(self.path)

    @property
    def version(self) -> str:
        """What tells it from any other: the same settings have the same version."""
        return self._crew.plan.version if self._crew.plan is not None else ""

    def urls(self) -> list[str]:
        """Return where clients connect to, in the order of the configuration."""
        return [
            f"{'https' if listener.tls is not None else 'http'}://{listening.place}"
            for listener, listening in zip(self.config.listeners, self._addresses.listeners.values(), strict=True)
        ]

    def places(self) -> list[str]:
        """Return host:port of each listener, in the order of the configuration."""
        return [listening.place for listening in self._addresses.listeners.values()]

    @property
    def admin(self) -> Listening | None:
        """The admin API's socket; None: there is no admin API."""
        return next(iter(self._addresses.admin.values()), None)

    @property
    def files(self) -> list[Path]:
        """What the configuration was made from, users' code included: a change of any asks for a reload."""
        code = {Path(name) for worker in self._crew.workers for name in worker.files}
        return [*(self._loaded.files if self._loaded is not None else ()), *self._tried, *sorted(code)]

    def secrets(self) -> frozenset[str]:
        """Return what variables hold that went into the configuration and whose names say that they are secret."""
        return _secrets(self._loaded) if self._loaded is not None else frozenset()

    # Start and reload

    def load(self, text: str | None = None) -> Loaded:
        """Read the file, or take `text` in its place; check all but what users' code must say."""
        if text is None:
            self._read = digest_of(self.path)  # before: a change after that is one that nobody has read
        return load(self.path, self._environ, plugins=None, text=text)

    async def start(self, loaded: Loaded) -> None:
        """Bring `loaded` up in all workers. Raises StartFailed with nothing left open."""
        addresses = await self._open(loaded)
        plan = self._plan(loaded, addresses)
        try:
            addresses.listen()
            await self._crew.start(plan)
        except StartFailed:
            addresses.give_up_opened()
            raise
        self._loaded, self._addresses = loaded, addresses
        self._made_from, self._runs = self._signatures(), self._read
        self._note(Outcome(datetime.now(UTC), "start", plan.version, True))

    async def reload(
        self, trigger: Trigger, text: str | None = None, expected: str | None = None, save: bool = False
    ) -> Outcome:
        """Go over to what the file holds now, or to `text`. Nothing changes unless every worker can.

        Raises VersionChanged unless `expected`, if given, is the version that runs. `save`: also write `text` to the
        file, once every worker can run it; a file that was changed since it was read is not overwritten.
        """
        async with self._lock:
            before = self.version
            if expected not in (None, before):
                raise VersionChanged
            loaded = await asyncio.to_thread(self.load, text)
            self._tried = loaded.files
            trial = _Trial(loaded.errors)
            if not trial.errors:
                trial = await self._change(loaded, text if save else None)
            errors = first_of(trial.errors)
            made_from = self._made_from
            if not errors:
                self._made_from = self._signatures()
                self.source = "file" if text is None else "api"
                self._runs = self._read if save or text is None else b""
            changed = self.version != before or self._made_from != made_from
            outcome = Outcome(datetime.now(UTC), trigger, self.version, changed, errors, trial.killed)
            self._note(outcome)
            return outcome

    async def check(self, text: str) -> list[ConfigError]:
        """Return what is wrong with `text` as a configuration, without using it."""
        async with self._lock:
            loaded = await asyncio.to_thread(self.load, text)
            if loaded.errors:
                return first_of(loaded.errors)
            workers = self._crew.ready[:1]
            trial = await self._try(loaded, workers)
            self._abort(workers)
            return first_of(trial.errors)

    async def _change(self, loaded: Loaded, save: str | None) -> _Trial:
        """Have every worker try `loaded`, and go over to it if all can.

        `save` is the text to write to the file between the two.
        """
        if self._crew.ends():
            return _Trial(self.errors_of(loaded, [], _SHUTTING_DOWN))
        addresses, trial = Addresses(), _Trial([])
        workers = self._crew.ready
        try:
            addresses = await self._open(loaded)
            plan = self._plan(loaded, addresses)
            if not workers and save is None:
                addresses.listen()
                await self._crew.start_anew(plan)
            else:
                trial = await self._try(loaded, workers)
                plan.contents = trial.contents
                if not trial.errors:
                    addresses.listen()
                    if save is not None:
                        self._save(save)
        except StartFailed as error:
            trial = _Trial(self.errors_of(loaded, error.faults, error.text))
        except Exception as error:  # a defect, or what no message holds
            _log.exception("a reload failed")
            trial = _Trial(self.errors_of(loaded, [], f"the reload failed: {error}"))
        if not trial.errors and self._crew.ends():
            trial = _Trial(self.errors_of(loaded, [], _SHUTTING_DOWN))
        if trial.errors:
            self._abort(workers)
            addresses.give_up_opened()
            return trial
        # Workers have their own duplicates of what goes, and accept who has connected: nobody may be queued here alone.
        before, wanted = self._addresses, addresses.all()
        self._loaded, self._addresses = loaded, addresses
        close_all(listening for listening in before.all() if listening not in wanted)
        if workers:
            self._crew.adopt(plan, workers)
            staying = [worker for worker in workers if worker.state is State.READY]
            await asyncio.gather(*(self._commit(worker, plan) for worker in staying))
        return trial

    async def _try(self, loaded: Loaded, workers: Sequence[WorkerProcess]) -> _Trial:
        """Have the workers prepare `loaded`; what is wrong with it is by their word.

        One tries it first: users' code may end the process that it is loaded in, or never come to an end.
        """
        self._number += 1
        left = list(workers)
        while left:
            first, *left = left
            answer = await self._prepare(first, loaded)
            if answer is None:
                continue
            errors = self._judge(loaded, first, answer)
            if errors:
                return _Trial(errors, killed=isinstance(answer, WorkerLost) and answer.killed)
            answers = await asyncio.gather(*(self._prepare(worker, loaded) for worker in left))
            for worker, other in zip(left, answers, strict=True):
                # One that is lost now was not lost by this configuration: its successor begins with it.
                if other is not None and not isinstance(other, WorkerLost):
                    errors = errors or self._judge(loaded, worker, other)
            assert isinstance(answer, Prepared)
            return _Trial(errors, answer.contents)
        return _Trial(self.errors_of(loaded, [], "no worker runs that could try it; see the gateway's log"))

    async def _prepare(self, worker: WorkerProcess, loaded: Loaded) -> Prepared | WorkerLost | TimeoutError | None:
        """Return what came of it; None when the worker has been told to end meanwhile."""
        try:
            return await worker.prepare(Prepare(self._number, loaded.data, str(loaded.base_dir)), PREPARE_SECONDS)
        except TimeoutError as error:
            self._crew.replace(worker)  # what holds it up may do so for ever
            return error
        except WorkerLost as error:
            return None if worker.state is State.DRAINING else error

    def _judge(
        self, loaded: Loaded, worker: WorkerProcess, answer: Prepared | WorkerLost | TimeoutError
    ) -> list[ConfigError]:
        if isinstance(answer, TimeoutError):
            text = f"worker {worker.index} was not ready for it in {PREPARE_SECONDS:g} s"
            return self.errors_of(loaded, [], text)
        if isinstance(answer, WorkerLost):
            return self.errors_of(loaded, [], f"{answer} while it tried")
        return self.errors_of(loaded, answer.faults, answer.error) if answer.faults or answer.error else []

    def _abort(self, workers: Sequence[WorkerProcess]) -> None:
        for worker in workers:
            worker.send(Abort(self._number))

    async def _commit(self, worker: WorkerProcess, plan: Plan) -> None:
        counts, sockets = plan.give(worker, worker.index)
        try:
            await worker.commit(Commit(self._number, plan.version, counts), sockets, _COMMIT_SECONDS)
            worker.version = plan.version
        except WorkerLost:
            pass  # its successor starts with the new configuration
        except TimeoutError:
            _log.error("worker %d does not go over to the new configuration and is replaced", worker.index)
            worker.kill()

    # Parts

    async def _open(self, loaded: Loaded) -> Addresses:
        config = loaded.config
        assert config is not None
        # In a thread: an address may be a name, and names be asked for for seconds.
        return await asyncio.to_thread(open_addresses, config, _workers(config), self._addresses, self._inherited)

    def _plan(self, loaded: Loaded, addresses: Addresses) -> Plan:
        assert loaded.config is not None
        version = hashlib.sha256(msgspec.json.encode(loaded.data, order="sorted")).hexdigest()[:16]
        workers = _workers(loaded.config)
        secrets = _secrets(loaded)
        paths = {route.name: mask_text(route.match.path, secrets) for route in loaded.config.routes}
        return Plan(loaded.data, str(loaded.base_dir), version, list(addresses.listeners.values()), workers, paths)

    def _signatures(self) -> dict[Path, Signature | None]:
        """Return what tells the files' present content, where the version does not: code, certificates."""
        return {path: signature(path) for path in self.files if path != self.path}

    def _save(self, text: str) -> None:
        """Write `text` to the file, whole or not at all. Raises StartFailed."""
        path = self.path.resolve()  # a symbolic link stays one
        if digest_of(path) != self._read:
            raise StartFailed([], "the file has changed since it was read: reload it first, or do not save")
        try:
            former = path.stat()
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", dir=path.parent, delete=False) as file:
                try:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                    if (former.st_uid, former.st_gid) != (os.geteuid(), os.getegid()):
                        os.chown(file.name, former.st_uid, former.st_gid)
                    os.chmod(file.name, former.st_mode & 0o7777)
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise
        except OSError as error:
            raise StartFailed([], f"cannot be saved: {(error.strerror or str(error)).lower()}") from error
        self._read = digest_of(path)

    def _note(self, outcome: Outcome) -> None:
        self.last = outcome
        if outcome.errors:
            self.failed += 1
            _log.error("the configuration was not changed: %s", "\n".join(str(error) for error in outcome.errors))
        else:
            self.succeeded += 1
            self.last_success = outcome.at
            if outcome.trigger != "start":
                _log.info("configuration %s is in use (%s)", outcome.version, outcome.trigger)

    def errors_of(self, loaded: Loaded, faults: Sequence[Fault], text: str = "") -> list[ConfigError]:
        """Return what a worker complained of, with its place in the file where it has one."""
        problems = [
            Problem(tuple(fault.path), fault.message, fault.suggestion, At(fault.at), fault.quote, fault.wide)
            for fault in faults
        ]
        errors = loaded.errors_of(problems)
        return [*errors, self._unplaced(text)] if text else errors

    def _unplaced(self, text: str) -> ConfigError:
        return ConfigError(self.path, 0, 0, "", text)

    def close_listeners(self) -> None:
        """Give up the addresses that clients connect to."""
        close_all(self._addresses.listeners.values())

    def close(self) -> None:
        """Give all addresses up."""
        close_all(self._addresses.all())


def _secrets(loaded: Loaded) -> frozenset[str]:
    return loaded.document.values_of(names_secret) if loaded.document is not None else frozenset()


def _workers(config: GatewayConfig) -> int:
    return min(usable_cpus(), MAX_WORKERS) if config.workers == "auto" else config.workers
