"""`gatewright routes`: what is matched, and what happens to it."""

import json

from rich.console import Console
from rich.table import Table

from gatewright.control.models import GatewayConfig
from gatewright.control.route_models import RouteConfig


def _action(route: RouteConfig) -> str:
    if route.service is not None:
        return route.service
    if route.split is not None:
        return ", ".join(f"{entry.service} {entry.weight}" for entry in route.split)
    if route.redirect is not None:
        return f"redirect {route.redirect.status} {route.redirect.to}"
    return f"respond {route.respond.status}" if route.respond is not None else ""


def _row(config: GatewayConfig, route: RouteConfig) -> dict[str, object]:
    service = config.services[route.service] if route.service is not None else None
    plugins = [*config.plugins, *(service.plugins if service is not None else ()), *route.plugins]
    match = route.match
    conditions = [f"{name}: {'*' if value is True else value}" for name, value in match.headers.items()]
    conditions += [f"?{name}={'*' if value is True else value}" for name, value in match.query.items()]
    return {
        "name": route.name,
        "hosts": list(match.host),
        "methods": list(match.methods),
        "path": match.path,
        "conditions": conditions,
        "priority": route.priority,
        "to": _action(route),
        "rewrite": route.rewrite or (f"strip {route.strip_prefix}" if route.strip_prefix else None),
        "plugins": list(dict.fromkeys(plugin.label for plugin in plugins)),
    }


def print_routes(config: GatewayConfig, as_json: bool) -> None:
    """Print a row a route, in the order of the file."""
    rows = [_row(config, route) for route in config.routes]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("ROUTE", "HOST", "METHODS", "PATH", "CONDITIONS", "TO", "REWRITE", "PLUGINS"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(
            str(row["name"]),
            *(" ".join(map(str, row[key])) or "*" for key in ("hosts", "methods") if isinstance(row[key], list)),
            str(row["path"]),
            *(" ".join(map(str, row[key])) or "-" for key in ("conditions",) if isinstance(row[key], list)),
            str(row["to"]),
            str(row["rewrite"] or "-"),
            *(" ".join(map(str, row[key])) or "-" for key in ("plugins",) if isinstance(row[key], list)),
        )
    Console(soft_wrap=True).print(table)
