"""Requests from bytes: how they arrive makes no difference, and what was known before makes none either."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.core.limits import Limits
from tests.http1.reading import Outcome, read_requests
from tests.http1.strategies import (
    METHODS,
    bodies,
    chunked_bodies,
    names,
    near_requests,
    noise,
    queries,
    spaces,
    splits,
    targets,
    values,
)

GET = b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n"
LENGTH = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a\r\nhello\r\n0\r\nX: y\r\n\r\n"
STREAMS = {
    "plain": GET,
    "length": LENGTH,
    "chunked with trailers": CHUNKED,
    "pipelined": GET + LENGTH + CHUNKED + GET,
    "empty lines before and between": b"\r\n\r\n" + GET + b"\r\n" + LENGTH + b"\r\n\r\n" + CHUNKED,
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "upgrade with what follows": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n\x01\x02",
    "good, then space before a colon": GET + b"GET / HTTP/1.1\r\nHost : a\r\n\r\n" + GET,
    "good, then LF": GET + b"GET / HTTP/1.1\nHost: a\n\n" + GET,
    "good, then a bad chunk": GET + CHUNKED.replace(b"5;a", b"x") + GET,
    "chunk that does not end": CHUNKED.replace(b"hello\r\n", b"hello!\r\n"),
    "bad trailer": CHUNKED.replace(b"X: y", b"X y"),
    "two lengths": LENGTH.replace(b"Content-Length: 5\r\n", b"Content-Length: 5\r\n" * 2),
    "NUL in a value": GET.replace(b"A: b", b"A: \x00"),
    "CR in a value": GET.replace(b"A: b", b"A: b\rc"),
    "not HTTP": b"\x16\x03\x01\x02\x00",
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_cut_at_any_byte_changes_nothing(name):
    data = STREAMS[name]
    whole = read_requests([data])
    for at in range(1, len(data)):
        assert same(read_requests([data[:at], data[at:]]), whole), at
    assert same(read_requests([data[at : at + 1] for at in range(len(data))]), whole)


def same(one: Outcome, other: Outcome) -> bool:
    """Equal but for what was left unread, which depends on the moment of a refusal."""
    whole = [message for message in one.messages if message.complete or one.refused is None]
    others = [message for message in other.messages if message.complete or other.refused is None]
    return (whole, one.refused) == (others, other.refused)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_cuts_change_nothing_of_what_is_nearly_a_request(data):
    stream = data.draw(near_requests)
    whole, cut = read_requests([stream]), read_requests(data.draw(splits(stream)))
    assert (cut.refused is None) == (whole.refused is None), (whole, cut)
    assert [m for m in cut.messages if m.complete] == [m for m in whole.messages if m.complete]


@st.composite
def valid_requests(draw: st.DrawFn):
    """Return (wire form, what must come out)."""
    method, path, query = draw(st.sampled_from(METHODS)), draw(targets), draw(queries)
    sent = draw(st.lists(st.tuples(names, spaces, values, spaces), max_size=5))
    lines = [b"Host: a", *(name + b":" + before + value + after for name, before, value, after in sent)]
    fields = [(b"host", b"a"), *((name.lower(), value) for name, _, value, _ in sent)]
    body, trailers = draw(bodies), []
    wire_body = body
    if draw(st.booleans()):
        wire_body, body, trailers = draw(chunked_bodies())
        lines.append(b"Transfer-Encoding: chunked")
        fields.append((b"transfer-encoding", b"chunked"))
    else:
        lines.append(b"Content-Length: %d" % len(body))
        fields.append((b"content-length", b"%d" % len(body)))
    url = path if query is None else f"{path}?{query}"
    head = f"{method} {url} HTTP/1.1\r\n".encode() + b"\r\n".join(lines) + b"\r\n\r\n"
    return head + wire_body, ((method, path, query, 1), fields, body, trailers)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_valid_request_comes_out_as_it_went_in(data):
    made = data.draw(st.lists(valid_requests(), min_size=1, max_size=3))
    outcome = read_requests(data.draw(splits(b"".join(wire for wire, _ in made))))
    assert outcome.accepted, outcome
    assert [(m.start, m.fields, m.body, m.trailers) for m in outcome.messages] == [expected for _, expected in made]


@given(noise)
@settings(max_examples=300, deadline=None)
def test_no_bytes_raise_anything_but_a_refusal(data):
    read_requests([data])
    read_requests([b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data])


# What was seen before


@given(near_requests)
@settings(max_examples=150, deadline=None)
def test_a_request_means_the_same_every_time(data):
    first = read_requests([data])
    assert [read_requests([data]) for _ in range(3)] == [first] * 3


TIGHT = Limits(request_line=40, headers=60, header_count=3)
WIDE = Limits(request_line=4000, headers=6000, header_count=30)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET /" + b"a" * 50 + b" HTTP/1.1\r\nHost: a\r\n\r\n", "request_line_too_long"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 50 + b"\r\n\r\n", "headers_too_large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA:b\r\nC:d\r\nE:f\r\n\r\n", "too_many_headers"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: a\r\nA:1\r\nA:2\r\n\r\n", "too_many_headers"),
    ],
)
def test_a_limit_holds_for_a_request_that_was_within_anothers(data, reason):
    for _ in range(3):
        assert read_requests([data], WIDE).accepted
        assert read_requests([data], TIGHT).refused == reason


def test_a_version_does_not_inherit_what_was_known_of_the_other():
    fields = b"\r\nTransfer-Encoding: chunked\r\nHost: a\r\n\r\n0\r\n\r\n"
    for _ in range(3):
        assert read_requests([b"POST / HTTP/1.1" + fields]).accepted
        assert read_requests([b"POST / HTTP/1.0" + fields]).refused == "bad_framing"
    for _ in range(3):
        assert read_requests([b"GET / HTTP/1.0\r\nA: b\r\n\r\n"]).accepted
        assert read_requests([b"GET / HTTP/1.1\r\nA: b\r\n\r\n"]).refused == "invalid_host"


def test_a_target_does_not_inherit_what_was_known_for_another_method():
    for _ in range(3):
        assert read_requests([b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"]).accepted
        assert read_requests([b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"]).refused == "invalid_path"
        assert read_requests([b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n"]).messages[0].start[1] == "*"
        assert read_requests([b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n"]).messages[0].start[1] == "/"


def test_a_plugin_that_edits_a_request_does_not_edit_the_next():
    from gatewright.http1.request_codec import RequestCodec

    for _ in range(3):
        codec = RequestCodec(Limits())
        codec.receive(GET)
        request = codec.next_request()
        assert request is not None
        assert request.headers.get("x-edited") is None
        assert request.headers.get("a") == "b"
        request.headers.set("x-edited", "1")
        request.headers.remove("a")


def test_what_connection_names_is_gone_for_plugins_too_but_never_host_or_framing():
    lines = b"Connection: a, host, content-length\r\nHost: a\r\nContent-Length: 0\r\nA: b\r\nC: d"
    for _ in range(3):
        message = read_requests([b"GET / HTTP/1.1\r\n" + lines + b"\r\n\r\n"]).messages[0]
        assert [name for name, _ in message.fields] == [b"connection", b"host", b"content-length", b"c"]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_the_authority_of_the_target_stands_in_the_place_of_host_for_all_who_look(version):
    other = f"GET / HTTP/{version}\r\nhost: a\r\nB: c\r\n\r\n".encode()
    for _ in range(3):
        message = read_requests([other.replace(b"/", b"http://b:8/x", 1)]).messages[0]
        assert (message.fields, message.facts[-1]) == ([(b"host", b"b:8"), (b"b", b"c")], b"b:8")
        assert read_requests([other]).messages[0].fields[0] == (b"host", b"a")
    alone = read_requests([b"GET http://b HTTP/1.0\r\n\r\n"]).messages[0]
    assert (alone.fields, alone.facts[-1]) == ([(b"host", b"b")], b"b")


def test_empty_lines_cost_no_more_than_their_bytes():
    # Cut off one by one, 4 MiB of them would be copied two million times; the test would not end.
    assert read_requests([b"\r\n" * (2 * 1024 * 1024) + GET]).accepted
