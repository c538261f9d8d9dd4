"""What the API shows of a configuration: routes, services and plugins, made from the checked models.

Pure functions from a `Current` (and the targets' states) to view models. No code of plugins is run here but that of
the built-in ones: the process that this runs in has nothing of users' loaded.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from gatewright.admin.effective import effective
from gatewright.admin.masking import MASK, mask_text
from gatewright.admin.operations import Current, TargetView, View
from gatewright.control.errors import KeyPath, path_text
from gatewright.control.listing import Row, rows, services_of
from gatewright.control.plugin_models import PluginList
from gatewright.plugins import registry
from gatewright.telemetry.secrets import field_is_secret, parameter_is_secret


class RouteSummary(View):
    """A route at a glance."""

    name: str
    hosts: list[str] = Field(description="Empty: any")
    methods: list[str] = Field(description="Empty: any")
    path: str
    conditions: list[str] = Field(description="Header fields and ?query parameters that must be there")
    priority: int
    to: str = Field(description="What happens to what it matches")
    rewrite: str | None
    plugins: list[str] = Field(description="All that run for it: global ones, its service's, its own")


class RouteView(RouteSummary):
    """A route with all that the configuration says of it."""

    services: list[str]
    config: dict[str, Any] = Field(description="Its section, with defaults filled in and secrets hidden")


class ServiceSummary(View):
    """A service at a glance."""

    name: str
    kind: Literal["targets", "app"]
    targets: int = Field(description="Number of its targets")
    up: int = Field(description="Number of those whose state is up")
    in_flight: int


class ServiceView(View):
    """A service with all that the configuration says of it."""

    name: str
    kind: Literal["targets", "app"]
    targets: list[TargetView]
    routes: list[str] = Field(description="Names of the routes that lead to it")
    config: dict[str, Any] = Field(description="Its section, with defaults filled in and secrets hidden")


class PluginView(View):
    """A plugin that there is, or that the configuration names."""

    name: str = Field(description="Its name, or its import path")
    kind: Literal["built-in", "installed", "import"]
    description: str | None
    settings: dict[str, Any] | None = Field(description="JSON Schema of its settings; built-in plugins only")
    used: list[str] = Field(description="Key paths of where the configuration names it")


def route_summaries(current: Current) -> list[RouteSummary]:
    """Return the routes in the order of the configuration."""
    return [RouteSummary(**_shown(row, current)) for row in _rows(current)]


def route_view(current: Current, name: str) -> RouteView | None:
    """Return the route of this name."""
    for row, route in zip(_rows(current), current.config.routes, strict=True):
        if route.name == name:
            section = effective(route, current.secrets)
            return RouteView(**_shown(row, current), services=services_of(route), config=section)
    return None


def _rows(current: Current) -> list[Row]:
    def show(name: str, value: str) -> str:
        return MASK if field_is_secret(name) or parameter_is_secret(name) else mask_text(value, current.secrets)

    return rows(current.config, show)


def _shown(row: Row, current: Current) -> dict[str, Any]:
    hosts = [mask_text(host, current.secrets) for host in row.hosts]
    path, to, rewrite = (mask_text(text or "", current.secrets) for text in (row.path, row.to, row.rewrite))
    return asdict(row) | {"hosts": hosts, "path": path, "to": to, "rewrite": rewrite or None}


def service_summaries(current: Current, targets: list[TargetView]) -> list[ServiceSummary]:
    """Return the services in the order of the configuration."""
    found = []
    for name, service in current.config.services.items():
        own = [target for target in targets if target.service == name]
        found.append(
            ServiceSummary(
                name=name,
                kind="targets" if service.app is None else "app",
                targets=len(own),
                up=sum(target.state == "up" for target in own),
                in_flight=sum(target.in_flight for target in own),
            )
        )
    return found


def service_view(current: Current, targets: list[TargetView], name: str) -> ServiceView | None:
    """Return the service of this name."""
    service = current.config.services.get(name)
    if service is None:
        return None
    return ServiceView(
        name=name,
        kind="targets" if service.app is None else "app",
        targets=[target for target in targets if target.service == name],
        routes=[route.name for route in current.config.routes if name in services_of(route)],
        config=effective(service, current.secrets),
    )


def plugin_views(current: Current) -> list[PluginView]:
    """Return all plugins that lists may name, then those that are named by import path."""
    used: dict[str, list[str]] = {}
    imported: dict[str, list[str]] = {}
    for path, plugins in _lists(current):
        for index, reference in enumerate(plugins):
            place = path_text((*path, "plugins", index))
            (used if reference.use is None else imported).setdefault(reference.label, []).append(place)
    views = [_known(name, used.get(name, [])) for name in registry.known_names()]
    views += [
        PluginView(name=name, kind="import", description=None, settings=None, used=places)
        for name, places in sorted(imported.items())
    ]
    return views


def _known(name: str, used: list[str]) -> PluginView:
    if name not in registry.BUILT_IN:
        return PluginView(name=name, kind="installed", description=None, settings=None, used=used)
    model = registry.resolve(name, None, Path()).config_model
    description = (model.__doc__ or "").strip().partition("\n")[0] or None
    return PluginView(
        name=name, kind="built-in", description=description, settings=model.model_json_schema(), used=used
    )


def _lists(current: Current) -> Iterator[tuple[KeyPath, PluginList]]:
    config = current.config
    yield (), config.plugins
    for name, service in config.services.items():
        yield ("services", name), service.plugins
    for index, route in enumerate(config.routes):
        yield ("routes", index), route.plugins
