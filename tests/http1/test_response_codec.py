"""Answers from bytes: how they arrive makes no difference, what was asked does, and when in doubt it is no answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.http1.reading import read_responses
from tests.http1.strategies import bodies, chunked_bodies, names, near_responses, noise, spaces, splits, values

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n"
CLOSE = b"HTTP/1.1 200 OK\r\n\r\nhello"
STREAMS = {
    "length": LENGTH,
    "chunked": CHUNKED,
    "until the end": CLOSE,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "interim answers before": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: a\r\n\r\n" + LENGTH,
    "no phrase": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    "LF": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "LF in a field": b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
    "two lengths": LENGTH.replace(b"Content-Length: 5\r\n", b"Content-Length: 5\r\n" * 2),
    "bad chunk": CHUNKED.replace(b"5\r\n", b"5 \r\n"),
    "folded": LENGTH.replace(b"\r\n\r\n", b"\r\n a\r\n\r\n"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_cut_at_any_byte_changes_nothing(name):
    data = STREAMS[name]
    whole = read_responses([data], eof=True)
    for pieces in [
        *([data[:at], data[at:]] for at in range(1, len(data))),
        [data[at : at + 1] for at in range(len(data))],
    ]:
        cut = read_responses(pieces, eof=True)
        assert cut.refused == whole.refused
        assert whole.refused or cut == whole


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_cuts_change_nothing_of_what_is_nearly_an_answer(data):
    stream, method = data.draw(near_responses), data.draw(st.sampled_from(["GET", "HEAD"]))
    whole = read_responses([stream], method)
    cut = read_responses(data.draw(splits(stream)), method)
    assert (cut.refused is None) == (whole.refused is None), (whole, cut)
    assert whole.refused is not None or cut == whole


@st.composite
def valid_responses(draw: st.DrawFn):
    """Return (wire form, what must come out)."""
    status = draw(st.sampled_from([200, 201, 206, 301, 404, 500, 599]))
    sent = draw(st.lists(st.tuples(names, spaces, values, spaces), max_size=5))
    lines = [name + b":" + before + value + after for name, before, value, after in sent]
    fields = [(name.lower(), value) for name, _, value, _ in sent]
    body, trailers, framing = draw(bodies), [], draw(st.sampled_from(["length", "chunked", "close"]))
    wire_body = body
    if framing == "chunked":
        wire_body, body, trailers = draw(chunked_bodies())
        lines.append(b"Transfer-Encoding: chunked")
        fields.append((b"transfer-encoding", b"chunked"))
    elif framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
        fields.append((b"content-length", b"%d" % len(body)))
    head = b"HTTP/1.1 %d Some Phrase\r\n" % status + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    return head + wire_body, ((status, b"Some Phrase", 1), fields, body, trailers)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_valid_answer_comes_out_as_it_went_in(data):
    wire, expected = data.draw(valid_responses())
    outcome = read_responses(data.draw(splits(wire)), eof=True)
    assert outcome.accepted, outcome
    message = outcome.messages[0]
    assert (message.start, message.fields, message.body, message.trailers) == expected


@given(noise)
@settings(max_examples=300, deadline=None)
def test_no_bytes_raise_anything_but_a_refusal(data):
    for stream in ([data], [b"HTTP/1.1 200 OK\r\n" + data], [CHUNKED[:47] + data]):
        read_responses(stream, eof=True)


@given(near_responses, st.sampled_from(["GET", "HEAD"]))
@settings(max_examples=150, deadline=None)
def test_an_answer_means_the_same_every_time(data, method):
    first = read_responses([data], method)
    assert [read_responses([data], method) for _ in range(3)] == [first] * 3


@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_what_was_asked_decides_whether_a_body_follows_also_for_a_head_that_is_known(framing):
    head = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n"
    for _ in range(3):
        bare = read_responses([head + b"rest"], "HEAD")
        assert (bare.accepted, bare.messages[0].body, bare.rest) == (True, b"", b"rest")
        assert not read_responses([head], "GET").accepted


@pytest.mark.parametrize("status", [b"204", b"304"])
def test_some_statuses_have_no_body_whatever_they_say(status):
    outcome = read_responses([b"HTTP/1.1 " + status + b" No\r\nContent-Length: 5\r\n\r\nhello"])
    assert (outcome.messages[0].body, outcome.rest) == (b"", b"hello")


@pytest.mark.parametrize("data", [LENGTH[:-1], CHUNKED[:-2], CHUNKED[:-9]])
def test_an_answer_that_ends_early_is_truncated(data):
    assert read_responses([data], eof=True).refused == "upstream_truncated"
    assert read_responses([data[at : at + 1] for at in range(len(data))], eof=True).refused == "upstream_truncated"


@pytest.mark.parametrize(
    ("head", "stays"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, CLOSE\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n\r\n", False),
        (b"HTTP/1.1 204 No\r\n\r\n", True),
        (b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_whether_the_connection_outlives_the_answer(head, stays):
    for _ in range(3):
        assert read_responses([head]).messages[0].facts[2] is stays
