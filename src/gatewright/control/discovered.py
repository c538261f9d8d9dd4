"""What discovery has found, brought to the services that exchanges run on, and held over reloads.

The data plane's side: it is told instances, and turns them into targets. Targets that stay keep everything
(connections, breaker, what is under way); those that are gone get nothing new and finish what they have. The gateway
calls it.
"""

from collections.abc import Sequence

from gatewright.control.discovery.wanted import Found, Instance, configured, identity, wanted
from gatewright.control.generation import Built
from gatewright.control.models import GatewayConfig
from gatewright.control.services import BuiltService


class DiscoveredTargets:
    """The last word of discovery on each service."""

    def __init__(self) -> None:
        self._found: dict[str, Found] = {}

    def set(self, found: Found) -> None:
        """Note what was found; `apply` brings it to a service."""
        self._found[found.service] = found

    def apply(self, built: Built) -> None:
        """Bring every service to what was found for it; forget services that are gone."""
        services = built.snapshot.config.services
        self._found = {name: found for name, found in self._found.items() if name in services}
        for name in services:
            self.apply_to(built, name)

    def apply_to(self, built: Built, service: str) -> None:
        """Bring one service to what was found for it, if its configuration asks for that."""
        one = built.services.get(service)
        instances = self._instances(built.snapshot.config, service)
        if one is not None and instances is not None:
            _replace(one, instances)

    def _instances(self, config: GatewayConfig, service: str) -> Sequence[Instance] | None:
        """Return a service's instances; None where discovery has no say in them."""
        section = config.services.get(service)
        if section is None or section.discover is None:
            return None
        terms, found = wanted(config, section), self._found.get(service)
        if terms is not None and found is not None and found.identity == identity(terms):
            return found.instances
        return configured(section)


def _replace(built: BuiltService, instances: Sequence[Instance]) -> None:
    service = built.service
    known = {target.url: target for target in service.targets}
    targets = []
    for instance in instances:
        target = known.get(instance.url) or built.make_target(instance.url, instance.weight)
        target.weight = instance.weight
        targets.append(target)
    gone = set(service.targets).difference(targets)
    service.targets = targets
    for target in gone:
        target.pool.retire()
