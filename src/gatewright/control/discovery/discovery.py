"""The discovery of a configuration: a watch for each service that asks for one, kept over reloads that do not touch it.

It tells whoever owns the targets; it owns none. The supervisor holds one for all workers, or a gateway by itself.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gatewright.control.discovery.consul import ConsulSource
from gatewright.control.discovery.memory import Memory
from gatewright.control.discovery.wanted import Found, Instance, Wanted, wanted
from gatewright.control.discovery.watch import Source, Watch
from gatewright.control.discovery_models import ConsulDiscovery
from gatewright.control.models import GatewayConfig
from gatewright.core.clock import Clock
from gatewright.core.tasks import spawn
from gatewright.net.timers import Timers

READY_SECONDS = 30.0  # after which readiness waits for no first answer any more


@dataclass(frozen=True, slots=True)
class Account:
    """How the discovery of a service fares. `age`: seconds since the last good answer, None before the first."""

    service: str
    kind: str  # consul or dns
    age: float | None
    errors: int
    error: str | None


class Discovery:
    """Finds instances, and keeps account of what was found."""

    def __init__(self, found: Callable[[Found], None], clock: Clock) -> None:
        """`found` is told of each change."""
        self._found = found
        self._clock = clock
        self._timers = Timers(clock)
        self._watches: dict[str, Watch] = {}
        self._waited_for: dict[str, Watch] = {}  # nothing serves these before their first answer

    def update(self, config: GatewayConfig) -> None:
        """Look for the instances of `config` from now on. Called on the event loop."""
        before, self._watches = self._watches, {}
        self._waited_for = {}
        memory = Memory(config.discovery.folder, self._clock)
        for service, section in config.services.items():
            terms = wanted(config, section)
            if terms is None:
                continue
            watch = before.get(service)
            if watch is not None and watch.wanted == terms:
                del before[service]
            else:
                watch = self._begin(service, terms, memory, watch)
            self._watches[service] = watch
            if not section.targets:
                self._waited_for[service] = watch
        for watch in before.values():
            watch.stop()

    def _begin(self, service: str, terms: Wanted, memory: Memory, former: Watch | None) -> Watch:
        watch = Watch(service, terms, self._source(service, terms), memory, self._clock, self._changed)
        if former is not None and former.identity == watch.identity:
            watch.known = watch.known if former.known is None else former.known
            watch.errors = former.errors
        if watch.known is not None:
            self._changed(watch)
        watch.start()
        return watch

    def _source(self, service: str, terms: Wanted) -> Source:
        if isinstance(terms, ConsulDiscovery):
            return ConsulSource(service, terms, self._clock, self._timers)
        from gatewright.control.discovery.dns_records import DnsSource  # dnspython takes 70 ms, and few need it

        return DnsSource(terms, self._clock)

    def _changed(self, watch: Watch) -> None:
        if watch.known is not None:
            self._found(Found(watch.service, watch.identity, watch.known))

    # What is known

    def known(self, service: str) -> tuple[Instance, ...] | None:
        """Return a service's instances; None when nothing is known of them."""
        watch = self._watches.get(service)
        return watch.known if watch is not None else None

    def waiting(self) -> list[str]:
        """Return the services that wait for their first answer, and not yet for long."""
        soonest = self._clock.now() - READY_SECONDS
        waited_for = self._waited_for.items()
        return [name for name, watch in waited_for if watch.known is None and watch.started_at > soonest]

    async def answered(self, seconds: float) -> None:
        """Return when nothing waits for a first answer, after `seconds` at the latest."""
        waits = [spawn(self._waited_for[name].answered.wait()) for name in self.waiting()]
        if waits:
            await asyncio.wait(waits, timeout=seconds)
            for task in waits:
                task.cancel()

    def accounts(self) -> list[Account]:
        """Return how each service's discovery fares."""
        now = self._clock.now()
        return [
            Account(
                watch.service,
                "consul" if isinstance(watch.wanted, ConsulDiscovery) else "dns",
                None if watch.answered_at is None else now - watch.answered_at,
                watch.errors,
                watch.error,
            )
            for watch in self._watches.values()
        ]

    def stop(self) -> None:
        """Look for nothing any more."""
        for watch in self._watches.values():
            watch.stop()
        self._watches = {}
        self._waited_for = {}
        self._timers.close()
