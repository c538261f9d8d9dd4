"""`gatewright routes`: what is matched, and what happens to it. `cli.main` calls it with a checked configuration."""

import json
import sys
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gatewright.control.models import GatewayConfig
from gatewright.control.route_models import MatchConfig, RouteConfig


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


def rows(config: GatewayConfig) -> list[Row]:
    """Return a row a route, in the order of the file."""
    return [_row(config, route) for route in config.routes]


def print_routes(config: GatewayConfig, as_json: bool) -> None:
    """Print the routes: a table that fits the terminal; a line a route where there is none; or JSON."""
    if as_json:
        print(json.dumps([asdict(row) for row in rows(config)], indent=2))
    elif sys.stdout.isatty():
        _print_table(rows(config))
    else:
        for line in _lines(rows(config)):
            print(line)


def _row(config: GatewayConfig, route: RouteConfig) -> Row:
    names = [route.service] if route.service is not None else [entry.service for entry in route.split or ()]
    lists = [config.plugins, *(config.services[name].plugins for name in names), route.plugins]
    stripped = f"strip {'prefix' if route.strip_prefix is True else route.strip_prefix}" if route.strip_prefix else None
    return Row(
        name=route.name,
        hosts=list(route.match.host),
        methods=list(route.match.methods),
        path=route.match.path,
        conditions=_conditions(route.match),
        priority=route.priority,
        to=_action(route),
        rewrite=route.rewrite or stripped,
        plugins=list(dict.fromkeys(plugin.label for plugins in lists for plugin in plugins)),
    )


def _conditions(match: MatchConfig) -> list[str]:
    headers = [f"{name}: {'*' if value is True else value}" for name, value in match.headers.items()]
    return headers + [f"?{name}={'*' if value is True else value}" for name, value in match.query.items()]


def _action(route: RouteConfig) -> str:
    if route.service is not None:
        return route.service
    if route.split is not None:
        return ", ".join(f"{entry.service} {entry.weight}" for entry in route.split)
    if route.redirect is not None:
        return f"redirect {route.redirect.status} {route.redirect.to}"
    return f"respond {route.respond.status}" if route.respond is not None else ""


def _cells(row: Row) -> dict[str, str]:
    """Return what stands under each title; empty where a route says nothing."""
    return {
        "ROUTE": row.name,
        "METHODS": ",".join(row.methods) or "any",
        "PATH": "".join(row.hosts[:1]) + row.path if len(row.hosts) < 2 else f"{{{','.join(row.hosts)}}}{row.path}",
        "CONDITIONS": ", ".join(row.conditions),
        "TO": row.to,
        "REWRITE": row.rewrite or "",
        "PLUGINS": ",".join(row.plugins),
    }


def _lines(table: list[Row]) -> list[str]:
    """Return a title and a line a route, columns aligned and nothing wrapped or cut: for pipes, files and `grep`."""
    cells = [_cells(row) for row in table]
    titles = _titles(cells)
    shown = [{title: title for title in titles}, *cells]
    widths = {title: max(len(line[title]) for line in shown) for title in titles}
    return ["  ".join((line[title] or "-").ljust(widths[title]) for title in titles).rstrip() for line in shown]


def _titles(cells: list[dict[str, str]]) -> list[str]:
    """Return the columns in which any route says something; these three always stand."""
    titles = list(_cells(Row("", [], [], "", [], 0, "", None, [])))
    return [title for title in titles if title in ("ROUTE", "PATH", "TO") or any(line[title] for line in cells)]


def _print_table(table: list[Row]) -> None:
    cells = [_cells(row) for row in table]
    titles = _titles(cells)
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in titles:
        shown.add_column(title, overflow="fold", no_wrap=title == "ROUTE")
    for line in cells:
        shown.add_row(*(Text(line[title] or "-") for title in titles))
    Console().print(shown)
