"""What one section of a configuration says about another: services that are there, names, binds, parameters,
prefixes.

It reads plain data, not models, so that these errors are found beside those of single values; what is not of
the shape that it should be is passed over, because the models report it. The loader calls `check_references`.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from pydantic_core import PydanticCustomError

from gatewright.control.discovery_models import DEFAULT_CONSUL
from gatewright.control.errors import At, KeyPath, Problem, closest
from gatewright.control.fields import Address, parse_bind, path_pattern, placeholders
from gatewright.control.process_models import DEFAULT_ADMIN
from gatewright.routing.pattern import Pattern


def check_references(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what does not fit together in `data`, a whole configuration."""
    yield from _check_binds(_list(data.get("listeners")), data.get("admin", {}))
    services = data.get("services")
    names = set(services) if isinstance(services, Mapping) else set()
    for name, service in services.items() if isinstance(services, Mapping) else ():
        yield from _check_weights(("services", name, "targets"), _mapping(service).get("targets"))
        yield from _check_discovery(("services", name), _mapping(service), _mapping(data.get("consul")))
    routes = _list(data.get("routes"))
    yield from _check_names(routes)
    for index, route in enumerate(routes):
        if isinstance(route, Mapping):
            yield from _check_route(("routes", index), route, names)


def _check_binds(listeners: list[Any], admin: Any) -> Iterator[Problem]:
    first: dict[Address, str] = {}
    if admin is not False:
        with suppress(PydanticCustomError):
            first[parse_bind(_mapping(admin).get("bind", DEFAULT_ADMIN))] = "the admin API (`admin.bind`)"
    for index, listener in enumerate(listeners):
        try:
            address = parse_bind(_mapping(listener).get("bind"))
        except PydanticCustomError:
            continue
        if address.port and address in first:
            yield Problem(("listeners", index, "bind"), f"{first[address]} binds to the same address", quote=True)
        first.setdefault(address, f"listeners[{index}]")


def _check_discovery(path: KeyPath, service: Mapping[str, Any], common: Mapping[str, Any]) -> Iterator[Problem]:
    """Refuse a service that is looked for in a Consul that is not there, and has nothing in its place."""
    consul = _mapping(service.get("discover")).get("consul")
    if not isinstance(consul, Mapping) or service.get("targets"):
        return
    if consul.get("address", common.get("address", DEFAULT_CONSUL)) == "":
        message = "there is no Consul agent to ask (its `address` is empty), and no `targets` are in its place"
        yield Problem((*path, "discover", "consul"), message, at=At.KEY)


def _check_weights(path: KeyPath, entries: Any) -> Iterator[Problem]:
    """Refuse a list of targets or of a split's sides of which none gets anything."""
    weights = [_mapping(entry).get("weight", 1) for entry in _list(entries)]
    if weights and all(type(weight) is int and weight == 0 for weight in weights):
        yield Problem(path, "every weight is 0, so nothing could be chosen", at=At.KEY)


def _check_names(routes: list[Any]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, route in enumerate(routes):
        name = _mapping(route).get("name")
        if not isinstance(name, str):
            continue
        if name in first:
            yield Problem(("routes", index, "name"), f"routes[{first[name]}] has the same name", quote=True)
        first.setdefault(name, index)


def _check_route(path: KeyPath, route: Mapping[str, Any], services: set[str]) -> Iterator[Problem]:
    if "service" in route:
        yield from _check_service((*path, "service"), route["service"], services)
    for index, entry in enumerate(_list(route.get("split"))):
        yield from _check_service((*path, "split", index, "service"), _mapping(entry).get("service"), services)
    for index, name in enumerate(_list(_mapping(route.get("health")).get("services"))):
        yield from _check_service((*path, "health", "services", index), name, services)
    yield from _check_weights((*path, "split"), route.get("split"))
    pattern = _pattern(route)
    if pattern is None:
        return
    yield from _check_template((*path, "rewrite"), route.get("rewrite"), pattern)
    yield from _check_template((*path, "redirect", "to"), _mapping(route.get("redirect")).get("to"), pattern)
    if "strip_prefix" in route:
        yield from _check_prefix((*path, "strip_prefix"), route["strip_prefix"], pattern)


def _check_service(path: KeyPath, name: Any, services: set[str]) -> Iterator[Problem]:
    if isinstance(name, str) and name not in services:
        known = "" if services else ": `services` is empty"
        yield Problem(path, f"there is no service of this name{known}", closest(name, services), quote=True)


def _pattern(route: Mapping[str, Any]) -> Pattern | None:
    """Return the route's path pattern, or None where the models report what is wrong with it."""
    match = route.get("match")
    text = match.get("path", "/*") if isinstance(match, Mapping) else None
    try:
        return path_pattern(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _check_template(path: KeyPath, template: Any, pattern: Pattern) -> Iterator[Problem]:
    if not isinstance(template, str):
        return
    try:
        names = placeholders(template)
    except PydanticCustomError:
        return
    for name in dict.fromkeys(names):
        if name not in pattern.names:
            known = ", ".join(sorted(pattern.names)) or "none"
            message = f"the path has no parameter {{{name}}}; its parameters: {known}"
            yield Problem(path, message, closest(name, pattern.names))


def _check_prefix(path: KeyPath, prefix: Any, pattern: Pattern) -> Iterator[Problem]:
    if pattern.regex is not None:
        yield Problem(
            path,
            "a regular expression has no prefix to strip: use `rewrite` with its named groups",
            at=At.KEY,
        )
        return
    literal = literal_prefix(pattern)
    if prefix is True and not literal:
        yield Problem(path, "the path begins with a parameter, so there is nothing to strip")
    elif isinstance(prefix, str) and prefix.startswith("/") and not f"{literal}/".startswith(prefix.rstrip("/") + "/"):
        yield Problem(path, f'the path does not begin with this (its fixed part is "{literal or "/"}")', quote=True)


def literal_prefix(pattern: Pattern) -> str:
    """Return what every path that `pattern` matches begins with, in whole segments and without a final slash.

    This is what `strip_prefix: true` strips.
    """
    if pattern.exact is not None:
        return pattern.exact.rstrip("/")
    fixed: list[str] = []
    for segment in pattern.segments:
        if segment is None:
            break
        fixed.append(segment)
    return "".join(f"/{segment}" for segment in fixed).rstrip("/")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
