"""The table against a reference: a plain scan of all rules in the documented order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.core.errors import MethodNotAllowed, RequestError
from gatewright.core.headers import Headers
from gatewright.core.messages import Request
from gatewright.core.target import host_name
from gatewright.routing.conflicts import conflicts
from gatewright.routing.pattern import Pattern, parse
from gatewright.routing.predicates import (
    HeaderPredicate,
    Predicate,
    QueryPredicate,
    decode_query,
    header,
    query,
)
from gatewright.routing.table import Rule, Table

Numbered = Rule[int]
Outcome = tuple[object, object]

SEGMENTS = st.sampled_from(["a", "b", "{}"])
REGEXES = ["~/a.*", "~/.*b", "~/a/(?P<n>[ab]?)/?.*", "~/(?P<m>.*)", "~/[ab]", "~/a/b", "~/a/x?b"]
HOSTS = ["a.b.c", "b.c", "*.b.c", "*.c"]
METHODS = ["GET", "HEAD", "POST"]


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    if draw(st.integers(0, 4)) == 0:
        return parse(draw(st.sampled_from([*REGEXES, "*"])))
    parts = draw(st.lists(SEGMENTS, max_size=4))
    names = draw(st.sampled_from(["pqrs", "tuvw"]))
    text = "/" + "/".join(part.replace("{}", f"{{{names[index]}}}") for index, part in enumerate(parts))
    return parse(text.rstrip("/") + draw(st.sampled_from(["", "", "/", "/{rest...}", "/*"])) or "/")


EXPECTED = st.sampled_from(["1", "~[12]", True])


@st.composite
def rules(draw: st.DrawFn, number: int = 0) -> Numbered:
    return Rule(
        str(number),
        draw(patterns()),
        number,
        draw(st.frozensets(st.sampled_from(METHODS), max_size=3)),
        tuple(draw(st.lists(st.sampled_from(HOSTS), max_size=2)) if draw(st.integers(0, 2)) == 0 else ()),
        tuple(header("h", value) for value in draw(st.lists(EXPECTED, max_size=1))),
        tuple(query("q", value) for value in draw(st.lists(EXPECTED, max_size=1))),
        draw(st.sampled_from([0, 0, 1])),
    )


@st.composite
def tables(draw: st.DrawFn) -> list[Numbered]:
    return [draw(rules(number)) for number in range(draw(st.integers(0, 10)))]


@st.composite
def requests(draw: st.DrawFn) -> Request:
    path = "/" + "/".join(draw(st.lists(st.sampled_from(["a", "b", "x"]), max_size=5)))
    path += draw(st.sampled_from(["", "", "/"])) if path != "/" else ""
    return Request(
        draw(st.sampled_from([*METHODS, "PUT"])),
        draw(st.sampled_from([path] * 9 + ["*"])),
        draw(st.sampled_from([None, "", "q=1", "q=2&q=1", "q=3", "r=1"])),
        1,
        draw(st.sampled_from([b"a.b.c", b"B.c:80", b"x.b.c", b"c", b"other"])),
        Headers.of(draw(st.lists(st.tuples(st.just("h"), st.sampled_from("123")), max_size=2))),
    )


def path_matches(pattern: Pattern, path: str) -> dict[str, str] | None:
    """Return the parameters, None when the pattern does not match."""
    if pattern.exact is not None:
        return {} if path == pattern.exact else None
    if path == "*":
        return None
    if pattern.regex is not None:
        found = pattern.regex.fullmatch(path)
        return found.groupdict("") if found else None
    parts, wanted = path[1:].split("/"), pattern.segments
    if pattern.rest is None and len(parts) != len(wanted):
        return None
    if len(parts) < len(wanted):
        return None
    for segment, part in zip(wanted, parts, strict=False):
        if part == "" if segment is None else part != segment:
            return None
    params = {name: parts[index] for name, index in pattern.params}
    return params if pattern.rest is None else params | {pattern.rest: "/".join(parts[len(wanted) :])}


def host_rank(pattern: str, host: str) -> int | None:
    """Return the place of a host pattern for this host, None when it does not match."""
    if pattern == host:
        return -1000
    return -len(pattern) if pattern.startswith("*") and host.endswith(pattern[1:]) else None


def demands(predicate: Predicate, request: Request) -> bool:
    values = request.headers.get_all("h") if isinstance(predicate, HeaderPredicate) else []
    if isinstance(predicate, QueryPredicate):
        values = decode_query(request.query).get("q", [])
    return any(predicate.accepts(value) for value in values)


def reference(table: list[Numbered], request: Request) -> Outcome:
    """Return (number, params) of what takes the request, or ("405", methods), or ("404", None)."""
    host = host_name(request.host.decode())
    found = []
    for number, rule in enumerate(table):
        params = path_matches(rule.pattern, request.path)
        if params is None or not all(demands(predicate, request) for predicate in rule.predicates):
            continue
        for pattern in rule.hosts or ("",):
            place = 0 if not pattern else host_rank(pattern, host)
            if place is not None:
                found.append((place_of(table, pattern, place, number, rule), rule, params))
    found.sort(key=lambda item: item[0])
    taking = [item for item in found if takes(item[1], request.method)]
    if request.method == "HEAD" and taking:
        taking = [head_winner(table, taking)]
    if taking:
        return taking[0][1].value, taking[0][2]
    allowed = {method for _, rule, _ in found for method in rule.methods}
    allowed |= {"HEAD"} if "GET" in allowed else set()
    return ("405", sorted(allowed)) if allowed else ("404", None)


def place_of(table: list[Numbered], host: str, place: int, number: int, rule: Numbered) -> tuple[object, ...]:
    pattern = rule.pattern
    path: tuple[object, ...]
    if pattern.exact is not None:
        path = (0,)
    elif pattern.regex is None:
        path = (1, pattern.specificity)
    else:
        twins = [
            (other.priority, index)
            for index, other in enumerate(table)
            if other.pattern.text == pattern.text and host in (other.hosts or ("",))
        ]
        path = (
            2,
            -max(priority for priority, _ in twins),
            -len(pattern.text),
            min(index for _, index in twins),
        )
    looseness = sum(predicate.looseness for predicate in rule.predicates)
    rest = (-len(rule.predicates), looseness, not rule.methods, -rule.priority, number)
    return ((place, path), rest)


def takes(rule: Numbered, method: str) -> bool:
    return not rule.methods or method in rule.methods or (method == "HEAD" and "GET" in rule.methods)


def head_winner(table: list[Numbered], taking: list[tuple[tuple[object, ...], Numbered, dict[str, str]]]) -> object:
    """Return what takes HEAD: among the rules of the first host and path, those that only imply it wait."""
    first = [item for item in taking if item[0][0] == taking[0][0][0]]
    explicit = [item for item in first if not implies(item[1])]
    listing = [item for item in explicit if "HEAD" in item[1].methods]
    return explicit[0] if listing else first[0]


def implies(rule: Numbered) -> bool:
    return "GET" in rule.methods and "HEAD" not in rule.methods


def outcome(table: Table[int], request: Request) -> Outcome:
    try:
        match = table.match(request)
    except MethodNotAllowed as error:
        return "405", error.allowed
    except RequestError:
        return "404", None
    return match.value, match.params


@settings(max_examples=200, deadline=None)
@given(tables(), st.lists(requests(), min_size=1, max_size=6))
def test_the_table_answers_as_a_scan_of_all_rules_does(rules: list[Numbered], asked: list[Request]) -> None:
    table = Table(rules)
    for request in asked:
        assert outcome(table, request) == reference(rules, request)


@settings(max_examples=100, deadline=None)
@given(tables(), st.lists(requests(), min_size=1, max_size=20))
def test_what_is_called_unreachable_never_takes_a_request(rules: list[Numbered], asked: list[Request]) -> None:
    dead = {found.rule for found in conflicts(rules) if found.kind == "unreachable"}
    table = Table(rules)
    for request in asked:
        assert str(outcome(table, request)[0]) not in dead


@settings(max_examples=100, deadline=None)
@given(tables(), st.lists(requests(), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_without_duplicates_the_order_of_rules_does_not_matter(
    rules: list[Numbered], asked: list[Request], random: object
) -> None:
    rules = [rule for rule in rules if rule.pattern.regex is None]  # those go by the order of the file
    bad = {found.rule for found in conflicts(rules)}
    rules = [rule for rule in rules if rule.name not in bad]
    shuffled = rules.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for request in asked:
        assert outcome(Table(rules), request) == outcome(Table(shuffled), request)
