"""What is known of targets beside the configuration: what probes found, what operators said. It survives reloads.

By service and target name, because a reload may make a target's object anew. The gateway writes it and applies it to
each new snapshot's targets; balancers read the targets.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gatewright.control.generation import Built
from gatewright.core.clock import Clock
from gatewright.upstream.target import Target


@dataclass(slots=True)
class _State:
    """What was said of a target; None: nothing."""

    healthy: bool | None = None
    draining: bool | None = None
    weight: int | None = None

    def apply(self, target: Target) -> None:
        if self.healthy is not None:
            target.healthy = self.healthy
        if self.draining is not None:
            target.draining = self.draining
        if self.weight is not None:
            target.weight = self.weight


class TargetStates:
    """The states that differ from the configured ones."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], _State] = {}

    def set(
        self,
        builds: Sequence[Built],
        service: str,
        name: str,
        *,
        healthy: bool | None,
        draining: bool | None,
        weight: int | None,
    ) -> None:
        """Note what is not None of a target and apply it to the first of `builds`, the present one. Of a name that is
        in none of them only what an operator says is noted: discovery may find it again.
        """
        if not any(built.targets(service, name) for built in builds):
            healthy = None
            if service not in builds[0].services or (draining is None and weight is None):
                return
        state = self._states.setdefault((service, name), _State())
        if healthy is not None:
            state.healthy = healthy
        if draining is not None:
            state.draining = draining
        if weight is not None:
            state.weight = weight
        for target in builds[0].targets(service, name):
            state.apply(target)

    def renew(self, built: Built, service: str) -> None:
        """Bring a service's targets to their states: some have become others."""
        for (name, target_name), state in self._states.items():
            if name == service:
                for target in built.targets(service, target_name):
                    state.apply(target)

    def apply(self, built: Built) -> None:
        """Bring the targets of a snapshot that goes into use to their states; forget those of targets that are gone,
        but what an operator has said only with their service: a target may come back.
        """
        for key, state in list(self._states.items()):
            targets = built.targets(*key)
            if not targets:
                state.healthy = None
                if key[0] not in built.services or (state.draining is None and state.weight is None):
                    del self._states[key]
            config = built.snapshot.config.services.get(key[0])
            if config is not None and config.health is None:
                state.healthy = None  # nobody asks it any more: it is taken for healthy
                for target in targets:
                    target.healthy = True
            for target in targets:
                state.apply(target)


def rows(present: Built, earlier: Sequence[Built], clock: Clock) -> list[dict[str, Any]]:
    """Return a row for each target of the present snapshot.

    `in_flight` also counts what is still under way to the same target from earlier snapshots.
    """
    now = clock.now()
    before: dict[tuple[str, str], list[Target]] = defaultdict(list)
    for other in earlier:
        for service, built in other.services.items():
            for target in built.service.targets:
                before[service, target.name].append(target)
    found = []
    for service, built in present.services.items():
        for target in built.service.targets:
            objects = {target, *before.get((service, target.name), ())}
            found.append(
                {
                    "service": service,
                    "target": target.name,
                    "url": target.url,
                    "weight": target.weight,
                    "healthy": target.healthy,
                    "draining": target.draining,
                    "ejected": target.ejected_until > now,
                    "breaker": target.breaker.state.value if target.breaker is not None else None,
                    "in_flight": sum(each.in_flight for each in objects),
                }
            )
    return found
