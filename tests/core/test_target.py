"""Request targets: what one path becomes, what is refused, and laws that hold for every path."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatewright.core.errors import Reason, RequestError
from gatewright.core.target import Target, host_name, is_valid_host, normalise_path, parse_target

_PIECES = [
    "a",
    "B",
    "~",
    "-",
    "/",
    "//",
    ".",
    "..",
    ";",
    ":",
    "@",
    "|",
    "{",
    '"',
    "%7e",
    "%41",
    "%2e",
    "%2E",
    "%25",
]
_PIECES += ["%3b", "%20", "%2f", "%5C", "%00", "%zz", "%", "%e2%82%ac", "*", "+", "%7b", "="]
PATHS = st.lists(st.sampled_from(_PIECES), max_size=12).map(lambda pieces: "/" + "".join(pieces))


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("//a///b", "/a/b"),
        ("//other.example/a", "/other.example/a"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/..", "/"),
        ("/a/.", "/a/"),
        ("/a//", "/a/"),
        ("/a/%2e%2E/b", "/b"),
        ("/.well-known/x", "/.well-known/x"),
        ("/..a/b..", "/..a/b.."),
        ("/%7Euser/%61", "/~user/a"),
        ("/a%20b%c3%a9", "/a%20b%C3%A9"),
        ("/%252e%252e/%252F", "/%252e%252e/%252F"),
        ("/a;v=1/b:c@d", "/a;v=1/b:c@d"),
        ("/a%3bv", "/a%3Bv"),
        ('/a|b^`{}"[]', "/a%7Cb%5E%60%7B%7D%22%5B%5D"),
    ],
)
def test_one_form(raw: str, path: str) -> None:
    assert parse_target(raw.encode(), "GET") == Target(path, None, None, None)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "a",
        "*",
        "/..",
        "/a/../../b",
        "/%2e%2e",
        "/a%2fb",
        "/a%2F",
        "/%5c",
        "/%00",
        "/%",
        "/%4",
        "/%zz",
        "/..;/a",
        "/.;x",
        "/%2e%2e;a",
        "/a b",
        "/a\\b",
        "/a#b",
        "/a\x00",
        "/a\n",
        "/<",
        "/\u00e9",
        "ftp://a/",
        "example.com:443",
        "/a?b#c",
        "/a?b c",
        "http:/a",
        "http://a/%2f",
    ],
)
def test_refused(raw: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_target(raw.encode("latin-1"), "GET")
    assert caught.value.reason == Reason.INVALID_PATH


@pytest.mark.parametrize(
    ("raw", "method", "target"),
    [
        (b"/a?", "GET", Target("/a", "", None, None)),
        (b"/a?b=%2f&b=//../x?y", "GET", Target("/a", "b=%2f&b=//../x?y", None, None)),
        (b"/a|b?c", "GET", Target("/a%7Cb", "c", None, None)),
        (b"*", "OPTIONS", Target("*", None, None, None)),
        (b"http://a.example", "GET", Target("/", None, b"a.example", "http")),
        (b"http://a.example?b", "GET", Target("/", "b", b"a.example", "http")),
        (b"HTTPS://A.example:8443//a/../b?c", "GET", Target("/b", "c", b"A.example:8443", "https")),
        (b"http://[::1]:80/a", "GET", Target("/a", None, b"[::1]:80", "http")),
        # RFC 9112 section 3.2.4: asks about the server, not about "/"
        (b"http://a.example", "OPTIONS", Target("*", None, b"a.example", "http")),
        (b"http://a.example/", "OPTIONS", Target("/", None, b"a.example", "http")),
    ],
)
def test_forms_and_queries(raw: bytes, method: str, target: Target) -> None:
    assert parse_target(raw, method) == target


@pytest.mark.parametrize(
    "authority", [b"", b"user@a", b"a@b:80", b"a:99999", b"a:", b"a:b", b"a b", b"[::1", b"a..b", b".a"]
)
def test_absolute_form_with_a_bad_host(authority: bytes) -> None:
    raw = b"http://" + authority + b"/"
    with pytest.raises(RequestError) as caught:
        parse_target(raw, "GET")
    assert caught.value.reason == Reason.INVALID_HOST


@given(PATHS)
@example("/%25%37%65")
@example("/%2525%32f")
@example("/a/%2e/%2e%2e/")
def test_what_is_normalised_stays_so_and_cannot_be_misread(raw: str) -> None:
    try:
        path = normalise_path(raw)
    except RequestError:
        return
    assert normalise_path(path) == path
    assert parse_target(path.encode("ascii"), "GET").path == path
    assert path.startswith("/")
    assert "//" not in path
    assert not {".", ".."} & set(path.split("/"))
    assert not re.search(r"%(00|2f|5c)", path, re.IGNORECASE)
    assert re.fullmatch(r"(?:[/A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-F]{2})*", path)
    for escape in re.findall(r"%([0-9A-F]{2})", path):
        assert not re.fullmatch(r"[A-Za-z0-9\-._~]", chr(int(escape, 16)))


@given(PATHS)
def test_the_short_way_gives_what_the_long_way_gives(raw: str) -> None:
    def outcome(function: object) -> object:
        try:
            return function()  # type: ignore[operator]
        except RequestError as error:
            return error.reason

    assert outcome(lambda: parse_target(raw.encode(), "GET").path) == outcome(lambda: normalise_path(raw))
    absolute = b"http://a.example" + raw.encode()
    assert outcome(lambda: parse_target(absolute, "GET").path) == outcome(lambda: normalise_path(raw))


@given(st.text("ab~-._ /%{é€", max_size=12), st.integers(0, 40))
def test_escaping_what_is_equal_when_escaped_changes_nothing(raw: str, at: int) -> None:
    """Two spellings that RFC 3986 calls equal are one path, so no route is evaded by a spelling."""
    path = "/" + raw.replace("%", "%25")
    at = 1 + at % len(path)
    if at >= len(path) or path[at] in "/%" or "%" in path[max(0, at - 2) : at]:
        return
    spelled = path[:at] + "".join(f"%{byte:02x}" for byte in path[at].encode()) + path[at + 1 :]
    try:
        expected = normalise_path(path)
    except RequestError:
        with pytest.raises(RequestError):
            normalise_path(spelled)
        return
    assert normalise_path(spelled) == expected


@given(st.binary(max_size=40), st.sampled_from(["GET", "OPTIONS", "CONNECT"]))
def test_any_bytes_are_taken_or_refused(raw: bytes, method: str) -> None:
    try:
        target = parse_target(raw, method)
    except RequestError:
        return
    assert target.path == "*" or parse_target(target.path.encode(), method).path == target.path


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"Example.COM", "example.com"),
        (b"example.com:8080", "example.com"),
        (b"example.com.", "example.com"),
        (b"example.com.:80", "example.com"),
        (b"service_a", "service_a"),
        (b"127.0.0.1:65535", "127.0.0.1"),
        (b"[::1]", "[::1]"),
        (b"[2001:DB8::1]:443", "[2001:db8::1]"),
    ],
)
def test_hosts(host: bytes, name: str) -> None:
    assert is_valid_host(host)
    assert host_name(host.decode()) == name


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b".",
        b"..",
        b"a..b",
        b"a..",
        b".a",
        b"a b",
        b"a,b",
        b"a/b",
        b"a@b",
        b"a:65536",
        b"a:x",
        b"a:1:2",
        b"a:",
        b":80",
        b"::1",
        b"[::1",
        b"[]",
        b"[g::]",
        b"a\n",
        b"a\x00",
        b"\xc3\xa9",
        b"a%41",
        b"*.a",
        b"a:-1",
        b"a?b",
        b"a#b",
    ],
)
def test_hosts_that_are_none(host: bytes) -> None:
    assert not is_valid_host(host)


@given(st.text("aB.-_:[]0", max_size=20))
def test_a_host_name_is_a_host_again(text: str) -> None:
    if is_valid_host(text.encode()):
        name = host_name(text)
        assert is_valid_host(name.encode())
        assert host_name(name) == name == host_name(name.upper() + ":80")
