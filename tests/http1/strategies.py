"""Messages for hypothesis: valid ones, near misses made of the pieces that attacks are made of, and noise."""

from hypothesis import strategies as st

from gatewright.core.headers import mark_of

TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

# Names that mean something to the codec would make a generated message another one: those that the gateway manages too,
# for it leaves them out of trailers.
names = (
    st.text(TOKEN, min_size=1, max_size=12)
    .map(lambda text: b"X-" + text.encode())
    .filter(lambda name: not mark_of(name.lower()))
)
_visible = st.integers(0x21, 0x7E) | st.integers(0x80, 0xFF)
_inner = st.lists(_visible | st.sampled_from([0x20, 0x09]), max_size=20).map(bytes)
values = _inner.map(lambda value: value.strip(b" \t"))
spaces = st.sampled_from([b"", b" ", b"\t", b"  \t "])
targets = st.text("abcXYZ019-._~!$&'()*+,;=:@", max_size=10).map(lambda text: "/x" + text)
queries = st.none() | st.text('abc019?/=&%+"<>[]{}|^`', max_size=10)
bodies = st.binary(max_size=80)


@st.composite
def splits(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Cut `data` anywhere."""
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=12)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < end]


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    """Return (wire form, body, trailers)."""
    wire, body = b"", b""
    for piece in draw(st.lists(st.binary(min_size=1, max_size=30), max_size=4)):
        size = draw(st.sampled_from([b"%x", b"%X", b"000%x"])) % len(piece)
        extension = draw(st.sampled_from([b"", b";a", b";a=b", b' ; a = "b;\\"c"', b";a;b=c"]))
        wire += size + extension + b"\r\n" + piece + b"\r\n"
        body += piece
    trailers = draw(st.lists(st.tuples(names, values), max_size=2))
    wire += b"0\r\n" + b"".join(name + b": " + value + b"\r\n" for name, value in trailers) + b"\r\n"
    return wire, body, [(name.lower(), value) for name, value in trailers]


LINES = [
    b"Host: a", b"Host: b", b"host:a", b"Host : a", b"Host:", b"Host: a/b", b"A: b", b"A : b", b" folded", b": b", b"A",
    b"A: \x00", b"A: \xff", b"A\xff: b", b"Content-Length: 5", b"Content-Length: 05", b"Content-Length: 6",
    b"Content-Length: 0", b"Content-Length: +5", b"Content-Length: 5, 5", b"Content-Length: 0x5", b"Content-Length: 5 ",
    b"Content-Length:", b"Content_Length: 5", b"Content-Length : 5", b"content-length:5", b"Content-Length: 5\x0b",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: Chunked", b"transfer-encoding:chunked ",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: identity", b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: chunked;q=1", b"Transfer_Encoding: chunked", b"Expect: 100-continue", b"Connection: close",
    b"Connection: keep-alive", b"TE: trailers", b"A: b\rc", b"A: b\nc",
]  # fmt: skip
REQUEST_LINES = [
    b"GET / HTTP/1.1", b"POST /a?b HTTP/1.1", b"PUT / HTTP/1.0", b"GET  / HTTP/1.1", b"GET / HTTP/1.1 ",
    b" GET / HTTP/1.1", b"GET /\t HTTP/1.1", b"GET / HTTP/1.2", b"GET / HTTP/2.0", b"GET /", b"G\x00T / HTTP/1.1",
    b"GET /\xff HTTP/1.1", b"GET /#a HTTP/1.1", b"GET / http/1.1",
]  # fmt: skip
STATUS_LINES = [
    b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No", b"HTTP/1.1 304 No",
    b"HTTP/1.1 500 a\xff", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/2 200 OK", b"HTTP/1.1  200 OK",
    b"http/1.1 200 OK", b"HTTP/1.1 200 O\x00", b"HTTP/1.2 200 OK", b" HTTP/1.1 200 OK",
]  # fmt: skip
BODIES = [
    b"", b"hello", b"hello!", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n", b"5\r\nhello\n\r0\r\n\r\n",
    b"05;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n", b"-5\r\nhello\r\n0\r\n\r\n", b"5 \r\nhello\r\n0\r\n\r\n",
    b"5;a=\nb\r\nhello\r\n0\r\n\r\n", b"0\r\nA : b\r\n\r\n", b"0\r\nGET / HTTP/1.1\r\n\r\n", b"5\r\nhello\r\n0\r\n\n",
    b"0x5\r\nhello\r\n0\r\n\r\n", b"10000000000000005\r\nhello\r\n0\r\n\r\n", b"5;\r\nhello\r\n0\r\n\r\n",
]  # fmt: skip


GOOD_LINES = [
    b"A: b", b"a:b", b"A: \xff", b"A:", b"Connection: close", b"Connection: keep-alive", b"TE: trailers", b"A: b ",
    b"Content_Length: 6", b"Transfer_Encoding: gzip", b"Via: 1.1 x", b"Expect: 100-continue",
]  # fmt: skip
FRAMINGS = [
    (b"", b""), (b"Content-Length: 5", b"hello"), (b"content-length:005 ", b"hello!"), (b"Content-Length: 0", b"x"),
    (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"), (b"Transfer-Encoding:Chunked\t", b"0\r\nA: b\r\n\r\n"),
    (b"transfer-encoding: chunked", b"05;a=b\r\nhello\r\n00\r\nA:b \r\nTE: x\r\n\r\n"),
]  # fmt: skip
ODD_BYTES = [b"\r", b"\n", b"\0", b" ", b"\t", b",", b"\x0b", b"\x85", b"0", b":", b";"]


@st.composite
def _near(draw: st.DrawFn, firsts: list[bytes], always: list[bytes]) -> bytes:
    """A good message with up to two oddities: a line, a line's end, the body or a byte that does not belong there."""
    framing, body = draw(st.sampled_from(FRAMINGS))
    lines = [*always, *draw(st.lists(st.sampled_from(GOOD_LINES), max_size=2)), *([framing] if framing else [])]
    lines = [draw(st.sampled_from(firsts[:3])), *draw(st.permutations(lines))]
    oddities = draw(st.lists(st.sampled_from(["first", "line", "line", "end", "body", "byte"]), max_size=2))
    if "first" in oddities:
        lines[0] = draw(st.sampled_from(firsts))
    if "line" in oddities:
        lines.insert(draw(st.integers(1, len(lines))), draw(st.sampled_from(LINES)))
    ends = [b"\r\n"] * (len(lines) + 1)
    if "end" in oddities:
        ends[draw(st.integers(0, len(lines)))] = draw(
            st.sampled_from([b"\n", b"\r", b"\r\r\n", b"\n\r", b" \r\n", b""])
        )
    if "body" in oddities:
        body = draw(st.sampled_from(BODIES))
    data = b"".join(line + end for line, end in zip(lines, ends, strict=False)) + ends[-1] + body
    if "byte" in oddities:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.sampled_from(ODD_BYTES)) + data[at:]
    return data


near_requests = _near(REQUEST_LINES, [b"Host: a"])
near_responses = _near(STATUS_LINES, [])
noise = st.binary(max_size=200) | st.lists(
    st.sampled_from([*LINES, *REQUEST_LINES, *STATUS_LINES, *BODIES, b"\r\n", b"\r\n", b"\r\n\r\n", b"\r", b"\n"]),
    max_size=12,
).map(b"".join)
