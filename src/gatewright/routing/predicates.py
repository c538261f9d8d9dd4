"""What a route may demand of header fields and query parameters beside host, path and method.

A predicate is a value: two that demand the same are equal, which is how duplicates are found. It knows
requests, not tables. Made by the configuration, asked by the routing table.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from gatewright.core.headers import TOKEN, Field
from gatewright.routing.pattern import compile_regex

Query = dict[str, list[str]]
# This text; a match of this expression; None: anything, as long as it is there.
Expected = str | re.Pattern[str] | None

_TOKEN = re.compile(TOKEN.decode())


@dataclass(frozen=True, slots=True)
class Predicate:
    """A demand on the values of one name. Among several values, one that fits is enough."""

    name: str
    expected: Expected

    @property
    def looseness(self) -> int:
        """0 for a text, 1 for a regular expression, 2 for presence: the smaller, the more specific."""
        if self.expected is None:
            return 2
        return 0 if isinstance(self.expected, str) else 1

    def accepts(self, value: str) -> bool:
        """Tell whether one value fits. A regular expression must match all of it."""
        expected = self.expected
        if isinstance(expected, str):
            return value == expected
        return expected is None or expected.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class HeaderPredicate(Predicate):
    """A demand on a header field; the name is in lower case, values are latin-1 text, one for each field
    line."""


@dataclass(frozen=True, slots=True)
class QueryPredicate(Predicate):
    """A demand on a query parameter; name and values are decoded text."""


def header(name: str, expected: str | bool) -> HeaderPredicate:
    """Return the predicate that a configuration writes as `name: expected`.

    `expected` is a text, "~" and a regular expression, or True for presence. A field line is one value: to
    look into a list that is separated by commas takes a regular expression. Raises ValueError with a sentence
    for the user.
    """
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not a header name: letters, digits and !#$%&'*+-.^_`|~ only")
    wanted = _expected(expected)
    if isinstance(wanted, str):
        wanted = wanted.strip(" \t")  # RFC 9110 section 5.5: what surrounds a field's value is not part of it
        try:
            wanted.encode("latin-1")
        except UnicodeEncodeError:
            wanted = wanted.encode().decode("latin-1")  # as `make_field` would send it
    return HeaderPredicate(name.lower(), wanted)


def query(name: str, expected: str | bool) -> QueryPredicate:
    """Return the predicate that a configuration writes as `name: expected`; as for `header`, on decoded
    text."""
    return QueryPredicate(name, _expected(expected))


def _expected(expected: str | bool) -> Expected:
    """Raise ValueError without quoting the value: it may be a key that clients must have."""
    if isinstance(expected, bool):
        if not expected:
            raise ValueError("false is not a value; true demands that it is there")
        return None
    if expected.startswith("~"):
        return compile_regex(expected[1:], "the value")
    return expected


def decode_query(text: str | None) -> Query:
    """Return the values of each parameter, percent and plus decoded as forms are; bytes that are not UTF-8
    become U+FFFD."""
    values: Query = {}
    if text:
        for name, value in parse_qsl(text, keep_blank_values=True):
            values.setdefault(name, []).append(value)
    return values


class Conditions:
    """All that one route demands of headers and query."""

    __slots__ = ("headers", "query")

    def __init__(self, headers: Iterable[HeaderPredicate], query: Iterable[QueryPredicate]) -> None:
        self.headers = tuple((predicate.name.encode("latin-1"), predicate) for predicate in headers)
        self.query = tuple(query)

    def hold(self, fields: list[Field], query: Query) -> bool:
        """Tell whether a request with these header fields and this decoded query is taken.

        `query` may be empty where there are no demands on it: decoding costs, and most routes have none.
        """
        for key, predicate in self.headers:
            for field in fields:
                if field[0] == key and predicate.accepts(field[1].decode("latin-1")):
                    break
            else:
                return False
        for wanted in self.query:
            for value in query.get(wanted.name, ()):
                if wanted.accepts(value):
                    break
            else:
                return False
        return True
