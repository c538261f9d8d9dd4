"""The chunked coding: what is encoded decodes to the same, wherever it is cut; everything else is refused."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.core.errors import GatewayError
from gatewright.core.headers import make_field
from gatewright.http1.chunked import ChunkedDecoder, Part, encode_chunk, encode_end
from tests.http1.strategies import chunked_bodies, names, splits, values


def decode(pieces):
    """Return (body, trailers, what is left, whether it ended)."""
    decoder = ChunkedDecoder()
    body = rest = b""
    for piece in pieces:
        data, rest = decoder.decode(rest + piece)
        body += data
    return body, [(one[0], one[1]) for one in decoder.trailers], rest, decoder.part is Part.DONE


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_what_is_encoded_decodes_to_the_same(data):
    pieces = data.draw(st.lists(st.binary(min_size=1, max_size=50), max_size=5))
    trailers = [make_field(name, value) for name, value in data.draw(st.lists(st.tuples(names, values), max_size=3))]
    wire = b"".join(map(encode_chunk, pieces)) + encode_end(trailers)
    expected = [(one[0], one[1]) for one in trailers]
    assert decode(data.draw(splits(wire + b"next"))) == (b"".join(pieces), expected, b"next", True)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_every_spelling_that_the_grammar_has_is_read(data):
    wire, body, trailers = data.draw(chunked_bodies())
    assert decode(data.draw(splits(wire))) == (body, trailers, b"", True)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_body_that_is_cut_short_has_not_ended(data):
    wire, body, _ = data.draw(chunked_bodies())
    short = wire[: data.draw(st.integers(0, len(wire) - 1))]
    begun, _, _, ended = decode([short])
    assert not ended
    assert body.startswith(begun)


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"5\r\nhello\r\n", b"0\r\n", b"\r\n", b";a=", b'"'])))
@settings(max_examples=300, deadline=None)
def test_no_bytes_raise_anything_but_a_refusal(pieces):
    with suppress(GatewayError):
        decode(pieces)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\r\n", b"\n\r\n", b" \r\n", b"\t\r\n"])
def test_a_line_ends_with_crlf_and_nothing_else(end):
    for wire in (b"1" + end + b"a\r\n0\r\n\r\n", b"1\r\na" + end + b"0\r\n\r\n", b"1\r\na\r\n0" + end + b"\r\n"):
        with pytest.raises(GatewayError):
            decode([wire])
        with pytest.raises(GatewayError):
            decode([wire[at : at + 1] for at in range(len(wire))])


def test_sizes_to_the_last_that_is_taken():
    decoder = ChunkedDecoder()
    assert decoder.decode(b"f" * 15 + b"\r\nhello") == (b"hello", b"")
    with pytest.raises(GatewayError):
        ChunkedDecoder().decode(b"f" * 16 + b"\r\nhello")


def test_lines_and_trailers_are_bounded_before_they_end():
    for data in (b"1;" + b"a" * 300, b"0\r\nA: " + b"b" * 9000, b"0\r\n" + b"A: b\r\n" * 3000):
        with pytest.raises(GatewayError):
            ChunkedDecoder().decode(data)


def test_a_trailer_that_the_header_section_knows_is_left_out_every_time():
    for _ in range(3):  # the lines are remembered for head and trailers alike
        wire = b"0\r\nContent-Length: 7\r\nHOST: a\r\nX-Forwarded-For: b\r\nX: y\r\n\r\n"
        assert decode([wire]) == (b"", [(b"x", b"y")], b"", True)
