"""Duplicates and unreachable routes: what is found, how it is said, and what is no conflict."""

import time

import pytest

from gatewright.routing.conflicts import ConflictKind, conflicts
from gatewright.routing.pattern import parse
from gatewright.routing.predicates import header, query
from gatewright.routing.table import Rule


def rule(name: str, path: str, methods: str = "", **more: object) -> Rule[str]:
    return Rule(name, parse(path), name, frozenset(methods.split()), **more)  # type: ignore[arg-type]


TENANT = (header("t", "1"),)
DUPLICATES = [
    [rule("a", "/x"), rule("b", "/x")],
    [rule("a", "/x/{id}"), rule("b", "/x/{number}")],
    [rule("a", "/x/*"), rule("b", "/x/{rest...}")],
    [rule("a", "/%7ex"), rule("b", "/~x")],
    [rule("a", "~/x.*"), rule("b", "~/x.*")],
    [rule("a", "/x", "GET"), rule("b", "/x", "GET POST")],
    [rule("a", "/x", "GET POST"), rule("b", "/x", "POST PUT")],
    [rule("a", "/x", headers=TENANT), rule("b", "/x", headers=(header("T", "1"), header("t", "1")))],
    [rule("a", "/x", hosts=("a.b", "c.d")), rule("b", "/x", hosts=("e.f", "c.d"))],
    [rule("a", "/x", "GET", priority=2), rule("c", "/x", "POST"), rule("b", "/x", "PUT GET", priority=2)],
]
UNREACHABLE = [
    [rule("a", "/x", priority=1), rule("b", "/x")],
    [rule("b", "/x"), rule("a", "/x", priority=1)],
    [rule("a", "/x", "GET POST", priority=1), rule("b", "/x", "POST")],
    [rule("a", "/x", "GET", priority=1), rule("c", "/x", "POST", priority=2), rule("b", "/x", "GET POST")],
    [rule("a", "/x", hosts=("a.b", "c.d"), priority=1), rule("b", "/x", hosts=("c.d", "a.b"))],
    [rule("a", "/{all...}"), rule("b", "~/v[0-9]+")],
    [rule("a", "/*", "GET"), rule("b", "~/v[0-9]+", "GET HEAD")],
    [rule("a", "/api/*"), rule("b", r"~^/api/v\d+/x")],
    [rule("a", "/api/v1.0/*"), rule("b", r"~/api/v1\.0/(?P<x>a)?")],
    [rule("a", "/*"), rule("b", "~/x|/y")],
    [rule("a", "/*"), rule("b", "~(?i)/x")],
    [rule("a", "/api/*", "GET"), rule("c", "/*", "POST"), rule("b", "~/api/x.*", "GET POST")],
]
FINE = [
    [rule("a", "/x"), rule("b", "/x/")],
    [rule("a", "/x"), rule("b", "/{x}"), rule("c", "/*")],
    [rule("a", "/x", "GET"), rule("b", "/x")],
    [rule("a", "/x", "GET"), rule("b", "/x", "HEAD")],
    [rule("a", "/x", "GET", priority=1), rule("b", "/x", "GET HEAD")],
    [rule("a", "/x", "GET", priority=1), rule("b", "/x", "GET POST")],
    [rule("a", "/x", priority=1), rule("b", "/x", "GET")],
    [rule("a", "/x", priority=1), rule("b", "/x", headers=TENANT)],
    [rule("a", "/x", query=(query("t", "1"),)), rule("b", "/x", headers=TENANT)],
    [rule("a", "/x", priority=1), rule("b", "/x", hosts=("a.b",))],
    [rule("a", "/x", hosts=("a.b",), priority=1), rule("b", "/x", hosts=("a.b", "c.d"))],
    [rule("a", "/x", hosts=("a.b", "a.b"))],
    [rule("a", "/*", "GET"), rule("b", "~/v[0-9]+")],
    [rule("a", "/*", headers=TENANT), rule("b", "~/v[0-9]+")],
    [rule("a", "/*", hosts=("a.b",)), rule("b", "~/v[0-9]+")],
    [rule("a", "/*", hosts=("a.b",)), rule("b", "~/v", hosts=("a.b", "c.d"))],
    [rule("a", "/api/*"), rule("b", "~/api?/x")],
    [rule("a", "/api/*"), rule("b", "~/api/?x")],
    [rule("a", "/api/*"), rule("b", "~/api/{0,1}x")],
    [rule("a", "/api/*"), rule("b", "~/api/x|/other")],
    [rule("a", "/api/*"), rule("b", "~(?i)/api/x")],
    [rule("a", "/api/*"), rule("b", "~/api.*")],
    [rule("a", "/api/{x}/*"), rule("b", "~/api/x/y")],
]


@pytest.mark.parametrize("rules", DUPLICATES)
def test_duplicates(rules: list[Rule[str]]) -> None:
    (found,) = conflicts(rules)
    assert (found.kind, found.rule, found.other) == (ConflictKind.DUPLICATE, "b", "a")
    assert "route 'b' and route 'a' both take" in found.message


@pytest.mark.parametrize("rules", UNREACHABLE)
def test_unreachable(rules: list[Rule[str]]) -> None:
    (found,) = [item for item in conflicts(rules) if item.rule == "b"]
    assert (found.kind, found.other) == (ConflictKind.UNREACHABLE, "a")
    assert "route 'b'" in found.message
    assert "never takes a request: route 'a'" in found.message


@pytest.mark.parametrize("rules", FINE)
def test_no_conflict(rules: list[Rule[str]]) -> None:
    assert conflicts(rules) == []


def test_a_regex_that_is_shadowed_twice_on_one_host_may_live_on_another() -> None:
    rules = [
        rule("all", "/*", hosts=("a.b",)),
        rule("twin", "~/v[0-9]", hosts=("a.b",), priority=1),
        rule("r", "~/v[0-9]", hosts=("a.b", "c.d")),
    ]
    assert [found.rule for found in conflicts(rules)] == ["twin"]


def test_sentences() -> None:
    (found,) = conflicts([rule("a", "/x", "GET POST"), rule("b", "/x", "POST", priority=0)])
    assert found.message == (
        "route 'b' and route 'a' both take POST for '/x' with the same conditions and priority 0: "
        "change one of them, or their priorities"
    )
    (found,) = conflicts([rule("a", "/x", hosts=("a.b",)), rule("b", "/x", hosts=("a.b",))])
    assert "both take any method for '/x' on a.b with" in found.message


def test_each_duplicate_is_reported_once() -> None:
    found = conflicts([rule(str(number), "/x", "GET POST", hosts=("a.b", "c.d")) for number in range(5)])
    assert [(item.rule, item.other) for item in found] == [("1", "0"), ("2", "0"), ("3", "0"), ("4", "0")]


def test_many_rules_of_one_shape_take_time_in_proportion() -> None:
    """10,000 rules, all alike: comparing each with each would be fifty million comparisons, and a minute."""
    rules = [rule(str(number), "/x", "GET") for number in range(10_000)]
    begin = time.process_time()
    assert len(conflicts(rules)) == 9_999
    assert time.process_time() - begin < 5
