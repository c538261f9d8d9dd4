"""Rules that cannot both be meant: duplicates, and rules that never take a request because others always go
before.

It knows the order that `table` documents. Called by the configuration check, which refuses what it finds.
Every finding is certain; what depends on what an expression matches is found in plain cases only.
"""

import re
from collections.abc import Hashable, Iterable, Sequence
from enum import StrEnum
from itertools import groupby
from typing import Any, NamedTuple

from gatewright.routing.pattern import Pattern
from gatewright.routing.table import Rule, precedence

_ANY = ""  # stands for "any method" among methods
# What an expression begins with for certain, and whether its last character may be missing.
_LITERAL = re.compile(r"\^?((?:[\w/~!@%&=:,;'-]|\\[^\w\s])*)([?*{]?)")


class ConflictKind(StrEnum):
    """What is wrong with a rule."""

    DUPLICATE = "duplicate"
    UNREACHABLE = "unreachable"


class Conflict(NamedTuple):
    """`rule` is wrong because of `other`; both are names, `message` is a sentence for the user."""

    kind: ConflictKind
    rule: str
    other: str
    message: str


class _Placed(NamedTuple):
    position: int
    rule: Rule[Any]


# By position, for each host where a rule never takes a request: one that does.
_Shadows = dict[int, dict[str, Rule[Any]]]


def conflicts(rules: Iterable[Rule[Any]]) -> list[Conflict]:
    """Return what is wrong with `rules`, in their order, at most one finding for each.

    A duplicate has host, path, predicates, priority and a method in common with an earlier rule. An
    unreachable rule could match, but for each of its hosts and methods others always go before it. Takes time
    in proportion to the number of rules (10,000: a fraction of a second).
    """
    placed = [_Placed(position, rule) for position, rule in enumerate(rules)]
    found: dict[int, Conflict] = {}
    shadows: _Shadows = {}
    by_host: dict[str, list[_Placed]] = {}
    for item in placed:
        for host in _hosts(item.rule):
            by_host.setdefault(host, []).append(item)
    for host, members in by_host.items():
        for group in _groups(members):
            _look_at_group(host, group, found, shadows)
        _look_at_regexes(host, members, shadows)
    for position, rule in placed:
        winners = shadows.get(position)
        if winners and position not in found and len(winners) == len(_hosts(rule)):
            found[position] = _unreachable(rule, next(iter(winners.values())))
    return [found[position] for position in sorted(found)]


def _hosts(rule: Rule[Any]) -> set[str]:
    return set(rule.hosts) or {_ANY}


def _groups(members: list[_Placed]) -> Iterable[Sequence[_Placed]]:
    """Return the rules of one host that differ in methods and priority only, in the order in which they are
    asked."""
    groups: dict[Hashable, list[_Placed]] = {}
    for item in members:
        groups.setdefault((item.rule.pattern.shape, item.rule.predicates), []).append(item)
    return [
        sorted(group, key=lambda item: precedence(item.rule, item.position)) if len(group) > 1 else group
        for group in groups.values()
    ]


def _look_at_group(host: str, group: Sequence[_Placed], found: dict[int, Conflict], shadows: _Shadows) -> None:
    first: dict[str, Rule[Any]] = {}  # by method: who takes it
    for (_, priority), equals in groupby(group, lambda item: (not item.rule.methods, item.rule.priority)):
        level: dict[str, Rule[Any]] = {}  # the same, of this priority
        for position, rule in equals:
            methods = rule.methods or {_ANY}
            twins = [method for method in sorted(methods) if method in level]
            if twins and position not in found:
                found[position] = _duplicate(rule, level[twins[0]], host, twins, priority)
            elif methods <= first.keys():
                shadows.setdefault(position, {})[host] = first[min(methods)]
            for method in methods:
                level.setdefault(method, rule)
        for method, rule in level.items():
            first.setdefault(method, rule)


def _look_at_regexes(host: str, members: list[_Placed], shadows: _Shadows) -> None:
    """Find expressions behind a rest that takes every path that they can match: expressions are asked
    last."""
    regexes = [item for item in members if item.rule.pattern.regex is not None]
    if not regexes:
        return
    rests: dict[tuple[str | None, ...], dict[str, Rule[Any]]] = {}
    for _, rule in members:
        pattern = rule.pattern
        if pattern.rest is not None and not pattern.params and not rule.predicates:
            taken = rests.setdefault(pattern.segments, {})
            for method in _taken(rule):
                taken.setdefault(method, rule)
    for position, rule in regexes:
        prefix = _certain_segments(rule.pattern)
        taken = {}
        for length in range(len(prefix) + 1):
            for method, winner in rests.get(prefix[:length], {}).items():
                taken.setdefault(method, winner)
        if _ANY in taken:
            shadows.setdefault(position, {})[host] = taken[_ANY]
        elif rule.methods and _taken(rule) <= taken.keys():
            shadows.setdefault(position, {})[host] = taken[min(rule.methods)]


def _taken(rule: Rule[Any]) -> set[str]:
    methods = set(rule.methods) or {_ANY}
    return methods | {"HEAD"} if "GET" in methods else methods


def _certain_segments(pattern: Pattern) -> tuple[str, ...]:
    """Return the segments that every path begins with that the pattern's expression matches; some, if in
    doubt none."""
    text = pattern.regex.pattern if pattern.regex is not None else ""
    if "|" in text:  # alternatives, perhaps of all that stands before
        return ()
    match = _LITERAL.match(text)
    literal = re.sub(r"\\(.)", r"\1", match.group(1)) if match else ""
    if match and match.group(2):
        literal = literal[:-1]
    # The last segment is dropped: it may go on.
    return tuple(literal.split("/")[1:-1]) if literal.startswith("/") else ()


def _duplicate(rule: Rule[Any], other: Rule[Any], host: str, methods: list[str], priority: int) -> Conflict:
    which = "any method" if methods == [_ANY] else ", ".join(methods)
    where = f" on {host}" if host else ""
    message = (
        f"route {rule.name!r} and route {other.name!r} both take {which} for {rule.pattern.text!r}{where} "
        f"with the same conditions and priority {priority}: change one of them, or their priorities"
    )
    return Conflict(ConflictKind.DUPLICATE, rule.name, other.name, message)


def _unreachable(rule: Rule[Any], other: Rule[Any]) -> Conflict:
    message = (
        f"route {rule.name!r} ({rule.pattern.text!r}) never takes a request: route {other.name!r} "
        f"({other.pattern.text!r}) always goes before it; remove one of them or narrow {other.name!r}"
    )
    return Conflict(ConflictKind.UNREACHABLE, rule.name, other.name, message)
