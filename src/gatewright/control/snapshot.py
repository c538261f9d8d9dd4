"""A checked configuration to the objects that exchanges run on. Builds, and starts nothing: `generation` does that.

Building may run in a thread beside the traffic: it changes nothing that is in use. `previous` is what runs now;
services that did not change are taken over from it.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

from gatewright.control.conflicts import rule_of
from gatewright.control.errors import KeyPath, path_text
from gatewright.control.generation import Built
from gatewright.control.health_answer import health_answer
from gatewright.control.models import GatewayConfig
from gatewright.control.plugin_models import PluginRef
from gatewright.control.rewriting import compile_location, compile_rewrite
from gatewright.control.route_models import RedirectConfig, RespondConfig, RouteConfig
from gatewright.control.services import ServiceBuilder, SnapshotError
from gatewright.core.clock import Clock, SystemClock
from gatewright.core.exchange import Exchange
from gatewright.core.messages import Response
from gatewright.net.timers import Timers
from gatewright.net.tls import server_context
from gatewright.plugins.base import AnyPlugin
from gatewright.plugins.chain import Chain, compile_chain
from gatewright.plugins.registry import Source
from gatewright.plugins.services import GatewayServices
from gatewright.proxy.route import Generation, Route, Snapshot, Split
from gatewright.routing.table import Table
from gatewright.upstream.asgi_target import AsgiPools
from gatewright.upstream.service import Service

PluginList = tuple[KeyPath, Sequence[PluginRef]]


def build(
    config: GatewayConfig,
    base_dir: Path,
    clock: Clock,
    timers: Timers,
    source: Source,
    previous: Built | None = None,
    services: GatewayServices | None = None,
) -> Built:
    """Compile `config`, with users' code from `source`, which is open.

    Plugins are given `services`; without them they can be compiled but not started.

    Raises SnapshotError for what only shows when it is tried: certificates, imports.
    """
    return _Builder(config, base_dir, clock, timers, source, previous, services).build()


class _Builder:
    def __init__(
        self,
        config: GatewayConfig,
        base_dir: Path,
        clock: Clock,
        timers: Timers,
        source: Source,
        previous: Built | None,
        for_plugins: GatewayServices | None,
    ) -> None:
        self._config = config
        self._for_plugins = for_plugins
        self._base_dir = base_dir
        self._source = source
        self._previous = previous
        self._applications = previous.applications if previous is not None else AsgiPools()
        services = previous.services if previous is not None else {}
        self._services = ServiceBuilder(source, clock, timers, services, self._applications)
        self._generation = Generation()
        self._classes: dict[str, type[AnyPlugin]] = {}
        self._instances: dict[int, AnyPlugin] = {}  # by list entry: a global plugin is one object for all routes

    def build(self) -> Built:
        config = self._config
        services = {name: self._services.service(name, service) for name, service in config.services.items()}
        plain = {name: built.service for name, built in services.items()}
        rules = [rule_of(route, self._route(index, route, plain)) for index, route in enumerate(config.routes)]
        everywhere = self._chain((((), config.plugins),))
        unrouted = Route(None, everywhere.for_refusals(), generation=self._generation)
        snapshot = Snapshot(table=Table(rules), unrouted=unrouted, services=plain, config=config)
        return Built(snapshot, services, list(self._instances.values()), self._source, self._applications)

    def _route(self, index: int, config: RouteConfig, services: dict[str, Service]) -> Route:
        limits = config.limits
        body_limit = self._config.limits.body if limits is None else limits.body
        if config.split is not None:
            sides = [
                (self._to(index, config, services[entry.service], body_limit), entry.weight) for entry in config.split
            ]
            chosen = [(route, weight) for route, weight in sides if weight]
            bounds = tuple(accumulate(weight for _, weight in chosen))
            split = Split(tuple(route for route, _ in chosen), bounds)
            return Route(config.name, chosen[0][0].chain, split=split, generation=self._generation)
        if config.service is not None:
            return self._to(index, config, services[config.service], body_limit)
        chain = self._chain((((), self._config.plugins), (("routes", index), config.plugins)))
        answer = _answer(config, services)
        return Route(config.name, chain, answer=answer, body_limit=body_limit, generation=self._generation)

    def _to(self, index: int, config: RouteConfig, service: Service, body_limit: int) -> Route:
        chain = self._chain(
            (
                ((), self._config.plugins),
                (("services", service.name), self._config.services[service.name].plugins),
                (("routes", index), config.plugins),
            )
        )
        rewrite = compile_rewrite(config)
        return Route(
            config.name, chain, service=service, rewrite=rewrite, body_limit=body_limit, generation=self._generation
        )

    def _chain(self, lists: Sequence[PluginList]) -> Chain:
        """Compile the plugins of all `lists` in run order: one that is named again, nearer to the route, takes the
        place of the farther one."""
        order: dict[str, tuple[KeyPath, PluginRef, int]] = {}
        for owner, references in lists:
            seen: dict[str, int] = {}
            for index, reference in enumerate(references):
                count = seen[reference.label] = seen.get(reference.label, 0) + 1
                order[f"{reference.label}#{count}"] = ((*owner, "plugins", index), reference, count)
        plugins = [self._instance(*entry) for entry in order.values()]
        try:
            return compile_chain(plugins)
        except TypeError as error:  # an `async def` where only `def` can work
            raise SnapshotError(next(iter(order.values()))[0], str(error)) from error

    def _instance(self, path: KeyPath, reference: PluginRef, number: int) -> AnyPlugin:
        known = self._instances.get(id(reference))
        if known is None:
            label = reference.label
            try:
                cls = self._classes.get(label)
                if cls is None:
                    cls = self._classes[label] = self._source.resolve(reference.name, reference.use, self._base_dir)
                known = cls(cls.config_model.model_validate(dict(reference.config)))
                known.place = self._place(path, label, number)
                if self._for_plugins is not None:
                    known.gateway = self._for_plugins
            except BaseException as error:  # the code is the user's, SystemExit too
                raise SnapshotError(path, f"plugin {label}: {error}") from error
            self._instances[id(reference)] = known
        return known

    def _place(self, path: KeyPath, label: str, number: int) -> str:
        """Name the place of a plugin, the `number`th of its label in its list, in a way that outlives changes elsewhere
        in the file.
        """
        *owner, _, _index = path
        if owner and owner[0] == "routes":
            owner[1] = self._config.routes[int(owner[1])].name
        return f"{path_text(tuple(owner))} {label} {number}".strip()


def _answer(config: RouteConfig, services: dict[str, Service]) -> Callable[[Exchange], Response]:
    if config.redirect is not None:
        return _redirect(config.redirect)
    if config.health is not None:
        names = config.health.services or services
        return health_answer({name: services[name] for name in names})
    return _respond(config.respond)


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
                raise SnapshotError(("listeners", index, "tls"), str(error)) from error
    clock = SystemClock()
    with Source(base_dir) as source:
        build(config, base_dir, clock, Timers(clock), source)


__all__ = ["Built", "SnapshotError", "build", "try_build"]
