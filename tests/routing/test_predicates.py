"""Header and query predicates, one at a time."""

from collections.abc import Callable

import pytest

from gatewright.core.headers import Headers
from gatewright.routing.predicates import (
    Conditions,
    HeaderPredicate,
    Predicate,
    QueryPredicate,
    decode_query,
    header,
    query,
)


def takes(predicate: Predicate, fields: list[tuple[str, str]], text: str | None = None) -> bool:
    headers = [predicate] if isinstance(predicate, HeaderPredicate) else []
    queries = [predicate] if isinstance(predicate, QueryPredicate) else []
    return Conditions(headers, queries).hold(Headers.of(fields).fields, decode_query(text))


@pytest.mark.parametrize(
    ("expected", "fields", "result"),
    [
        ("blue", [("X-Tenant", "blue")], True),
        ("blue", [("x-tenant", "Blue")], False),
        ("blue", [("x-tenant", "red"), ("X-TENANT", "blue")], True),
        ("blue", [("x-tenant", "red, blue")], False),
        ("blue", [("x-other", "blue")], False),
        (" blue ", [("x-tenant", "blue")], True),
        ("", [("x-tenant", "")], True),
        ("", [], False),
        ("é", [("x-tenant", "é")], True),
        ("€", [("x-tenant", "€")], True),
        ("~b.*", [("x-tenant", "blue")], True),
        ("~b.*", [("x-tenant", "abc")], False),
        ("~b", [("x-tenant", "bc")], False),
        (True, [("x-tenant", "")], True),
        (True, [], False),
    ],
)
def test_headers(expected: str | bool, fields: list[tuple[str, str]], result: bool) -> None:
    assert takes(header("X-Tenant", expected), fields) is result


@pytest.mark.parametrize(
    ("expected", "text", "result"),
    [
        ("1", "v=1", True),
        ("1", "v=2&v=1", True),
        ("1", "V=1", False),
        ("1", "v=11", False),
        ("1", None, False),
        ("a b", "v=a+b", True),
        ("a b", "v=a%20b", True),
        ("a+b", "v=a%2Bb", True),
        ("a&v=1", "v=a%26v%3D1", True),
        ("é", "v=%C3%A9", True),
        ("\ufffd", "v=%E9", True),
        ("1", "%76=1", True),
        ("", "v=", True),
        ("", "v", True),
        ("1", "w=1;v=1", False),
        ("~[0-9]+", "v=x&v=12", True),
        ("~[0-9]+", "v=12x", False),
        (True, "v", True),
        (True, "a=v", False),
        (True, "", False),
    ],
)
def test_query(expected: str | bool, text: str | None, result: bool) -> None:
    assert takes(query("v", expected), [], text) is result


def test_all_must_hold() -> None:
    conditions = Conditions([header("a", "1"), header("b", True)], [query("c", "2")])
    fields = Headers.of([("a", "1"), ("b", "x")]).fields
    assert conditions.hold(fields, {"c": ["2"]})
    assert not conditions.hold(fields[:1], {"c": ["2"]})
    assert not conditions.hold(fields, {"c": ["3"]})


def test_equal_demands_are_equal_values() -> None:
    assert header("A", "~x") == header("a", "~x")
    assert header("a", "x") != query("a", "x")
    assert len({header("a", True), header("A", True), header("a", "x")}) == 2


@pytest.mark.parametrize(
    ("name", "expected", "says"),
    [
        ("a b", "x", "header name"),
        ("", "x", "header name"),
        ("a", "~(", "regular expression"),
        ("a", False, "false"),
    ],
)
def test_headers_refused_with_a_sentence(name: str, expected: str | bool, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        header(name, expected)
    assert says in str(caught.value)


@pytest.mark.parametrize("make", [header, query])
def test_a_bad_expression_is_refused_without_being_quoted(make: Callable[[str, str], Predicate]) -> None:
    with pytest.raises(ValueError, match=r"^the value is not a valid regular expression: missing \)") as caught:
        make("v", "~(hunter2")
    assert "hunter2" not in str(caught.value)
