"""Routes to the routing package's rules, and what it says of rules that cannot both be meant.

It owns the translation only: the snapshot compiles its table from `rule_of`, the loader asks
`check_conflicts`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from gatewright.control.errors import At, Problem
from gatewright.control.fields import path_pattern, quiet_regex
from gatewright.control.route_models import RouteConfig
from gatewright.routing import predicates
from gatewright.routing.conflicts import conflicts
from gatewright.routing.table import Rule

T = TypeVar("T")


def rule_of(route: RouteConfig, value: T) -> Rule[T]:
    """Return the rule by which the routing table matches `route`; `value` is what the table gives back."""
    match = route.match
    with quiet_regex():
        return Rule(
            name=route.name,
            pattern=path_pattern(match.path),
            value=value,
            methods=frozenset(match.methods),
            hosts=tuple(dict.fromkeys(match.host)),
            headers=tuple(predicates.header(name, expected) for name, expected in match.headers.items()),
            query=tuple(predicates.query(name, expected) for name, expected in match.query.items()),
            priority=route.priority,
        )


def check_conflicts(routes: Iterable[tuple[int, RouteConfig]]) -> Iterator[Problem]:
    """Yield what the routing package refuses in `routes`, each with its index in the file."""
    by_name: dict[str, tuple[int, Rule[None]]] = {}
    for index, route in routes:
        by_name.setdefault(route.name, (index, rule_of(route, None)))
    for conflict in conflicts(rule for _, rule in by_name.values()):
        yield Problem(("routes", by_name[conflict.rule][0], "match"), conflict.message, at=At.KEY, wide=True)


def valid_routes(data: Mapping[str, Any]) -> Iterator[tuple[int, RouteConfig]]:
    """Yield the routes of `data` that are well-formed by themselves, whatever is wrong with the rest, with
    their indexes.
    """
    routes = data.get("routes")
    for index, route in enumerate(routes if isinstance(routes, list) else ()):
        try:
            yield index, RouteConfig.model_validate(route)
        except ValidationError:
            continue
