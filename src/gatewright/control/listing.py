"""What there is to say of a configuration's routes at a glance: a row each.

The command `gatewright routes` prints it, the admin API serves it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gatewright.control.models import GatewayConfig
from gatewright.control.route_models import MatchConfig, RouteConfig

Show = Callable[[str, str], str]


@dataclass(frozen=True, slots=True)
class Row:
    """What is shown of one route. Its fields are the members of the JSON form."""

    name: str
    hosts: list[str]
    methods: list[str]
    path: str
    conditions: list[str]
    priority: int
    to: str
    rewrite: str | None
    plugins: list[str]


def _as_it_is(name: str, value: str) -> str:
    return value


def rows(config: GatewayConfig, show: Show = _as_it_is) -> list[Row]:
    """Return a row a route, in the order of the file.

    `show(name, value)` returns what is shown of the value that a header field or query parameter must have.
    """
    return [_row(config, route, show) for route in config.routes]


def services_of(route: RouteConfig) -> list[str]:
    """Return the names of the services that may answer what `route` matches."""
    return [route.service] if route.service is not None else [entry.service for entry in route.split or ()]


def _row(config: GatewayConfig, route: RouteConfig, show: Show) -> Row:
    services = [config.services[name].plugins for name in services_of(route)]
    lists = [config.plugins, *services, route.plugins]
    stripped = f"strip {'prefix' if route.strip_prefix is True else route.strip_prefix}" if route.strip_prefix else None
    return Row(
        name=route.name,
        hosts=list(route.match.host),
        methods=list(route.match.methods),
        path=route.match.path,
        conditions=_conditions(route.match, show),
        priority=route.priority,
        to=_action(route),
        rewrite=route.rewrite or stripped,
        plugins=list(dict.fromkeys(plugin.label for plugins in lists for plugin in plugins)),
    )


def _conditions(match: MatchConfig, show: Show) -> list[str]:
    headers = [f"{name}: {'*' if value is True else show(name, value)}" for name, value in match.headers.items()]
    return headers + [f"?{name}={'*' if value is True else show(name, value)}" for name, value in match.query.items()]


def _action(route: RouteConfig) -> str:
    if route.service is not None:
        return route.service
    if route.split is not None:
        return ", ".join(f"{entry.service} {entry.weight}" for entry in route.split)
    if route.redirect is not None:
        return f"redirect {route.redirect.status} {route.redirect.to}"
    return f"respond {route.respond.status}" if route.respond is not None else "health"
