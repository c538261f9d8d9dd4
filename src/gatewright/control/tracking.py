"""Which targets there are, and which of them are well: discovery and health probes, kept in step.

It knows targets by service and name, and tells whoever owns their objects. The supervisor holds one for all workers, or
a gateway by itself.
"""

from collections.abc import Callable

from gatewright.control.discovery.discovery import Discovery
from gatewright.control.discovery.wanted import Found, Instance, configured
from gatewright.control.models import GatewayConfig
from gatewright.control.probing import Probes
from gatewright.core.clock import Clock
from gatewright.upstream.target import Target


class Tracking:
    """Follows the targets of a configuration."""

    def __init__(self, judged: Callable[[str, str, bool], None], found: Callable[[Found], None], clock: Clock) -> None:
        """`judged` is told service, target and whether it is healthy now, `found` a service's instances; each whenever
        that changes.
        """
        self.probes = Probes(judged, clock)
        self.discovery = Discovery(self._found, clock)
        self._tell = found
        self._config: GatewayConfig | None = None

    def update(self, config: GatewayConfig) -> None:
        """Follow the targets of `config` from now on. Called on the event loop."""
        self._config = None  # the probes are brought up to date once
        self.discovery.update(config)
        self._config = config
        self._probe(config)

    def _found(self, found: Found) -> None:
        self._tell(found)
        if self._config is not None:
            self._probe(self._config)

    def _probe(self, config: GatewayConfig) -> None:
        self.probes.update(config, {service: self.instances(config, service) for service in config.services})

    def instances(self, config: GatewayConfig, service: str) -> tuple[Instance, ...]:
        """Return a service's targets: those that were found, else those that are written down."""
        known = self.discovery.known(service)
        return configured(config.services[service]) if known is None else known

    def names(self, config: GatewayConfig) -> set[tuple[str, str]]:
        """Return service and name of every target."""
        return {
            (service, Target.from_url(instance.url).name)
            for service in config.services
            for instance in self.instances(config, service)
        }

    def stop(self) -> None:
        """Follow nothing any more."""
        self._config = None
        self.discovery.stop()
        self.probes.stop()
