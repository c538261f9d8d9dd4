"""The health probes of a configuration: which targets are asked, kept over reloads where nothing about it changed.

One set of probes serves all workers: it knows targets by name only and tells whoever owns their objects. It needs no
code of users'; applications in this process are not asked. The supervisor holds one, or a gateway by itself.
"""

import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from gatewright.control.discovery.wanted import Instance, configured
from gatewright.control.health import HealthProbe
from gatewright.control.models import GatewayConfig
from gatewright.control.service_models import HealthConfig, ServiceConfig
from gatewright.control.services import digest_of, opener, target_context
from gatewright.core.clock import Clock
from gatewright.net.timers import Timers
from gatewright.upstream.service import own_host
from gatewright.upstream.target import Target

_log = logging.getLogger("gatewright.health")


@dataclass(frozen=True, slots=True)
class _Terms:
    """How a target is asked; another of these asks for another probe."""

    url: str
    host: str
    health: HealthConfig
    tls: object
    credentials: bytes


class Probes:
    """Asks every target whose service says how, and keeps account of what was found."""

    def __init__(self, changed: Callable[[str, str, bool], None], clock: Clock) -> None:
        """`changed` is told service, target and whether it is healthy now, whenever that changes."""
        self._changed = changed
        self._clock = clock
        self._timers = Timers(clock)
        self._probes: dict[tuple[str, str], tuple[_Terms, HealthProbe]] = {}

    def update(self, config: GatewayConfig, discovered: Mapping[str, Sequence[Instance]] | None = None) -> None:
        """Ask the targets of `config` from now on, with those that were `discovered` in place of the ones that are
        written down. Called on the event loop.

        A target that is asked in another way than before keeps its condition until that finds otherwise; one that is
        not asked any more counts as healthy.
        """
        before, self._probes = self._probes, {}
        for service, service_config in config.services.items():
            found = (discovered or {}).get(service)
            instances = configured(service_config) if found is None else found
            self._update_service(service, service_config, instances, before)
        for (service, name), (_, probe) in before.items():
            probe.stop()
            if not probe.healthy and (service, name) not in self._probes:
                self._changed(service, name, True)

    def _update_service(
        self,
        service: str,
        config: ServiceConfig,
        instances: Sequence[Instance],
        before: dict[tuple[str, str], tuple[_Terms, HealthProbe]],
    ) -> None:
        if config.health is None or not instances:
            return
        credentials = digest_of(config)
        context: ssl.SSLContext | None = None
        for instance in instances:
            target = Target.from_url(instance.url)
            key = (service, target.name)
            terms = _Terms(target.url, own_host(config.host, target), config.health, config.tls, credentials)
            known = before.get(key)
            if key in self._probes:  # the same address twice: one probe speaks for both
                continue
            if known is not None and known[0] == terms:
                self._probes[key] = before.pop(key)
                continue
            try:
                context = context or target_context(config)
            except OSError as error:  # ssl.SSLError is one
                _log.error("service %s: its targets are not checked: its TLS files are no good: %s", service, error)
                return
            probe = HealthProbe(
                service,
                target.name,
                opener(target, context, config.tls.server_name, self._clock, self._timers),
                config.health,
                terms.host,
                partial(self._changed, service, target.name),
            )
            if known is not None:
                probe.healthy = known[1].healthy
            self._probes[key] = (terms, probe)
            probe.start()

    def states(self) -> dict[tuple[str, str], bool]:
        """Return whether each target that is asked is healthy, by service and target."""
        return {key: probe.healthy for key, (_, probe) in self._probes.items()}

    def stop(self) -> None:
        """Ask no more."""
        for _, probe in self._probes.values():
            probe.stop()
        self._probes = {}
        self._timers.close()
