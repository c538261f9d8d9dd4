"""Which route takes a request, seen from outside, and what a route does with it."""

import json

import pytest

from tests.kit.answers import reply, services, why
from tests.kit.wire import answer_all, get, request


def routes(*lines):
    return "routes:\n" + "".join(f"  - {line}\n" for line in lines)


def respond(name, match, more=""):
    return f"{{name: {name}, match: {match}, respond: {{body: {name}}}{more}}}"


@pytest.fixture
def ask(gateway):
    """Start a gateway of routes that answer with their names; return a function from request to name."""

    def start(*lines):
        running = gateway(routes(*lines))

        def one(path="/", method="GET", host="test", fields=""):
            answer = request(running.port, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode(), method)
            return answer.body.decode() if answer.status == 200 else why(answer)

        return one

    return start


def test_the_most_specific_path_wins_whatever_the_order(ask):
    ask = ask(
        respond("rest", "{path: '/a/{rest...}'}"),
        respond("param", "{path: '/a/{id}'}"),
        respond("exact", "{path: /a/b}"),
        respond("regex", "{path: '~/r/[0-9]+'}"),
    )
    assert [ask(path) for path in ("/a/b", "/a/c", "/a/c/d", "/r/12")] == ["exact", "param", "rest", "regex"]
    assert ask("/r/x") == (404, "no_route")


def test_hosts_exact_then_wildcard_then_any(ask):
    ask = ask(
        respond("any", "{path: /}"),
        respond("wild", "{path: /, host: '*.shop.test'}"),
        respond("exact", "{path: /, host: www.shop.test}"),
    )
    hosts = ("www.shop.test", "WWW.SHOP.TEST:8080", "a.b.shop.test", "shop.test", "other")
    assert [ask(host=host) for host in hosts] == ["exact", "exact", "wild", "any", "any"]


def test_headers_and_query_are_conditions(ask):
    ask = ask(
        respond("plain", "{path: /}"),
        respond("beta", "{path: /, headers: {X-Beta: true}}"),
        respond("two", "{path: /, query: {v: '2'}}"),
    )
    assert (ask(), ask(fields="x-beta: \r\n"), ask("/?v=2&w=1"), ask("/?v=3")) == ("plain", "beta", "two", "plain")


def test_404_and_405_tell_apart(gateway):
    running = gateway(
        routes(respond("a", "{path: /a, methods: [GET, PUT]}"), respond("b", "{path: '/a', methods: [DELETE]}"))
    )
    refused = request(running.port, b"POST /a HTTP/1.1\r\nHost: test\r\n\r\n")
    assert why(refused) == (405, "method_not_allowed")
    assert set(refused.get("allow").split(", ")) >= {"GET", "PUT", "DELETE"}
    assert why(get(running.port, "/b")) == (404, "no_route")
    assert [(line.get("route"), line["status"]) for line in running.access_log()] == [(None, 405), (None, 404)]


def test_head_is_taken_where_get_is(gateway):
    running = gateway(routes(respond("a", "{path: /a, methods: [GET]}")))
    answer = request(running.port, b"HEAD /a HTTP/1.1\r\nHost: test\r\n\r\n", "HEAD")
    assert (answer.status, answer.get("content-length"), answer.body) == (200, "1", b"")


@pytest.mark.parametrize(
    "path", ["/admin/secret", "//admin/secret", "/x/../admin/secret", "/%61dmin/secret", "/./admin//secret"]
)
def test_all_spellings_of_a_path_take_the_same_route_and_are_forwarded_in_one_form(gateway, target, path):
    upstream = target()
    text = routes(
        "{name: admin, match: {path: '/admin/{rest...}'}, respond: {status: 403, body: no}}",
        "{name: all, match: {path: '/{rest...}'}, service: s}",
    )
    running = gateway(services({"s": [upstream.url]}, routes=text))
    assert get(running.port, path).status == 403
    assert get(running.port, path.replace("admin", "shop").replace("%61dmin", "shop")).status == 200
    assert upstream.received.startswith(b"GET /shop/secret HTTP/1.1\r\n")


@pytest.mark.parametrize("path", ["/a%2Fb", "/a%00", "/a%5cb", "/..", "/a/../../b", "/%zz", "/a;/..;/b"])
def test_paths_that_are_refused(gateway, path):
    assert why(get(gateway(routes(respond("all", "{path: '/{rest...}'}"))).port, path)) == (400, "invalid_path")


@pytest.mark.parametrize(
    ("match", "change", "path", "seen"),
    [
        ("/shop/{rest...}", "rewrite: '/v2/{rest}'", "/shop/a/b?x=1&x=2", "/v2/a/b?x=1&x=2"),
        ("/u/{id}/{tail...}", "rewrite: '/{tail}/{id}'", "/u/7/a/b", "/a/b/7"),
        ("/shop/{rest...}", "strip_prefix: /shop", "/shop/a?", "/a?"),
        ("/shop/{rest...}", "strip_prefix: true", "/shop/a%20b", "/a%20b"),
        ("/shop/{rest...}", "strip_prefix: /shop", "/shop/", "/"),
    ],
)
def test_what_the_target_sees_as_path(gateway, target, match, change, path, seen):
    upstream = target()
    text = routes(f"{{name: r, match: {{path: '{match}'}}, service: s, {change}}}")
    running = gateway(services({"s": [upstream.url]}, routes=text))
    assert get(running.port, path).status == 200
    assert upstream.received.split(b" ")[1].decode() == seen
    assert running.access_log()[0]["path"] == path.partition("?")[0]


def test_redirect_and_respond(gateway):
    running = gateway(
        routes(
            "{name: old, match: {path: '/old/{rest...}'}, redirect: {to: 'https://new.test/{rest}', status: 301}}",
            "{name: gone, match: {path: /gone}, "
            "respond: {status: 410, body: '{\"a\":1}', content_type: application/json, headers: {X-A: b}}}",
            "{name: empty, match: {path: /empty}, respond: {status: 204}}",
        )
    )
    moved = get(running.port, "/old/a/b")
    assert (moved.status, moved.get("location"), moved.body) == (301, "https://new.test/a/b", b"")
    gone = get(running.port, "/gone")
    assert (gone.status, json.loads(gone.body), gone.get("content-type"), gone.get("x-a")) == (
        410,
        {"a": 1},
        "application/json",
        "b",
    )
    empty = get(running.port, "/empty")
    assert (empty.status, empty.get("content-length"), empty.get("content-type")) == (204, None, None)


def test_a_parameter_cannot_break_out_of_a_redirect(gateway):
    running = gateway(routes("{name: r, match: {path: '/r/{rest...}'}, redirect: {to: '/{rest}'}}"))
    answer = get(running.port, "/r/%0d%0aX-Evil:%201")
    assert answer.get("x-evil") is None
    assert "\n" not in answer.get("location")


def test_priority_decides_between_equals(ask):
    ask = ask(
        respond("low", "{path: /, headers: {X-A: true}}"),
        respond("high", "{path: /, headers: {X-B: true}}", ", priority: 5"),
    )
    assert ask(fields="X-A: 1\r\nX-B: 1\r\n") == "high"
    assert ask(fields="X-A: 1\r\n") == "low"


def test_the_body_limit_of_a_route(gateway, target):
    upstream = target(answer_all(reply(200)))
    text = routes(
        "{name: small, match: {path: /small}, service: s, limits: {body: 4B}}",
        "{name: any, match: {path: /any}, service: s, limits: {body: unlimited}}",
    )
    running = gateway("limits: {body: 8B}\n" + services({"s": [upstream.url]}, routes=text))
    post = "POST {} HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n12345"
    assert why(request(running.port, post.format("/small").encode())) == (413, "body_too_large")
    assert (
        request(running.port, post.format("/any").replace("5\r", "9\r").replace("12345", "123456789").encode()).status
        == 200
    )
