"""Which route takes a request: each rule of the documented order by itself."""

import sys

import pytest

from gatewright.core.errors import MethodNotAllowed, Reason, RequestError
from gatewright.core.headers import Headers
from gatewright.core.messages import Request
from gatewright.routing.pattern import parse
from gatewright.routing.predicates import header, query
from gatewright.routing.table import Match, Rule, Table


def rule(name: str, path: str, methods: str = "", **more: object) -> Rule[str]:
    return Rule(name, parse(path), name, frozenset(methods.split()), **more)  # type: ignore[arg-type]


def match(table: Table[str], text: str, host: str = "a.example", headers: dict[str, str] | None = None) -> Match[str]:
    method, _, target = text.partition(" ")
    path, mark, search = target.partition("?")
    fields = Headers.of((headers or {}).items())
    return table.match(Request(method, path, search if mark else None, 1, host.encode(), fields))


def winner(table: Table[str], text: str, host: str = "a.example", headers: dict[str, str] | None = None) -> str:
    try:
        return match(table, text, host, headers).value
    except MethodNotAllowed as error:
        return "405 " + " ".join(error.allowed)
    except RequestError as error:
        return "404" if error.reason == Reason.NO_ROUTE else str(error)


@pytest.mark.parametrize(
    ("pattern", "path", "params"),
    [
        ("/a/b", "/a/b", {}),
        ("/a/b", "/a/b/", None),
        ("/a/b/", "/a/b/", {}),
        ("/a/b/", "/a/b", None),
        ("/", "/", {}),
        ("/items/{id}", "/items/42", {"id": "42"}),
        ("/items/{id}", "/items/a%20b", {"id": "a%20b"}),
        ("/items/{id}", "/items/", None),
        ("/items/{id}", "/items", None),
        ("/items/{id}", "/items/42/", None),
        ("/items/{id}", "/items/4/2", None),
        ("/items/{id}/", "/items/42/", {"id": "42"}),
        ("/{a}/x/{b}", "/1/x/2", {"a": "1", "b": "2"}),
        ("/{a}/x/{b}", "/1/y/2", None),
        ("/a/{rest...}", "/a", {"rest": ""}),
        ("/a/{rest...}", "/a/", {"rest": ""}),
        ("/a/{rest...}", "/a/b/c", {"rest": "b/c"}),
        ("/a/{rest...}", "/a/b/", {"rest": "b/"}),
        ("/a/{rest...}", "/ab", None),
        ("/a/{rest...}", "/", None),
        ("/a/*", "/a/b", {"rest": "b"}),
        ("/{rest...}", "/", {"rest": ""}),
        ("/{rest...}", "/a/b/", {"rest": "a/b/"}),
        ("/{a}/{rest...}", "/1", {"a": "1", "rest": ""}),
        ("/{a}/{rest...}", "/1/2/", {"a": "1", "rest": "2/"}),
        ("/{a}/{rest...}", "/", None),
        ("/%7Euser/a b", "/~user/a%20b", {}),
        (r"~/v(?P<n>\d+)(?P<more>/.*)?", "/v12", {"n": "12", "more": ""}),
        (r"~/v(?P<n>\d+)(?P<more>/.*)?", "/v1/x", {"n": "1", "more": "/x"}),
        (r"~/v\d", "/v1x", None),
        (r"~/v\d", "x/v1", None),
        ("*", "*", {}),
        ("/{rest...}", "*", None),
        ("~.*", "*", None),
    ],
)
def test_what_a_pattern_takes_and_captures(pattern: str, path: str, params: dict[str, str] | None) -> None:
    table = Table([rule("r", pattern)])
    if params is None:
        assert winner(table, f"GET {path}") == "404"
    else:
        assert match(table, f"GET {path}").params == params


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b", "exact"),
        ("/a/x", "one"),
        ("/a/x/y", "deep"),
        ("/a/b/y", "deep"),
        ("/a/b/c", "literal"),
        ("/a/b/c/d", "long"),
        ("/a", "all"),
        ("/a/", "under"),
        ("/other", "all"),
        ("/a/x/y/z", "under"),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_the_more_specific_path_goes_first_whatever_the_order_and_priority(
    path: str, name: str, backwards: bool
) -> None:
    rules = [
        rule("regex", "~/.*", priority=9),
        rule("all", "/{rest...}", priority=8),
        rule("under", "/a/{id}/{x}/*", priority=7),
        rule("deep", "/a/{id}/{sub}"),
        rule("one", "/a/{id}"),
        rule("long", "/a/b/{x}/{y}"),
        rule("literal", "/a/{id}/c", priority=-1),
        rule("exact", "/a/b", priority=-9),
        rule("slash", "/a/"),
    ]
    expected = {"/a/": "slash", "/a/x/y/z": "under"}.get(path, name)
    assert winner(Table(rules[::-1] if backwards else rules), f"GET {path}") == expected


def test_segments_are_compared_from_the_left() -> None:
    table = Table([rule("late", "/{x}/b/c"), rule("early", "/a/{x}/{y}"), rule("rest", "/a/{rest...}")])
    assert winner(table, "GET /a/b/c") == "early"
    assert winner(table, "GET /z/b/c") == "late"
    assert winner(table, "GET /a/b") == "rest"


def test_regexes_come_last_by_priority_then_length_then_order() -> None:
    rules = [
        rule("short", "~/a.*"),
        rule("first", "~/a[xy]b"),
        rule("second", "~/a[yx]b"),
        rule("rest", "/r/*"),
    ]
    assert winner(Table(rules), "GET /axb") == "first"
    assert winner(Table([*rules, rule("lifted", "~/.*", priority=1)]), "GET /axb") == "lifted"
    assert winner(Table([*rules, rule("lifted", "~/.*", priority=1)]), "GET /r/x") == "rest"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.example.com", "exact"),
        ("API.Example.com:8080", "exact"),
        ("api.example.com.", "exact"),
        ("x.eu.example.com", "longer"),
        ("y.x.eu.example.com", "longer"),
        ("eu.example.com", "wild"),
        ("www.example.com", "wild"),
        ("example.com", "any"),
        ("notexample.com", "any"),
        ("", "any"),
        ("[::1]:80", "v6"),
        ("." * 300, "any"),
        ("a." * 3000 + "example.com", "any"),
    ],
)
def test_hosts(host: str, name: str) -> None:
    table = Table(
        [
            rule("any", "/a"),
            rule("wild", "/*", hosts=("*.example.com",)),
            rule("longer", "/*", hosts=("*.eu.example.com", "*.us.example.com")),
            rule("exact", "~/.*", hosts=("api.example.com", "api2.example.com")),
            rule("v6", "/a", hosts=("[::1]",)),
        ]
    )
    assert winner(table, "GET /a", host) == name
    assert winner(table, "GET /a", host) == name  # remembered


def test_a_host_whose_routes_do_not_fit_lets_the_next_one_try() -> None:
    table = Table(
        [
            rule("exact", "/a", "POST", hosts=("a.b.c",)),
            rule("wild", "/a", "PUT", hosts=("*.b.c",)),
            rule("any", "/b"),
        ]
    )
    assert winner(table, "PUT /a", "a.b.c") == "wild"
    assert winner(table, "GET /b", "a.b.c") == "any"
    assert winner(table, "GET /a", "a.b.c") == "405 POST PUT"
    assert winner(table, "GET /a", "x.y") == "404"


def test_made_up_hosts_do_not_change_answers() -> None:
    table = Table([rule("one", "/a", hosts=("a.example",)), rule("any", "/a")])
    for number in range(3000):
        assert winner(table, "GET /a", f"h{number}.example") == "any"
    assert winner(table, "GET /a") == "one"


def test_methods() -> None:
    table = Table([rule("read", "/a", "GET"), rule("write", "/a", "POST PUT"), rule("patch", "/{x}", "PATCH")])
    assert winner(table, "GET /a") == "read"
    assert winner(table, "PUT /a") == "write"
    assert winner(table, "PATCH /a") == "patch"
    assert winner(table, "DELETE /a") == "405 GET HEAD PATCH POST PUT"
    assert winner(table, "OPTIONS /a") == "405 GET HEAD PATCH POST PUT"
    assert winner(table, "get /a") == "405 GET HEAD PATCH POST PUT"
    assert winner(table, "GET /b") == "405 PATCH"
    assert winner(table, "GET /b/c") == "404"


def test_listed_methods_go_before_any_method() -> None:
    table = Table([rule("any", "/a", priority=5), rule("get", "/a", "GET")])
    assert winner(table, "GET /a") == "get"
    assert winner(table, "HEAD /a") == "get"
    assert winner(table, "BREW /a") == "any"


@pytest.mark.parametrize(
    ("rules", "name"),
    [
        ([rule("get", "/a", "GET")], "get"),
        ([rule("get", "/a", "GET"), rule("head", "/a", "HEAD")], "head"),
        ([rule("get", "/a", "GET", priority=9), rule("head", "/a", "HEAD")], "head"),
        ([rule("get", "/a", "GET", headers=(header("h", True),)), rule("head", "/a", "HEAD")], "head"),
        ([rule("get", "/a", "GET"), rule("head", "/a", "HEAD", headers=(header("x", True),))], "get"),
        ([rule("get", "/a", "GET"), rule("head", "/{rest...}", "HEAD")], "get"),
        ([rule("get", "/a", "GET"), rule("any", "/a")], "get"),
        ([rule("post", "/a", "POST"), rule("any", "/a")], "any"),
        ([rule("post", "/a", "POST"), rule("get", "/{x}", "GET")], "get"),
        ([rule("head", "/a", "HEAD")], "head"),
        ([rule("post", "/a", "POST")], "405 POST"),
    ],
)
def test_head_goes_where_get_goes(rules: list[Rule[str]], name: str) -> None:
    assert winner(Table(rules), "HEAD /a", headers={"h": "1"}) == name


def test_predicates_are_tried_from_the_most_demanding_on() -> None:
    table = Table(
        [
            rule("none", "/a"),
            rule("there", "/a", headers=(header("t", True),)),
            rule("like", "/a", headers=(header("t", "~b.*"),)),
            rule("blue", "/a", headers=(header("t", "blue"),)),
            rule("two", "/a", headers=(header("t", True),), query=(query("v", "1"),)),
        ]
    )
    assert winner(table, "GET /a") == "none"
    assert winner(table, "GET /a", headers={"T": "x"}) == "there"
    assert winner(table, "GET /a", headers={"T": "black"}) == "like"
    assert winner(table, "GET /a", headers={"T": "blue"}) == "blue"
    assert winner(table, "GET /a?v=1", headers={"T": "blue"}) == "two"
    assert winner(table, "GET /a?v=2", headers={"T": "blue"}) == "blue"


def test_a_route_whose_predicates_fail_lets_less_specific_ones_try() -> None:
    table = Table(
        [
            rule("exact", "/a/b", query=(query("v", "1"),)),
            rule("param", "/a/{x}", query=(query("v", "2"),)),
            rule("rest", "/a/*", query=(query("v", "3"),)),
            rule("regex", "~/a/.", query=(query("v", "4"),)),
        ]
    )
    names = [winner(table, f"GET /a/b?v={number}") for number in range(1, 6)]
    assert names == ["exact", "param", "rest", "regex", "404"]


def test_405_only_where_everything_but_the_method_fits() -> None:
    table = Table(
        [
            rule("r", "/a", "POST", headers=(header("t", "1"),)),
            rule("s", "~/a", "PUT", query=(query("q", True),)),
        ]
    )
    assert winner(table, "GET /a") == "404"
    assert winner(table, "GET /a", headers={"t": "1"}) == "405 POST"
    assert winner(table, "GET /a?q") == "405 PUT"
    assert winner(table, "GET /a?q", headers={"t": "1"}) == "405 POST PUT"


def test_priority_then_order_decide_between_equals() -> None:
    table = Table([rule("first", "/{a}"), rule("second", "/{b}"), rule("lifted", "/{c}", priority=1)])
    assert match(table, "GET /x").params == {"c": "x"}
    table = Table([rule("first", "/{a}"), rule("second", "/{b}")])
    assert match(table, "GET /x").params == {"a": "x"}


def test_params_belong_to_their_request() -> None:
    table = Table([rule("r", "/a"), rule("p", "/{x}")])
    match(table, "GET /a").params["poison"] = "1"
    assert match(table, "GET /a").params == {}


def test_an_empty_table_takes_nothing() -> None:
    assert winner(Table([]), "GET /") == "404"


def test_hosts_of_a_rule_must_be_parsed() -> None:
    with pytest.raises(ValueError, match="parse_host"):
        rule("r", "/", hosts=("API.example.com",))


def test_backtracking_is_bounded_by_the_rules_not_by_the_paths() -> None:
    """Counted in lines run, not in time: every choice at each of 8 segments, and a path of 1000."""
    depth = 8
    rules = []
    for number in range(2**depth):
        segments = ["a" if number >> bit & 1 else f"{{p{bit}}}" for bit in range(depth)]
        rules.append(rule(str(number), "/" + "/".join(segments) + "/end"))
        rules.append(rule(f"r{number}", "/" + "/".join(segments) + "/{rest...}", "POST"))
    deep = "/" + "/".join([f"{{p{number}}}" for number in range(999)])
    table = Table([*rules, rule("deep", deep + "/end"), rule("deeper", deep + "/a/{rest...}", "PUT")])

    lines = 0

    def count(frame: object, event: str, argument: object) -> object:
        nonlocal lines
        lines += 1
        return count

    def cost(text: str) -> int:
        nonlocal lines
        lines = 0
        before = sys.gettrace()
        sys.settrace(count)  # type: ignore[arg-type]
        try:
            assert winner(table, text).startswith("405")
        finally:
            sys.settrace(before)
        return lines

    short, long = cost("GET" + " /" + "/".join("a" * 500)), cost("GET" + " /" + "/".join("a" * 1000))
    assert long < short + 40 * 500
    assert long < 200_000
