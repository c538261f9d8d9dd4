"""A request whose framing or head is in doubt gets a refusal, and not a byte of it reaches a target.

RFC 9112 sections 2.2, 3, 5, 6 and 7; RFC 9110 sections 5, 7 and 8.6. Raw sockets on both sides.
"""

import threading

import pytest

from tests.kit.recording import Recording, recording, told
from tests.kit.wire import RawSocket

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
FRAMING, MALFORMED, HOST, PATH = "bad_framing", "malformed_request", "invalid_host", "invalid_path"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with recording(tmp_path_factory.mktemp("requests")) as pair:
        yield pair


def post(fields: bytes, body: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n" + body


def chunked(body: bytes) -> bytes:
    return post(CHUNKED, body)


def field(line: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n"


def line(first: bytes) -> bytes:
    return first + b"\r\nHost: a\r\n\r\n"


LENGTHS = {
    "two that differ": b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "two that agree": b"Content-Length: 5\r\nContent-Length: 5\r\n",
    "two, the second in other case": b"Content-Length: 5\r\ncontent-LENGTH: 0\r\n",
    "list that agrees": b"Content-Length: 5, 5\r\n",
    "list that differs": b"Content-Length: 5, 6\r\n",
    "plus": b"Content-Length: +5\r\n",
    "minus": b"Content-Length: -5\r\n",
    "minus zero": b"Content-Length: -0\r\n",
    "hexadecimal": b"Content-Length: 0x5\r\n",
    "hexadecimal digits": b"Content-Length: a\r\n",
    "underscore": b"Content-Length: 5_0\r\n",
    "space within": b"Content-Length: 5 0\r\n",
    "tab within": b"Content-Length: 5\t0\r\n",
    "decimal point": b"Content-Length: 5.0\r\n",
    "exponent": b"Content-Length: 5e0\r\n",
    "quoted": b'Content-Length: "5"\r\n',
    "empty": b"Content-Length:\r\n",
    "blank": b"Content-Length:  \r\n",
    "parameter": b"Content-Length: 5;a\r\n",
    "2**63": b"Content-Length: 9223372036854775808\r\n",
    "2**64 + 5": b"Content-Length: 18446744073709551621\r\n",
    "5,000 digits": b"Content-Length: " + b"9" * 5000 + b"\r\n",
    "superscript digit in latin-1": b"Content-Length: \xb2\r\n",
    "arabic digit in utf-8": b"Content-Length: \xd9\xa5\r\n",
}

CODINGS = {
    "beside a length": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "before a length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "beside a length of 0": b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    "unknown": b"Transfer-Encoding: xchunked\r\n",
    "identity": b"Transfer-Encoding: identity\r\n",
    "gzip": b"Transfer-Encoding: gzip\r\n",
    "gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n",
    "chunked, gzip": b"Transfer-Encoding: chunked, gzip\r\n",
    "chunked, chunked": b"Transfer-Encoding: chunked, chunked\r\n",
    "chunked, identity": b"Transfer-Encoding: chunked, identity\r\n",
    "two fields": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "two fields that differ": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "two fields, the first empty": b"Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n",
    "empty": b"Transfer-Encoding:\r\n",
    "list with an empty member": b"Transfer-Encoding: ,chunked\r\n",
    "list that ends empty": b"Transfer-Encoding: chunked,\r\n",
    "parameter": b"Transfer-Encoding: chunked;q=1\r\n",
    "quoted": b'Transfer-Encoding: "chunked"\r\n',
    "nbsp before": b"Transfer-Encoding: \xa0chunked\r\n",
    "half of the word": b"Transfer-Encoding: chunk\r\n",
    "named by Connection, beside a length": b"Connection: transfer-encoding\r\n" + CHUNKED + b"Content-Length: 5\r\n",
    "length named by Connection": b"Connection: close, content-length\r\n" + CHUNKED + b"Content-Length: 5\r\n",
}

CHUNKS = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "signed size": b"+5\r\nhello\r\n0\r\n\r\n",
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "not hexadecimal": b"g\r\nhello\r\n0\r\n\r\n",
    "underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "space before": b" 5\r\nhello\r\n0\r\n\r\n",
    "space behind": b"5 \r\nhello\r\n0\r\n\r\n",
    "tab behind": b"5\t\r\nhello\r\n0\r\n\r\n",
    "16 digits": b"0000000000000005\r\nhello\r\n0\r\n\r\n",
    "2**64 + 5": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "2**64 - 1": b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "size line of 300 bytes": b"5;" + b"a" * 300 + b"\r\nhello\r\n0\r\n\r\n",
    "size ended by LF": b"5\nhello\r\n0\r\n\r\n",
    "size ended by CR": b"5\rhello\r\n0\r\n\r\n",
    "data ended by LF": b"5\r\nhello\n0\r\n\r\n",
    "two other bytes in the place of CRLF": b"5\r\nhelloXX0\r\n\r\n",
    "LF CR in the place of CRLF": b"5\r\nhello\n\r0\r\n\r\n",
    "data not ended": b"5\r\nhello0\r\n\r\n",
    "more data than its size": b"5\r\nhello!\r\n0\r\n\r\n",
    "less data than its size": b"6\r\nhello\r\n0\r\n\r\n",
    "last chunk ended by LF": b"5\r\nhello\r\n0\n\n",
    "extension without a name": b"5;\r\nhello\r\n0\r\n\r\n",
    "extension with a bare LF": b"5;a=b\nX: y\r\nhello\r\n0\r\n\r\n",
    "extension with a bare CR": b"5;a=\rb\r\nhello\r\n0\r\n\r\n",
    "extension with NUL": b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
    "extension without a semicolon": b"5 a=b\r\nhello\r\n0\r\n\r\n",
    "extension with an open quote": b'5;a="b\r\nhello\r\n0\r\n\r\n',
    "quote over two lines": b'5;a="\r\nhello"\r\n0\r\n\r\n',
}

TRAILERS = {
    "end without CR": b"0\r\n\n",
    "without colon": b"0\r\nnonsense\r\n\r\n",
    "space before the colon": b"0\r\nX : y\r\n\r\n",
    "folded": b"0\r\nX: y\r\n z\r\n\r\n",
    "bare LF": b"0\r\nX: y\nZ: z\r\n\r\n",
    "bare CR": b"0\r\nX: y\rZ: z\r\n\r\n",
    "NUL": b"0\r\nX: \x00\r\n\r\n",
    "a request line": b"0\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
}

HEADS = {
    "LF only": b"GET / HTTP/1.1\nHost: a\n\n",
    "request line ended by LF": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "request line ended by CR": b"GET / HTTP/1.1\rHost: a\r\n\r\n",
    "head ended by LF LF": b"GET / HTTP/1.1\r\nHost: a\n\n" + SMUGGLED,
    "head ended by LF CRLF": b"GET / HTTP/1.1\r\nHost: a\n\r\n",
    "field ended by LF": field(b"A: b\nC: d"),
    "field ended by CR": field(b"A: b\rC: d"),
    "CR within a value": field(b"A: b\rc"),
    "CR CR LF": field(b"A: b\r"),
    "folded with a space": field(b"A: b\r\n c"),
    "folded with a tab": field(b"A: b\r\n\tc"),
    "folded length": post(b"Content-Length:\r\n 5\r\n", b"hello"),
    "folded at once": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "space before a colon": field(b"A : b"),
    "tab before a colon": field(b"A\t: b"),
    "space before the colon of a coding": post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
    "space before the colon of a length": post(b"Content-Length : 5\r\n", b"hello"),
    "space within a name": field(b"A B: c"),
    "no colon": field(b"nonsense"),
    "empty name": field(b": b"),
    "blank name": field(b" : b"),
    "NUL in a value": field(b"A: b\x00c"),
    "NUL in a name": field(b"A\x00: b"),
    "control character in a value": field(b"A: \x01"),
    "DEL in a value": field(b"A: \x7f"),
    "escape in a value": field(b"A: \x1b[0m"),
    "8-bit name": field(b"\xc3\xa4: b"),
    "name with a slash": field(b"a/b: c"),
    "name with a bracket": field(b"a[b]: c"),
    "name with a quote": field(b'"a": c'),
    "vertical tab before a coding": post(b"Transfer-Encoding:\x0bchunked\r\n", b"0\r\n\r\n"),
    "form feed behind a coding": post(b"Transfer-Encoding: chunked\x0c\r\n", b"0\r\n\r\n"),
    "NUL behind a coding": post(b"Transfer-Encoding: chunked\x00\r\n", b"0\r\n\r\n"),
    "CR before a coding": post(b"Transfer-Encoding: \rchunked\r\n", b"0\r\n\r\n"),
    "TLS ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "PROXY protocol": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + SMUGGLED,
    "PROXY protocol 2": b"\r\n\r\n\x00\r\nQUIT\n" + SMUGGLED,
    "NUL bytes": b"\x00" * 32,
    "HTTP/0.9": b"GET /\r\n\r\n",
    "two spaces in the request line": line(b"GET  / HTTP/1.1"),
    "two spaces before the version": line(b"GET /  HTTP/1.1"),
    "space behind the version": line(b"GET / HTTP/1.1 "),
    "space before the method": line(b" GET / HTTP/1.1"),
    "tab in the request line": line(b"GET\t/ HTTP/1.1"),
    "tab before the version": line(b"GET /\tHTTP/1.1"),
    "no target": line(b"GET HTTP/1.1"),
    "space in the target": line(b"GET /a b HTTP/1.1"),
    "lower-case protocol": line(b"GET / http/1.1"),
    "other protocol": line(b"GET / HTTPS/1.1"),
    "version without minor": line(b"GET / HTTP/1"),
    "version of two digits": line(b"GET / HTTP/1.10"),
    "version with zeros": line(b"GET / HTTP/01.1"),
    "version with a sign": line(b"GET / HTTP/+1.1"),
    "8-bit method": line(b"G\xc3\xa4T / HTTP/1.1"),
    "method with a colon": line(b"GET: / HTTP/1.1"),
    "method of 33 letters": line(b"A" * 33 + b" / HTTP/1.1"),
    "empty lines with LF": b"\n\n" + SMUGGLED,
    "CR before the request": b"\r" + SMUGGLED,
}

HOSTS = {
    "missing": b"GET / HTTP/1.1\r\n\r\n",
    "missing among others": b"GET / HTTP/1.1\r\nA: b\r\n\r\n",
    "two": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two that agree": b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
    "two in HTTP/1.0": b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
    "empty": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "list": b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "space": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "user": b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
    "path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "query": b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n",
    "fragment": b"GET / HTTP/1.1\r\nHost: a#b\r\n\r\n",
    "URL": b"GET / HTTP/1.1\r\nHost: http://a\r\n\r\n",
    "backslash": b"GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n",
    "quote": b'GET / HTTP/1.1\r\nHost: a"b\r\n\r\n',
    "8-bit": b"GET / HTTP/1.1\r\nHost: \xc3\xa4\r\n\r\n",
    "port that is none": b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n",
    "port past 65535": b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n",
    "two ports": b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n",
    "open bracket": b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n",
    "empty label": b"GET / HTTP/1.1\r\nHost: a..b\r\n\r\n",
    "missing beside absolute form": b"GET http://a/ HTTP/1.1\r\n\r\n",
    "two beside absolute form": b"GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "empty authority": line(b"GET http:///x HTTP/1.1"),
    "user in absolute form": line(b"GET http://user@a/ HTTP/1.1"),
    "bad port in absolute form": line(b"GET http://a:99999/ HTTP/1.1"),
}

PATHS = {
    "no slash": line(b"GET path HTTP/1.1"),
    "asterisk": line(b"GET * HTTP/1.1"),
    "authority form": line(b"GET a:80 HTTP/1.1"),
    "other scheme": line(b"GET ftp://a/ HTTP/1.1"),
    "scheme alone": line(b"GET http:/a HTTP/1.1"),
    "fragment": line(b"GET /a#b HTTP/1.1"),
    "fragment in the query": line(b"GET /a?b#c HTTP/1.1"),
    "8-bit path": line(b"GET /\xc3\xa4 HTTP/1.1"),
    "8-bit query": line(b"GET /?\xc3\xa4 HTTP/1.1"),
    "NUL in the path": line(b"GET /\x00 HTTP/1.1"),
    "CR in the path": line(b"GET /\r HTTP/1.1"),
    "LF in the query": line(b"GET /?\n HTTP/1.1"),
    "DEL in the path": line(b"GET /\x7f HTTP/1.1"),
    "broken escape": line(b"GET /%4 HTTP/1.1"),
    "escaped NUL": line(b"GET /%00 HTTP/1.1"),
    "escaped slash": line(b"GET /a%2fb HTTP/1.1"),
    "above the root": line(b"GET /../a HTTP/1.1"),
}

OTHERS = {
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501, "unsupported_method"),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "unsupported_version"),
    "HTTP/1.2": (line(b"GET / HTTP/1.2"), 505, "unsupported_version"),
    "HTTP/0.9": (line(b"GET / HTTP/0.9"), 505, "unsupported_version"),
    "HTTP/3.0": (line(b"GET / HTTP/3.0"), 505, "unsupported_version"),
    "unknown expectation": (post(b"Expect: 200-ok\r\nContent-Length: 5\r\n", b"hello"), 417, "expectation_failed"),
    "two expectations": (
        post(b"Expect: 100-continue\r\nExpect: x\r\nContent-Length: 5\r\n", b"hello"), 417, "expectation_failed",
    ),
    "large trailers": (chunked(b"0\r\n" + b"A: %b\r\n" % (b"b" * 3000) * 3 + b"\r\n"), 431, "headers_too_large"),
}  # fmt: skip


def cases():
    for name, fields in LENGTHS.items():
        yield pytest.param(post(fields, b"hello" + SMUGGLED), 400, FRAMING, id=f"length: {name}")
    for name, fields in CODINGS.items():
        yield pytest.param(post(fields, b"5\r\nhello\r\n0\r\n\r\n" + SMUGGLED), 400, FRAMING, id=f"coding: {name}")
    old = b"POST / HTTP/1.0\r\nHost: a\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + SMUGGLED
    yield pytest.param(old, 400, FRAMING, id="coding: in HTTP/1.0")
    for name, body in CHUNKS.items():
        yield pytest.param(chunked(body + SMUGGLED), 400, FRAMING, id=f"chunk: {name}")
    for name, body in TRAILERS.items():
        yield pytest.param(chunked(body + SMUGGLED), 400, MALFORMED, id=f"trailer: {name}")
    for name, data in HEADS.items():
        yield pytest.param(data + SMUGGLED, 400, MALFORMED, id=f"head: {name}")
    for name, data in HOSTS.items():
        yield pytest.param(data + SMUGGLED, 400, HOST, id=f"host: {name}")
    for name, data in PATHS.items():
        yield pytest.param(data + SMUGGLED, 400, PATH, id=f"target: {name}")
    for name, (data, status, reason) in OTHERS.items():
        yield pytest.param(data + SMUGGLED, status, reason, id=f"other: {name}")


@pytest.mark.parametrize(("data", "status", "reason"), list(cases()))
def test_a_doubtful_request_is_refused_and_nothing_crosses(pair: Recording, data, status, reason):
    pair.refused(data, status, reason)


@pytest.mark.parametrize("name", ["LF only", "request line ended by CR", "TLS ClientHello", "NUL bytes"])
def test_what_no_byte_can_make_right_is_not_waited_for(pair: Recording, name):
    pair.refused(HEADS[name], 400, MALFORMED)


@pytest.mark.parametrize("data", [chunked(CHUNKS["0x"]), field(b"A : b"), post(LENGTHS["plus"], b"hello")])
def test_the_same_when_it_comes_byte_by_byte(pair: Recording, data):
    with RawSocket.connect(pair.port) as client:
        client.sock.setsockopt(6, 1, 1)  # TCP_NODELAY
        for index in range(len(data)):
            try:
                client.send(data[index : index + 1])
            except OSError:  # refused before the last byte
                break
        assert client.read_answer().status == 400
        assert client.read_to_end() == b""
    crossed = pair.crossed()
    assert b"smuggled" not in crossed
    assert b"0\r\n\r\n" not in crossed, "the target was told that the body is complete"


def test_requests_before_the_doubtful_one_are_served_and_none_behind_it(pair: Recording):
    good = b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n"
    with RawSocket.connect(pair.port) as client:
        client.send(good + field(b"A : b") + SMUGGLED)
        assert client.read_answer().status == 200
        assert client.read_answer().status == 400
        assert client.read_to_end() == b""
    crossed = pair.crossed()
    assert crossed.startswith(b"GET /first HTTP/1.1\r\n")
    assert crossed.count(b" HTTP/1.1\r\n") == 1


@pytest.mark.parametrize("option", [b"close", b"CLOSE", b"keep-alive, close", b"foo ,\tclose"])
def test_nothing_behind_a_request_that_closes_is_served(pair: Recording, option):
    with RawSocket.connect(pair.port) as client:
        client.send(field(b"Connection: " + option) + SMUGGLED)
        answer = client.read_answer()
        assert (answer.status, answer.get("connection")) == (200, "close")
        assert client.read_to_end() == b""
    assert b"smuggled" not in pair.crossed()


def test_a_body_that_turns_bad_later_is_never_completed_for_the_target(proxy, target):
    half_here, rest = threading.Event(), []

    def script(session):
        session.read_until(b"5\r\nhello\r\n")
        half_here.set()
        rest.append(session.read_to_end())

    upstream = target(script)
    running = proxy(upstream)
    with RawSocket.connect(running.port) as client:
        client.send(chunked(b"5\r\nhello\r\n"))
        assert half_here.wait(10)
        client.send(b"zz\r\n" + SMUGGLED)
        answer = client.read_answer()
        assert (answer.status, told(answer), answer.get("connection")) == (400, FRAMING, "close")
        assert client.read_to_end() == b""
    upstream.join()
    assert rest == [b""], "the body was ended, or the connection used again"


def test_refused_bodies_hold_no_connections_to_the_target(pair: Recording):
    # The pool has one connection: were it lost to one of these, `crossed` would get 503.
    pair.crossed()
    before = len(pair.target.sessions)
    for _ in range(5):
        pair.refused(chunked(b"zz\r\n"), 400, FRAMING)
    assert len(pair.target.sessions) == before, "a connection was opened or closed for them"
