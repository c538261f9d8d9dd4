"""What the admin API asks for, answered from the supervisor's parts. Implements `admin.operations.Operations`."""

import asyncio
import os
import platform
import time
from collections import Counter
from datetime import datetime
from typing import Any, Protocol

from gatewright.admin.operations import (
    Applied,
    BreakerView,
    ConfigView,
    Current,
    ErrorView,
    ListenerView,
    ReloadView,
    StatusView,
    TargetView,
    UnknownTarget,
    VersionMismatch,
    WorkerView,
)
from gatewright.control.errors import ConfigError
from gatewright.control.tracking import Tracking
from gatewright.plugins.cache.store import PURGES, PurgeKind
from gatewright.supervisor.configuration import Configurations, Outcome, Trigger, VersionChanged
from gatewright.supervisor.crew import Crew
from gatewright.supervisor.messages import RELEASE, Publish, Row
from gatewright.supervisor.process import State
from gatewright.telemetry.totals import Totals
from gatewright.upstream.target import Target


class Reloading(Protocol):
    """The supervisor, as far as operations need it."""

    crew: Crew
    configurations: Configurations
    totals: Totals
    tracking: Tracking
    started_at: datetime
    began: float

    @property
    def phase_name(self) -> str:
        """starting, ready or draining."""

    async def reload(
        self, trigger: Trigger, text: str | None = None, expected: str | None = None, save: bool = False
    ) -> Outcome:
        """Go over to another configuration, see `Configurations.reload`."""


class SupervisorOperations:
    """The gateway's operations."""

    def __init__(self, supervisor: Reloading) -> None:
        self._supervisor = supervisor
        self._crew = supervisor.crew
        self._configurations = supervisor.configurations

    async def status(self) -> StatusView:
        """Return the gateway's condition."""
        await self._crew.refresh()
        supervisor, configurations = self._supervisor, self._configurations
        workers = [
            WorkerView(
                index=worker.index,
                pid=worker.pid,
                state=worker.state.value if worker.state is not State.STOPPED else "draining",
                started_at=worker.started_at,
                restarts=self._crew.restarts_of(worker),
                connections=worker.report.connections if worker.report is not None else 0,
                in_flight=worker.report.in_flight if worker.report is not None else 0,
            )
            for worker in self._crew.workers
        ]
        last = configurations.last
        return StatusView(
            version=RELEASE,
            python=platform.python_version(),
            pid=os.getpid(),
            started_at=supervisor.started_at,
            uptime_seconds=time.monotonic() - supervisor.began,
            state=supervisor.phase_name,
            config=ConfigView(
                file=str(configurations.path),
                version=_tag(configurations.version),
                source=configurations.source,
                saved=configurations.saved,
            ),
            last_reload=_reload_view(last) if last is not None else None,
            listeners=[ListenerView(url=url, tls=url.startswith("https:")) for url in configurations.urls()],
            workers=workers,
            connections=sum(worker.connections for worker in workers),
            in_flight=sum(worker.in_flight for worker in workers),
            requests_total=supervisor.totals.exchanges,
        )

    async def current(self) -> Current:
        """Return the configuration that runs."""
        configurations = self._configurations
        return Current(configurations.config, _tag(configurations.version), configurations.secrets())

    async def targets(self) -> list[TargetView]:
        """Return every target, in the order of the configuration."""
        await self._crew.refresh()
        seen: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for worker in self._crew.workers:
            for state in (worker.report.targets if worker.report is not None else None) or ():
                seen.setdefault((state["service"], state["target"]), []).append(state)
        views = []
        config = self._configurations.config
        for name, service in config.services.items():
            instances = self._supervisor.tracking.instances(config, name)
            known = [(Target.from_url(each.url).name, each.url, each.weight) for each in instances]
            if service.app is not None:
                known.append((service.app, service.app, 1))
            views += [self._view(name, *target, seen.get((name, target[0]), [])) for target in known]
        return views

    def _view(self, service: str, name: str, url: str, weight: int, states: list[dict[str, Any]]) -> TargetView:
        set_here = self._crew.state_of(service, name)
        breakers = Counter(state["breaker"] for state in states if state["breaker"] is not None)
        return TargetView(
            service=service,
            name=name,
            url=url,
            weight=weight if set_here.weight is None else set_here.weight,
            configured_weight=weight,
            draining=bool(set_here.draining),
            healthy=set_here.healthy is not False,
            in_flight=sum(state["in_flight"] for state in states),
            breaker=BreakerView(**breakers),
            ejected=sum(bool(state["ejected"]) for state in states),
        )

    async def set_target(self, service: str, target: str, draining: bool | None, weight: int | None) -> TargetView:
        """Drain, enable or weight a target in every worker; None leaves as it is. Raises UnknownTarget."""
        config = self._configurations.config
        if service not in config.services:
            raise UnknownTarget(f"there is no service {service!r}")
        if (service, target) not in self._supervisor.tracking.names(config):
            raise UnknownTarget(f"service {service!r} has no target {target!r}")
        self._crew.set_target(Row(service, target, draining=draining, weight=weight))
        for view in await self.targets():
            if view.service == service and view.name == target:
                return view
        raise UnknownTarget(f"service {service!r} has no target {target!r} any more")

    async def purge(self, kind: PurgeKind, value: str) -> int:
        """Have the caches of every worker, and their Redis, forget what this names; return how many have done it."""
        self._crew.tell(Publish(PURGES, [kind, value]))
        return await self._crew.refresh()  # messages stay in order: who reports after this one has done it

    async def check(self, text: str) -> list[ConfigError]:
        """Return everything that is wrong with a configuration, and change nothing."""
        return await self._configurations.check(text)

    async def apply(self, text: str, expected: str | None, save: bool) -> Applied:
        """Put `text` in place of the configuration, in every worker or in none. Raises VersionMismatch."""
        try:
            wanted = expected.strip('"') if expected is not None else None
            return _applied(await self._supervisor.reload("api", text, wanted, save))
        except VersionChanged:
            raise VersionMismatch(_tag(self._configurations.version)) from None

    async def reload(self) -> Applied:
        """Read the file again and put it in place, in every worker or in none."""
        return _applied(await self._supervisor.reload("api"))

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their content type, in the form that the Accept field `accept` asks for."""
        # Here, because it takes 0.1 s, and not at the start.
        from gatewright.telemetry.exposition import AgeGauge, DiscoveryGauges, Gauges, TargetGauges, render

        views = await self.targets()
        workers = self._crew.workers
        now = time.monotonic()
        reports = [worker.report for worker in workers if worker.report is not None]
        configurations = self._configurations
        last = configurations.last_success
        gauges = Gauges(
            in_flight=sum(report.in_flight for report in reports),
            connections=sum(report.connections for report in reports),
            targets=[TargetGauges(view.service, view.name, view.healthy, _circuits(view)) for view in views],
            discoveries=[
                DiscoveryGauges(each.service, each.age, each.errors)
                for each in self._supervisor.tracking.discovery.accounts()
            ],
            workers=Counter(worker.state.value for worker in workers),
            worker_restarts=self._crew.restarts,
            reloads_succeeded=configurations.succeeded,
            reloads_failed=configurations.failed,
            last_success=last.timestamp() if last is not None else None,
            config_version=configurations.version,
            ages=[
                AgeGauge(name, dict(zip(pairs[::2], pairs[1::2], strict=True)), now - at)
                for report in reports
                for (name, *pairs), at in report.ages
            ],
            lag=max((report.lag for report in reports), default=0.0),
        )
        return await asyncio.to_thread(render, self._supervisor.totals.rows(), gauges, accept)

    async def ready(self) -> tuple[bool, list[str]]:
        """Tell whether new clients should be sent here, and if not, why."""
        reasons = []
        if self._supervisor.phase_name != "ready":
            reasons.append(f"the gateway is {self._supervisor.phase_name}")
        if not self._crew.ready:
            reasons.append("no worker serves")
        discovery = self._supervisor.tracking.discovery
        reasons += [f"service {name}: its instances are not known yet" for name in discovery.waiting()]
        return not reasons, reasons


def _circuits(view: TargetView) -> dict[str, int]:
    counts = view.breaker.model_dump()
    return counts if any(counts.values()) else {}


def _tag(version: str) -> str:
    return f'"{version}"'


def _applied(outcome: Outcome) -> Applied:
    return Applied(_tag(outcome.version), outcome.changed, outcome.errors)


def _reload_view(outcome: Outcome) -> ReloadView:
    return ReloadView(
        at=outcome.at,
        ok=not outcome.errors,
        trigger=outcome.trigger,
        version=_tag(outcome.version),
        errors=[ErrorView.of(error) for error in outcome.errors],
    )
