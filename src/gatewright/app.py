"""The composition root: the only place that wires a configuration to sockets.

`Gateway` is the whole data plane in one process: `start` listens, `stop` drains, `prepare` and `commit` go over to
another configuration. `asgi` serves the same pipeline behind another server. A worker process drives one of these.
"""

import asyncio
import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatewright.control.building import build_beside
from gatewright.control.discovered import DiscoveredTargets
from gatewright.control.discovery.wanted import Found
from gatewright.control.errors import ConfigurationError, Problem, StartError
from gatewright.control.generation import Built, Generations
from gatewright.control.listeners import Listeners, Plan
from gatewright.control.loader import load
from gatewright.control.logs import make_access_log, open_sink
from gatewright.control.models import GatewayConfig
from gatewright.control.plugin_services import PluginServices
from gatewright.control.target_states import TargetStates, rows
from gatewright.control.tracing import Tracing
from gatewright.control.tracking import Tracking
from gatewright.core.clock import Clock, SystemClock
from gatewright.core.errors import GatewayError, Reason
from gatewright.core.tasks import background, within
from gatewright.net.listener import Listener
from gatewright.net.timers import Timers
from gatewright.proxy.life import Proxy
from gatewright.telemetry.counters import Counters
from gatewright.telemetry.recorder import make_recorder
from gatewright.telemetry.sink import LineSink

if TYPE_CHECKING:
    from gatewright.asgi import AsgiGateway

_log = logging.getLogger("gatewright")
_LAST_TURNS = 100  # of the loop: one that ends in a Task takes a few, one whose plugin clings to it is not waited for
_FIRST_ANSWER = 5.0  # seconds that a start waits for what discovery finds first
_LAST_WORDS = 1.0  # seconds for the answers to those who have waited in vain when a drain's time is up


@dataclass(eq=False, slots=True)
class Prepared:
    """A configuration that is built and started beside the present one. For `Gateway.commit` or `Gateway.discard`."""

    config: GatewayConfig
    base_dir: Path
    built: Built
    plans: list[Plan]
    sink: LineSink | None  # the access log's, if another than the present one

    @property
    def files(self) -> frozenset[Path]:
        """The files of users' code that it depends on."""
        return self.built.source.files

    @property
    def contents(self) -> dict[str, bytes]:
        """The source of the users' modules that are loaded for it, by path."""
        return self.built.source.contents


class Gateway:
    """One gateway. Made from a checked configuration; `from_file` checks one."""

    def __init__(
        self,
        config: GatewayConfig,
        base_dir: Path,
        clock: Clock | None = None,
        *,
        probe: bool = True,
        counters: Counters | None = None,
        folder: Path | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """`base_dir` is where relative paths and imports start from. Without `probe` somebody else follows the
        targets, and tells it by `set_target` and `set_targets`. `counters` are told of every exchange. `folder` is
        where all workers of a gateway keep what they share; None: this is the only one. `data` is the plain data of
        `config`, where users' code has not been asked yet whether it is good.
        """
        self.config = config
        self._data = data
        self._base_dir = base_dir
        self._clock: Clock = clock or SystemClock()
        self._timers = Timers(self._clock)
        self._counters = counters
        self.services = PluginServices(self._clock, self._timers, base_dir, counters, folder)
        self._tracking = Tracking(self._probed, self.set_targets, self._clock) if probe else None
        self._discovered = DiscoveredTargets()
        self._listeners = Listeners(self._clock, self._timers)
        self._opens = True  # its own sockets
        self._states = TargetStates()
        self._generations: Generations | None = None
        self._proxy: Proxy | None = None
        self._tracing = Tracing(self._clock)
        self._sink: LineSink | None = None
        self._dropped = 0  # lines, by sinks before
        self._preparing = asyncio.Lock()
        self._prepared: Prepared | None = None
        self.tried: frozenset[Path] = frozenset()  # users' files that the last `prepare` read, whatever came of it

    @classmethod
    def from_file(cls, path: str | Path, environ: Mapping[str, str] | None = None) -> "Gateway":
        """Return the gateway that the file at `path` configures. Raises ConfigurationError with all that is wrong."""
        loaded = load(Path(path), environ)
        if loaded.config is None:
            raise ConfigurationError(loaded.errors)
        return cls(loaded.config, loaded.base_dir)

    @cached_property
    def asgi(self) -> "AsgiGateway":
        """This gateway as an ASGI application; its listeners are not used then, the server has its own."""
        from gatewright.asgi import AsgiGateway  # here: workers have no use for it, and start sooner

        return AsgiGateway(self.start_pipeline, self.stop, self._clock)

    # What it is doing

    @property
    def listeners(self) -> list[Listener]:
        """The listeners of the present configuration, in its order."""
        return self._listeners.present

    @property
    def connections(self) -> int:
        """How many client connections are open."""
        return self._listeners.connections

    @property
    def in_flight(self) -> int:
        """How many exchanges are under way, on whatever configuration."""
        return self._proxy.in_flight if self._proxy is not None else 0

    @property
    def lines_dropped(self) -> int:
        """How many lines of the access log were lost since the gateway was made."""
        return self._dropped + (self._sink.dropped if self._sink is not None else 0)

    @property
    def spans_dropped(self) -> int:
        """How many spans were lost since the gateway was made."""
        return self._tracing.dropped

    @property
    def files(self) -> frozenset[Path]:
        """The files of users' code that the present configuration depends on."""
        return self._generations.present.source.files if self._generations is not None else frozenset()

    @property
    def contents(self) -> dict[str, bytes]:
        """The source of the users' modules that are loaded for the present configuration, by path."""
        return self._generations.present.source.contents if self._generations is not None else {}

    def set_target(
        self,
        service: str,
        target: str,
        *,
        healthy: bool | None = None,
        draining: bool | None = None,
        weight: int | None = None,
    ) -> None:
        """Set what is not None of the targets of that name. It holds over reloads; unknown names are ignored: a reload
        may have taken them away.
        """
        if self._generations is not None:
            builds = [self._generations.present, *([self._prepared.built] if self._prepared is not None else [])]
            self._states.set(builds, service, target, healthy=healthy, draining=draining, weight=weight)

    def set_targets(self, found: Found) -> None:
        """Give a service the targets that discovery found; those that stay are not disturbed, those that go finish what
        they have. It holds over reloads.
        """
        self._discovered.set(found)
        if self._generations is not None:
            self._discovered.apply_to(self._generations.present, found.service)
            self._states.renew(self._generations.present, found.service)

    def _probed(self, service: str, target: str, healthy: bool) -> None:
        self.set_target(service, target, healthy=healthy)

    def target_states(self) -> list[dict[str, Any]]:
        """Return a row for each target: service, target (its name), url, weight, healthy, draining, ejected, breaker,
        in_flight.
        """
        generations = self._generations
        return rows(generations.present, generations.earlier, self._clock) if generations is not None else []

    def reopen_logs(self) -> None:
        """Open the access log's file anew: somebody has moved it."""
        if self._sink is not None:
            self._sink.reopen()

    # Start

    async def start_pipeline(self) -> Proxy:
        """Bring everything up but the listeners. Raises StartError."""
        try:
            built, problems, _ = await build_beside(
                self._data or self.config, self._base_dir, self._clock, self._timers, self.services.for_configuration
            )
            if built is None:
                raise StartError.of(problems)
            self._generations = Generations(built)
            await built.start()
        except BaseException:
            await self.stop_pipeline()
            raise
        built.source.keep()
        try:
            self._sink = open_sink(self.config.access_log)
        except OSError as error:
            await self.stop_pipeline()
            raise StartError(str(error)) from error
        self._tracing.use(self.config)
        proxy = self._proxy = Proxy(built.snapshot, self._clock, self._recorder(self.config), self._tracing.tracer)
        self.services.links.snapshot = lambda: proxy.snapshot
        self._discovered.apply(built)
        if self._tracking is not None:
            self._tracking.update(self.config)
            await self._tracking.discovery.answered(_FIRST_ANSWER)
        return proxy

    async def stop_pipeline(self) -> None:
        """End what `start_pipeline` began."""
        if self._tracking is not None:
            self._tracking.stop()
        if self._generations is not None:
            prepared = [self.discard(self._prepared)] if self._prepared is not None else []
            await asyncio.gather(*prepared, self._generations.stop())
            self._generations = None
        await self.services.close()
        await self._tracing.close()
        self._timers.close()
        if self._sink is not None:
            self._sink.close()
            self._dropped += self._sink.dropped
            self._sink = None

    def _recorder(self, config: GatewayConfig) -> Any:
        access_log = make_access_log(config, self._sink, self._clock)
        return make_recorder(self._counters, access_log, self._tracing.tracer)

    async def start(self, sockets: Sequence[Sequence[socket.socket]] | None = None) -> None:
        """Bring everything up and listen: on `sockets`, which listen already, for each listener its own, and belong to
        the gateway from now on; or on its own. Raises StartError; nothing is left running then.
        """
        self._opens = sockets is None
        given = dict(enumerate(sockets or ()))
        try:
            proxy = await self.start_pipeline()
            plans = await self._listeners.plan(self.config, self._opens)
        except BaseException:
            for sock in (sock for each in given.values() for sock in each):
                sock.close()
            await self.stop(grace=0)
            raise
        await self._listeners.carry_out(self.config, plans, proxy, given)

    # Another configuration

    async def prepare(self, data: Mapping[str, Any], base_dir: Path) -> tuple[Prepared | None, list[Problem]]:
        """Build the configuration that `data` holds beside the present one, and start what is new in it.

        Nothing of the present one changes. Returns None, and all that is wrong with it, when it is no good. Raises
        StartError, with everything undone.
        """
        async with self._preparing:
            assert self._generations is not None, "the gateway has been started"
            assert self._prepared is None, "what was prepared before is committed or discarded"
            generations, running = self._generations, self._generations.present
            built, problems, self.tried = await build_beside(
                data, base_dir, self._clock, self._timers, self.services.for_configuration, running
            )
            if built is None:
                return None, problems
            config: GatewayConfig = built.snapshot.config
            plans: list[Plan] = []
            sink: LineSink | None = None
            try:
                if self._listeners.present:
                    plans = await self._listeners.plan(config, self._opens)
                if config.access_log != self.config.access_log:
                    sink = open_sink(config.access_log)
                await built.start()
            except BaseException as error:
                undone = self._undo(generations, Prepared(config, base_dir, built, plans, sink))
                if not isinstance(error, asyncio.CancelledError):  # else the gateway ends, and waits for this by itself
                    await asyncio.wait((undone,))
                if isinstance(error, OSError):
                    raise StartError(str(error)) from error
                raise
            self._prepared = Prepared(config, base_dir, built, plans, sink)
            return self._prepared, []

    async def commit(self, prepared: Prepared, sockets: Mapping[int, Sequence[socket.socket]] | None = None) -> None:
        """Go over to what was prepared: at once for every request that begins from now on, while those under way finish
        on what they began with.

        `sockets` are further ones that listen, by listener: those of new listeners, unless the gateway opens its own.
        """
        assert prepared is self._prepared, "this is what was prepared last"
        assert self._proxy is not None
        assert self._generations is not None
        self._prepared = None
        # Up to the next `await` nothing else runs: nobody sees a half of it.
        config, before = prepared.config, self._sink
        self._discovered.apply(prepared.built)
        self._states.apply(prepared.built)
        self._generations.replace(prepared.built)
        self._proxy.adopt(prepared.built.snapshot)
        log_changed = config.access_log != self.config.access_log
        if log_changed:
            self._sink = prepared.sink
        if self._tracing.use(config) or log_changed or config.debug != self.config.debug:
            self._proxy.telemetry, self._proxy.tracer = self._recorder(config), self._tracing.tracer
        self.config, self._base_dir = config, prepared.base_dir
        self._listeners.change(config)
        if self._tracking is not None:
            self._tracking.update(config)
        prepared.built.source.keep()
        if prepared.plans:
            await self._listeners.carry_out(config, prepared.plans, self._proxy, sockets or {})
        if log_changed and before is not None:
            background(self._close_log(before))

    async def _close_log(self, sink: LineSink) -> None:
        sink.flush()
        await asyncio.to_thread(sink.close)  # which waits for its thread
        self._dropped += sink.dropped

    async def discard(self, prepared: Prepared) -> None:
        """Throw away what was prepared."""
        if self._prepared is prepared:
            self._prepared = None
        if self._generations is not None:
            await asyncio.wait((self._undo(self._generations, prepared),))

    def _undo(self, generations: Generations, prepared: Prepared) -> asyncio.Task[None]:
        """Begin to take back what was prepared; return what is done when it has ended."""
        for plan in prepared.plans:
            plan.discard()
        if prepared.sink is not None:
            background(asyncio.to_thread(prepared.sink.close))
        ending = generations.end(prepared.built)
        ending.add_done_callback(lambda _: prepared.built.source.undo())
        return ending

    async def serve(self, sockets: Mapping[int, Sequence[socket.socket]]) -> None:
        """Serve further sockets, by listener, that listen and belong to the gateway from now on."""
        await self._listeners.serve(sockets)

    # The end

    async def stop(self, grace: float = 30.0) -> None:
        """Drain for `grace` seconds, and end."""
        await self.drain(grace)
        await self.end()

    async def drain(self, grace: float) -> None:
        """Accept no more, and give what is under way `grace` seconds; `end` is for what is left. Whoever cancels this
        may do it again, with another grace.
        """
        self._listeners.close()
        if not await within(grace, self._at_rest) and self.connections:
            _log.warning("%d connections were still busy after %g s", self.connections, grace)

    async def _at_rest(self) -> None:
        await self._listeners.emptied()
        if self._generations is not None:
            await self._generations.quiet()

    async def end(self) -> None:
        """End what is under way: requests without an answer get 503 `draining`, answers that have begun are broken off.
        Then end the rest. It is not to be cancelled; each part has a bound, and none is longer than `STOP_SECONDS`.
        """
        over = GatewayError(Reason.DRAINING, "The gateway is shutting down")
        self._listeners.break_off(over)
        await within(_LAST_WORDS, self._listeners.emptied)
        if self._proxy is not None:
            self._proxy.over = over
        self._listeners.abort()
        for _ in range(_LAST_TURNS):  # the exchanges that were broken off come to their end and are logged
            await asyncio.sleep(0)
            if not self.in_flight:
                break
        await self.stop_pipeline()


__all__ = ["ConfigurationError", "Gateway", "Prepared", "StartError"]
