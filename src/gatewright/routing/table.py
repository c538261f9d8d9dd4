"""The routing table: which route takes a request. Compiled once from rules, then only read.

It knows paths, hosts, methods and predicates; what a route does is an opaque value to it. Called by the
snapshot (to compile) and by the proxy (once for each exchange).

Among the routes that match, the first in this order takes the request:
1. host: an exact one, then a wildcard (the longer first), then a route that names none;
2. path: an exact one; then parameters, compared segment by segment: a literal before a parameter before a
   rest; then regular expressions: the one with the highest `priority`, the longer, the earlier in the file;
3. the one with more header and query predicates; of as many, texts before regular expressions before
   presence;
4. one that lists its methods before one that takes any;
5. the higher `priority`, then the earlier in the file.
So `priority` decides between equals and never lifts a route over a more specific one: what a narrow route takes does
not depend on numbers in other routes. Regular expressions have no specificity that could be known, so there it leads. A
route whose methods or predicates do not fit lets the next one try.

HEAD goes where GET goes; of the routes with the same host and path, those that list HEAD go before those that
list only GET. `OPTIONS *` is taken by the pattern "*" alone.

Cost: one dict lookup for an exact path, one for each segment otherwise; each node of the tree of segments is visited at
most once, so no request can cost more than the size of the rules. Regular expressions are tried one by one, after all
else: thousands of them are slow.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from gatewright.core.errors import MethodNotAllowed, Reason, RequestError
from gatewright.core.messages import Request
from gatewright.core.target import host_name
from gatewright.routing.pattern import Pattern, parse_host
from gatewright.routing.predicates import (
    Conditions,
    HeaderPredicate,
    Predicate,
    Query,
    QueryPredicate,
    decode_query,
)

T = TypeVar("T")

_HOSTS_REMEMBERED = 1024
_HOST_LENGTH = 260  # a longer one is no name (RFC 1035 section 2.3.4): no work or memory is spent on it


@dataclass(frozen=True, slots=True)
class Rule(Generic[T]):
    """What a route matches. Empty `methods` and `hosts` mean any; hosts are as `pattern.parse_host` returns
    them."""

    name: str
    pattern: Pattern
    value: T
    methods: frozenset[str] = frozenset()
    hosts: tuple[str, ...] = ()
    headers: tuple[HeaderPredicate, ...] = ()
    query: tuple[QueryPredicate, ...] = ()
    priority: int = 0

    def __post_init__(self) -> None:
        for host in self.hosts:
            if parse_host(host) != host:
                raise ValueError(f"the host {host!r} is not in the form that parse_host returns")

    @property
    def predicates(self) -> frozenset[Predicate]:
        """All that is demanded of headers and query."""
        return frozenset(self.headers) | frozenset(self.query)


class Match(Generic[T]):
    """What took a request: the rule's value, and the captured parts of the path, still percent-encoded."""

    __slots__ = ("params", "value")

    def __init__(self, value: T, params: dict[str, str]) -> None:
        self.value = value
        self.params = params


def precedence(rule: Rule[T], position: int) -> tuple[int, int, bool, int, int]:
    """Return the key that orders rules with the same host and path (3 to 5 above); `position` is that in the file."""
    predicates = rule.predicates
    looseness = sum(predicate.looseness for predicate in predicates)
    return (-len(predicates), looseness, not rule.methods, -rule.priority, position)


class _Entry(Generic[T]):
    """A rule as it is asked while matching."""

    __slots__ = ("_params", "_rest_at", "conditions", "cut", "key", "methods", "rest", "value")

    def __init__(self, rule: Rule[T], position: int) -> None:
        pattern = rule.pattern
        self.value = rule.value
        self.methods = rule.methods
        self.conditions = Conditions(rule.headers, rule.query) if rule.predicates else None
        self.key = precedence(rule, position)
        self._params = pattern.params
        self.rest = pattern.rest or ""
        self._rest_at = len(pattern.segments) + 1
        # Where the rest begins in every path that matches; not known when parameters stand before it.
        self.cut = 0 if pattern.params else sum(len(text or "") + 1 for text in pattern.segments) + 1

    def capture(self, path: str, segments: list[str]) -> dict[str, str]:
        """Return the parameters of a path that matches; `segments` is the path, split at its slashes."""
        if not self.rest:
            return {name: segments[index + 1] for name, index in self._params}
        if self.cut:
            return {self.rest: path[self.cut :]}
        params = {name: segments[index + 1] for name, index in self._params}
        params[self.rest] = "/".join(segments[self._rest_at :])
        return params


def _unconditional(entries: tuple[_Entry[T], ...]) -> _Entry[T] | None:
    return entries[0] if entries and entries[0].conditions is None else None


class _Leaf(Generic[T]):
    """The rules that share a host and a path, in order, by method."""

    __slots__ = ("_by_method", "_entries", "_other", "sure", "sure_other")

    def __init__(self) -> None:
        self._entries: list[_Entry[T]] = []

    def add(self, entry: _Entry[T]) -> None:
        """Take a rule in; `seal` must follow the last."""
        self._entries.append(entry)

    def seal(self) -> None:
        """Bring the rules into the form in which they are asked."""
        self._entries.sort(key=lambda entry: entry.key)
        methods = {method for entry in self._entries for method in entry.methods}
        self._other = tuple(entry for entry in self._entries if not entry.methods)
        self._by_method = {
            method: tuple(entry for entry in self._entries if not entry.methods or method in entry.methods)
            for method in methods
        }
        if "GET" in methods:
            self._by_method["HEAD"] = self._for_head()
        # What takes a method whatever else the request says; None where that matters.
        self.sure = {method: _unconditional(entries) for method, entries in self._by_method.items()}
        self.sure_other = _unconditional(self._other)

    def _for_head(self) -> tuple[_Entry[T], ...]:
        entries = self._entries
        end = max((index for index, entry in enumerate(entries, 1) if "HEAD" in entry.methods), default=0)
        implied = [entry for entry in entries[:end] if "GET" in entry.methods and "HEAD" not in entry.methods]
        explicit = [entry for entry in entries[:end] if not entry.methods or "HEAD" in entry.methods]
        after = [entry for entry in entries[end:] if not entry.methods or "GET" in entry.methods]
        return (*explicit, *implied, *after)

    def pick(self, request: Request) -> _Entry[T] | None:
        """Return the first rule that takes the request, None when none does."""
        query: Query | None = None
        for entry in self._by_method.get(request.method, self._other):
            conditions = entry.conditions
            if conditions is None:
                return entry
            if query is None:
                query = decode_query(request.query) if conditions.query else None
            if conditions.hold(request.headers.fields, query or {}):
                return entry
        return None

    def allowed(self, request: Request) -> set[str]:
        """Return the methods with which the request would be taken here; rules that take any have no part in it."""
        query = decode_query(request.query)
        methods: set[str] = set()
        for entry in self._entries:
            if entry.conditions is None or entry.conditions.hold(request.headers.fields, query):
                methods |= entry.methods
        return methods | {"HEAD"} if "GET" in methods else methods


# Where a walk can go on when it is stuck: at a node, with the segment of that index next, or at a leaf.
_Turn = tuple["_Node[T] | None", "_Leaf[T] | None", int]


class _Node(Generic[T]):
    """A place in the tree of segments."""

    __slots__ = ("end", "literals", "param", "rest")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[T]] = {}
        self.param: _Node[T] | None = None
        self.end: _Leaf[T] | None = None
        self.rest: _Turn[T] | None = None


class _Bucket(Generic[T]):
    """The rules of one host pattern."""

    __slots__ = ("_exact", "_has_tree", "_leaves", "_only", "_prefixes", "_regexes", "_root")

    def __init__(self) -> None:
        self._exact: dict[str, _Leaf[T]] = {}
        self._root: _Node[T] = _Node()
        self._has_tree = False
        self._regexes: list[tuple[re.Pattern[str], _Leaf[T]]] = []
        self._leaves: dict[tuple[str | None, ...], _Leaf[T]] = {}
        self._only: _Leaf[T] | None = None  # of a tree that is nothing but `/{rest...}`
        # First segments below which there is nothing but a rest: the usual `/service/{rest...}` needs no walk.
        self._prefixes: dict[str, _Leaf[T]] = {}

    def leaf(self, pattern: Pattern) -> _Leaf[T]:
        """Return the leaf for a pattern; it is made when there is none of that shape."""
        leaf = self._leaves.get(pattern.shape)
        if leaf is not None:
            return leaf
        leaf = self._leaves[pattern.shape] = _Leaf()
        if pattern.exact is not None:
            self._exact[pattern.exact] = leaf
        elif pattern.regex is not None:
            self._regexes.append((pattern.regex, leaf))
        else:
            self._has_tree = True
            node = self._root
            for segment in pattern.segments:
                if segment is not None:
                    node = node.literals.setdefault(segment, _Node())
                else:
                    node.param = node.param or _Node()
                    node = node.param
            if pattern.rest is None:
                node.end = leaf
            else:
                node.rest = (None, leaf, 0)
        return leaf

    def seal(self, regex_priorities: dict[str, int]) -> None:
        """Bring all into the form in which it is asked; `regex_priorities` gives each expression its highest
        priority."""
        for leaf in self._leaves.values():
            leaf.seal()
        root = self._root
        if root.rest is not None and not root.literals and root.param is None:
            self._only = root.rest[1]
        for segment, node in root.literals.items():
            if node.rest is not None and not node.literals and node.param is None and node.rest[1] is not None:
                self._prefixes[segment] = node.rest[1]
        self._regexes.sort(key=lambda item: (-regex_priorities[item[0].pattern], -len(item[0].pattern)))

    def find_at_once(self, request: Request) -> Match[T] | None:
        """Return what takes the request if that needs no walk and no search; None says nothing."""
        path = request.path
        leaf = self._exact.get(path) if self._exact else None
        if leaf is not None:
            entry = leaf.sure.get(request.method, leaf.sure_other)
            return Match(entry.value, {}) if entry is not None else None
        leaf = self._only
        if leaf is None:
            cut = path.find("/", 1)
            leaf = self._prefixes.get(path[1:cut] if cut > 0 else path[1:])
            if leaf is None:
                return None
        entry = leaf.sure.get(request.method, leaf.sure_other)
        if entry is None or path == "*":
            return None
        return Match(entry.value, {entry.rest: path[entry.cut :]})

    def find(self, request: Request, missed: list[_Leaf[T]]) -> Match[T] | None:
        """Return what takes the request; put those whose path matched in vain into `missed`."""
        path = request.path
        leaf = self._exact.get(path)
        if leaf is not None:
            entry = leaf.pick(request)
            if entry is not None:
                return Match(entry.value, {})
            missed.append(leaf)
        if path == "*":
            return None
        if self._has_tree:
            match = self._descend(request, missed)
            if match is not None:
                return match
        for regex, leaf in self._regexes:
            groups = regex.fullmatch(path)
            if groups is not None:
                entry = leaf.pick(request)
                if entry is not None:
                    return Match(entry.value, groups.groupdict(""))
                missed.append(leaf)
        return None

    def _descend(self, request: Request, missed: list[_Leaf[T]]) -> Match[T] | None:
        """Walk the tree depth first, in order of specificity, with a stack of the turns not taken."""
        path = request.path
        segments = path.split("/")
        count = len(segments)
        index = 1
        node: _Node[T] | None = self._root
        leaf: _Leaf[T] | None
        turns: list[_Turn[T]] = []
        while True:
            while node is not None and index < count:
                if node.rest is not None:
                    turns.append(node.rest)
                segment = segments[index]
                index += 1
                param = node.param
                node = node.literals.get(segment)
                if param is not None and segment:
                    if node is None:
                        node = param
                    else:
                        turns.append((param, None, index))
            if node is not None:
                if node.rest is not None:
                    turns.append(node.rest)
                leaf = node.end
                node = None
            elif turns:
                node, leaf, index = turns.pop()
            else:
                return None
            if leaf is not None:
                entry = leaf.pick(request)
                if entry is not None:
                    return Match(entry.value, entry.capture(path, segments))
                missed.append(leaf)


class Table(Generic[T]):
    """All rules of a snapshot, ready to be asked."""

    __slots__ = ("_any", "_hostless", "_hosts", "_remembered", "_wildcards")

    def __init__(self, rules: Iterable[Rule[T]]) -> None:
        """Compile `rules`; their order is the order of the file. Rules that conflict are not refused: see
        `conflicts`."""
        self._any: tuple[_Bucket[T], ...] = ()
        self._hosts: dict[str, _Bucket[T]] = {}
        self._wildcards: dict[str, _Bucket[T]] = {}
        self._remembered: dict[bytes, tuple[_Bucket[T], ...]] = {}
        buckets: dict[str, _Bucket[T]] = {}
        priorities: dict[str, dict[str, int]] = {}
        for position, rule in enumerate(rules):
            entry = _Entry(rule, position)
            for host in rule.hosts or ("",):
                bucket = buckets.setdefault(host, _Bucket())
                bucket.leaf(rule.pattern).add(entry)
                if rule.pattern.regex is not None:
                    known = priorities.setdefault(host, {})
                    text = rule.pattern.regex.pattern
                    known[text] = max(rule.priority, known.get(text, rule.priority))
        for host, bucket in buckets.items():
            bucket.seal(priorities.get(host, {}))
            if not host:
                self._any = (bucket,)
            elif host.startswith("*"):
                self._wildcards[host[1:]] = bucket
            else:
                self._hosts[host] = bucket
        self._hostless = not self._hosts and not self._wildcards

    def match(self, request: Request) -> Match[T]:
        """Return what takes the request.

        Raises MethodNotAllowed when it would be taken with other methods, RequestError(no_route) otherwise.
        """
        buckets = self._any if self._hostless else self._remembered.get(request.host) or self._buckets(request.host)
        if len(buckets) == 1 and (found := buckets[0].find_at_once(request)) is not None:
            return found
        missed: list[_Leaf[T]] = []
        for bucket in buckets:
            match = bucket.find(request, missed)
            if match is not None:
                return match
        allowed = {method for leaf in missed for method in leaf.allowed(request)}
        if allowed:
            raise MethodNotAllowed(sorted(allowed))
        raise RequestError(Reason.NO_ROUTE, "No route takes this request")

    def _buckets(self, host: bytes) -> tuple[_Bucket[T], ...]:
        """Return the buckets for a Host field, in order, and remember them for the next request."""
        name = host_name(host.decode("latin-1"))
        found: list[_Bucket[T]] = []
        if (exact := self._hosts.get(name)) is not None:
            found.append(exact)
        if self._wildcards and len(name) <= _HOST_LENGTH:
            dot = name.find(".", 1)
            while dot != -1:
                if (wildcard := self._wildcards.get(name[dot:])) is not None:
                    found.append(wildcard)
                dot = name.find(".", dot + 1)
        buckets = (*found, *self._any)
        if len(host) <= _HOST_LENGTH:
            if len(self._remembered) >= _HOSTS_REMEMBERED:
                self._remembered.clear()  # cheaper than keeping an order; only made-up hosts ever fill it
            self._remembered[host] = buckets
        return buckets
