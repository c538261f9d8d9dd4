"""The grammar of path and host patterns: what each text becomes, and the sentence that refuses the others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.core.errors import RequestError
from gatewright.core.target import is_valid_host, parse_target
from gatewright.routing.pattern import Pattern, parse, parse_host


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("*", "*"),
        ("/%7Euser", "/~user"),
        ("/a%20b", "/a%20b"),
        ("/a b", "/a%20b"),
        ("/caf\u00e9", "/caf%C3%A9"),
        ("/a%3ab", "/a%3Ab"),
        ("/%7bid%7d", "/%7Bid%7D"),
    ],
)
def test_exact(text: str, exact: str) -> None:
    assert parse(text) == Pattern(text, exact=exact)


@pytest.mark.parametrize(
    ("text", "segments", "params", "rest"),
    [
        ("/items/{id}", ("items", None), (("id", 1),), None),
        ("/items/{id}/", ("items", None, ""), (("id", 1),), None),
        ("/{a}/x%20y/{b_2}", (None, "x%20y", None), (("a", 0), ("b_2", 2)), None),
        ("/a/{rest...}", ("a",), (), "rest"),
        ("/a/*", ("a",), (), "rest"),
        ("/*", (), (), "rest"),
        ("/{tail...}", (), (), "tail"),
        ("/{a}/{tail...}", (None,), (("a", 0),), "tail"),
    ],
)
def test_parameters(text: str, segments: tuple[str | None, ...], params: object, rest: str | None) -> None:
    pattern = parse(text)
    assert (pattern.segments, pattern.params, pattern.rest) == (segments, params, rest)
    assert pattern.exact is None
    assert pattern.regex is None


def test_regex() -> None:
    pattern = parse(r"~/v(?P<version>\d+)/.*")
    assert pattern.regex is not None
    assert pattern.regex.pattern == r"/v(?P<version>\d+)/.*"
    assert pattern.names == {"version"}


def test_names_of_what_is_captured() -> None:
    assert parse("/{a}/{b}/{rest...}").names == {"a", "b", "rest"}
    assert parse("/a").names == set()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "does not begin with"),
        ("a/b", "does not begin with"),
        ("/a?b=c", "query"),
        ("/a#b", "query"),
        ("/v{n}", "mixes text and a parameter"),
        ("/{n}x", "mixes text and a parameter"),
        ("/{n", "mixes text and a parameter"),
        ("/n}", "mixes text and a parameter"),
        ("/{}", "is no parameter"),
        ("/{a-b}", "is no parameter"),
        ("/{1}", "is no parameter"),
        ("/{...}", "is no parameter"),
        ("/{rest:path}", "write {rest...}"),
        ("/{a}/{a}", "two parameters named 'a'"),
        ("/{rest}/*", "two parameters named 'rest'"),
        ("/{rest...}/a", "may only end"),
        ("/{rest...}/", "may only end"),
        ("/*/a", "may only end"),
        ("/a*", "segment of its own"),
        ("/**", "segment of its own"),
        ("//a", 'holds "//"'),
        ("/a/../b", "can never match"),
        ("/a/.", "dot segment"),
        ("/a/%2e", "dot segment"),
        ("/a/..;x", "can never match"),
        ("/a%2Fb", "%2F"),
        ("/a\\b", "%5C"),
        ("/a%00", "%00"),
        ("/100%", "can never match"),
        ("~", "no regular expression behind it"),
        ("~/(", "not a valid regular expression"),
        ("~/(?P<a>.)(?P<a>.)", "not a valid regular expression"),
    ],
)
def test_refused_with_a_sentence(text: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert says in str(caught.value)
    assert repr(text)[1:-1] in str(caught.value)


@given(st.text("ab/{}.*%2eF;?: \u00e9\\", max_size=12))
def test_any_text_is_refused_or_is_a_path_that_a_request_can_have(text: str) -> None:
    try:
        pattern = parse("/" + text)
    except ValueError:
        return
    path = pattern.exact or "/" + "/".join("x" if segment is None else segment for segment in pattern.segments)
    assert parse_target(path.encode("ascii"), "GET").path == path


def as_sent(segment: str) -> str:
    """Escape what a browser escapes."""
    return "".join(c if "!" < c < "\x7f" else "".join(f"%{byte:02x}" for byte in c.encode()) for c in segment)


@given(st.text("ab~%7eE.;:@| \u00e9", min_size=1, max_size=8))
def test_a_literal_takes_what_a_request_for_it_becomes(segment: str) -> None:
    try:
        path = parse_target(b"/x/" + as_sent(segment).encode(), "GET").path
    except RequestError:
        path = "/"
    if path in ("/", "/x/"):  # refused, or a dot segment that names another path
        with pytest.raises(ValueError):
            parse("/x/" + segment)
    else:
        assert parse("/x/" + segment).exact == path


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("api.example.com", "api.example.com"),
        ("API.Example.COM.", "api.example.com"),
        ("*.Example.com", "*.example.com"),
        ("localhost", "localhost"),
        ("service_a", "service_a"),
        ("10.0.0.1", "10.0.0.1"),
        ("[2001:DB8::1]", "[2001:db8::1]"),
    ],
)
def test_hosts(text: str, host: str) -> None:
    assert parse_host(text) == host == parse_host(host)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("*", "leave `host` out"),
        ("a.example:80", "port"),
        ("m\u00fcnchen.example", "xn--"),
        ("a.*.example", "neither"),
        ("*example.com", "neither"),
        ("*.*.example.com", "neither"),
        ("", "neither"),
        ("a..b", "neither"),
        ("a/b", "neither"),
    ],
)
def test_hosts_refused_with_a_sentence(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="the host") as caught:
        parse_host(text)
    assert says in str(caught.value)


@given(st.text("aB.-_*:[]0", max_size=12))
def test_a_host_that_is_parsed_can_be_asked_for(text: str) -> None:
    try:
        host = parse_host(text)
    except ValueError:
        return
    assert is_valid_host(host.removeprefix("*.").encode())
