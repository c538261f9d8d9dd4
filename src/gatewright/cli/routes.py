"""`gatewright routes`: what is matched, and what happens to it. `cli.main` calls it with a checked configuration."""

import json
from dataclasses import asdict

from gatewright.cli.tables import Cells, print_table
from gatewright.control.listing import Row, rows
from gatewright.control.models import GatewayConfig


def print_routes(config: GatewayConfig, as_json: bool) -> None:
    """Print the routes: a table that fits the terminal; a line a route where there is none; or JSON."""
    if as_json:
        print(json.dumps([asdict(row) for row in rows(config)], indent=2))
        return
    cells = [_cells(row) for row in rows(config)]
    print_table(cells, _titles(cells))


def _cells(row: Row) -> Cells:
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


def _titles(cells: list[Cells]) -> list[str]:
    """Return the columns in which any route says something; these three always stand."""
    titles = list(_cells(Row("", [], [], "", [], 0, "", None, [])))
    return [title for title in titles if title in ("ROUTE", "PATH", "TO") or any(line[title] for line in cells)]
