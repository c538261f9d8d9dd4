"""A checked configuration to the objects that exchanges run on. Builds, and starts nothing: `start` does that."""

import logging
import math
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from gatewright.control.balance_models import HashBalance, StickyBalance
from gatewright.control.conflicts import rule_of
from gatewright.control.health import HealthProbe
from gatewright.control.models import GatewayConfig
from gatewright.control.plugin_models import PluginRef
from gatewright.control.rewriting import compile_location, compile_rewrite
from gatewright.control.route_models import RedirectConfig, RespondConfig, RouteConfig
from gatewright.control.service_models import ServiceConfig
from gatewright.core.clock import Clock, SystemClock
from gatewright.core.exchange import Exchange
from gatewright.core.messages import Response
from gatewright.net.connect import connect
from gatewright.net.timers import Timers
from gatewright.net.tls import TargetTls, client_context, server_context
from gatewright.plugins import registry
from gatewright.plugins.base import AnyPlugin
from gatewright.plugins.chain import compile_chain
from gatewright.proxy.route import Route, Snapshot, Split
from gatewright.routing.table import Table
from gatewright.upstream.asgi_target import AsgiPool
from gatewright.upstream.balancers import Balancer, make_balancer
from gatewright.upstream.breaker import Breaker
from gatewright.upstream.outlier import Outlier
from gatewright.upstream.pool import Opener, Pool, PoolLimits
from gatewright.upstream.retry import RetryPolicy
from gatewright.upstream.service import Service, Timeouts
from gatewright.upstream.target import Target

_log = logging.getLogger("gatewright.control")


class SnapshotError(Exception):
    """A configuration that was found valid cannot be brought to life; the message says what stands in the way."""


@dataclass(slots=True)
class Built:
    """A snapshot and what lives with it."""

    snapshot: Snapshot
    probes: list[HealthProbe] = field(default_factory=list)
    apps: list[AsgiPool] = field(default_factory=list)
    pools: list[Pool] = field(default_factory=list)
    plugins: list[AnyPlugin] = field(default_factory=list)

    async def start(self) -> None:
        """Start applications, plugins and probes. Raises what they raise; `stop` ends those that were started."""
        for app in self.apps:
            await app.start()
        for plugin in self.plugins:
            await plugin.start()
        for probe in self.probes:
            probe.start()

    async def stop(self) -> None:
        """End all of it; what fails to end is logged."""
        for probe in self.probes:
            probe.stop()
        for pool in self.pools:
            pool.close()
        for name, stop in [(plugin.name, plugin.stop) for plugin in self.plugins] + [
            ("the in-process application", app.stop) for app in self.apps
        ]:
            try:
                await stop()
            except Exception:
                _log.exception("%s did not stop cleanly", name)


def build(config: GatewayConfig, base_dir: Path, clock: Clock, timers: Timers) -> Built:
    """Compile `config`. Raises SnapshotError for what only shows when it is tried: certificates, imports."""
    return _Builder(config, base_dir, clock, timers).build()


class _Builder:
    def __init__(self, config: GatewayConfig, base_dir: Path, clock: Clock, timers: Timers) -> None:
        self._config = config
        self._base_dir = base_dir
        self._clock = clock
        self._timers = timers
        self._classes: dict[str, type[AnyPlugin]] = {}
        self._probes: list[HealthProbe] = []
        self._apps: list[AsgiPool] = []
        self._pools: list[Pool] = []
        self._instances: dict[int, AnyPlugin] = {}  # by list entry: a global plugin is one object for all routes

    def build(self) -> Built:
        config = self._config
        services = {name: self._service(name, service) for name, service in config.services.items()}
        rules = [rule_of(route, self._route(route, services)) for route in config.routes]
        everywhere = compile_chain(self._plugins((config.plugins,)))
        snapshot = Snapshot(
            table=Table(rules), unrouted=Route(None, everywhere.for_refusals()), services=services, config=config
        )
        return Built(snapshot, self._probes, self._apps, self._pools, list(self._instances.values()))

    # Services

    def _service(self, name: str, config: ServiceConfig) -> Service:
        tls = self._tls(name, config)
        targets: list[Target] = []
        if config.app is not None:
            targets.append(self._app_target(name, config.app))
        for target_config in config.targets or ():
            target = Target.from_url(target_config.url, target_config.weight)
            open_connection = self._opener(target, tls, config.tls.server_name)
            pool = target.pool = Pool(open_connection, self._clock, self._timers, _pool_limits(config))
            self._pools.append(pool)
            targets.append(target)
        outlier = config.outlier
        retry = config.retry
        service = Service(
            name,
            targets,
            _balancer(config),
            timeouts=Timeouts(
                config.timeouts.connect,
                config.timeouts.response or math.inf,
                config.timeouts.idle or math.inf,
                config.timeouts.total or math.inf,
                config.timeouts.tunnel or math.inf,
            ),
            retry=RetryPolicy(
                retry.attempts, [str(token) for token in retry.on], retry.budget, retry.backoff.base, retry.backoff.max
            ),
            outlier=Outlier(outlier.consecutive, outlier.eject, outlier.max_ejected) if outlier else None,
            max_in_flight=config.max_in_flight,
            host=config.host,
        )
        for target in targets:
            if config.breaker is not None:
                breaker = config.breaker
                target.breaker = Breaker(breaker.failure_rate, breaker.minimum, breaker.window, breaker.open)
            if config.health is not None:
                open_connection = self._opener(target, tls, config.tls.server_name)
                host = service.host_for(target, b"").decode("latin-1")
                self._probes.append(HealthProbe(name, target, open_connection, config.health, host))
        return service

    def _tls(self, name: str, config: ServiceConfig) -> ssl.SSLContext | None:
        if not any(target.scheme == "https" for target in config.targets or ()):
            return None
        tls = config.tls
        try:
            return client_context(
                TargetTls(tls.verify, _text(tls.ca), _text(tls.cert), _text(tls.key), tls.server_name)
            )
        except OSError as error:  # ssl.SSLError is one
            raise SnapshotError(f"services.{name}.tls: {error}") from error

    def _opener(self, target: Target, tls: ssl.SSLContext | None, server_name: str | None) -> Opener:
        context = tls if target.scheme == "https" else None
        return lambda owner: connect(
            owner, self._clock, self._timers, target.host, target.port, context, server_name or target.host
        )

    def _app_target(self, name: str, path: str) -> Target:
        try:
            app = registry.load_object(path, self._base_dir)
        except registry.PluginLoadError as error:
            raise SnapshotError(f"services.{name}.app: {error}") from error
        target = Target(path, "http", path, 0)
        target.name = path
        target.pool = AsgiPool(app)
        self._apps.append(target.pool)
        return target

    # Routes

    def _route(self, config: RouteConfig, services: dict[str, Service]) -> Route:
        limits = config.limits
        body_limit = self._config.limits.body if limits is None else limits.body
        if config.split is not None:
            sides = [(self._to(config, services[entry.service], body_limit), entry.weight) for entry in config.split]
            chosen = [(route, weight) for route, weight in sides if weight]
            bounds = tuple(accumulate(weight for _, weight in chosen))
            return Route(config.name, chosen[0][0].chain, split=Split(tuple(route for route, _ in chosen), bounds))
        if config.service is not None:
            return self._to(config, services[config.service], body_limit)
        chain = compile_chain(self._plugins((self._config.plugins, config.plugins)))
        answer = _redirect(config.redirect) if config.redirect is not None else _respond(config.respond)
        return Route(config.name, chain, answer=answer, body_limit=body_limit)

    def _to(self, config: RouteConfig, service: Service, body_limit: int) -> Route:
        lists = (self._config.plugins, self._config.services[service.name].plugins, config.plugins)
        chain = compile_chain(self._plugins(lists))
        return Route(config.name, chain, service=service, rewrite=compile_rewrite(config), body_limit=body_limit)

    def _plugins(self, lists: Sequence[Sequence[PluginRef]]) -> list[AnyPlugin]:
        """Return the plugins of all `lists` in run order: one that is named again, nearer to the route, takes the place
        of the farther one."""
        order: dict[str, PluginRef] = {}
        for references in lists:
            seen: dict[str, int] = {}
            for reference in references:
                count = seen[reference.label] = seen.get(reference.label, 0) + 1
                order[f"{reference.label}#{count}"] = reference
        return [self._instance(reference) for reference in order.values()]

    def _instance(self, reference: PluginRef) -> AnyPlugin:
        known = self._instances.get(id(reference))
        if known is None:
            label = reference.label
            try:
                cls = self._classes.get(label)
                if cls is None:
                    cls = self._classes[label] = registry.resolve(reference.name, reference.use, self._base_dir)
                known = cls(cls.config_model.model_validate(dict(reference.config)))
            except Exception as error:  # the code is the user's
                raise SnapshotError(f"plugin {label}: {error}") from error
            self._instances[id(reference)] = known
        return known


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _pool_limits(config: ServiceConfig) -> PoolLimits:
    pool = config.pool
    return PoolLimits(pool.max_connections, pool.max_idle, pool.idle_timeout, pool.max_age)


def _balancer(config: ServiceConfig) -> Balancer:
    balance = config.balance
    if isinstance(balance, HashBalance):
        return make_balancer("hash", by=balance.hash.by)
    if isinstance(balance, StickyBalance):
        return make_balancer("sticky", cookie=balance.sticky.cookie, ttl=balance.sticky.ttl)
    return make_balancer(balance)


def _redirect(config: RedirectConfig) -> Callable[[Exchange], Response]:
    location = compile_location(config.to)
    return lambda exchange: Response(config.status, {"location": location(exchange.params)})


def _respond(config: RespondConfig | None) -> Callable[[Exchange], Response]:
    assert config is not None, "the configuration gives a route exactly one action"
    headers = {**config.headers}
    if config.body:
        headers["content-type"] = config.content_type
    return lambda exchange: Response(config.status, headers, config.body)


def try_build(config: GatewayConfig, base_dir: Path) -> None:
    """Build `config` and throw it away. Raises SnapshotError as `build` does, and for a listener's certificate."""
    for index, listener in enumerate(config.listeners):
        if listener.tls is not None:
            try:
                server_context(str(listener.tls.cert), str(listener.tls.key))
            except OSError as error:  # ssl.SSLError is one
                raise SnapshotError(f"listeners[{index}].tls: {error}") from error
    clock = SystemClock()
    build(config, base_dir, clock, Timers(clock))
