"""What crosses is serialized anew, in one form: the target's bytes are compared with what they must be, all of them.

RFC 9110 sections 7.6 and 9, RFC 9112 sections 3.2 and 7, RFC 7239. Fields keep case, order and duplicates.
"""

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http1.reading import read_requests
from tests.http1.strategies import near_requests
from tests.kit.recording import Recording, recording, without_id
from tests.kit.wire import RawSocket


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with recording(tmp_path_factory.mktemp("serialized")) as pair:
        yield pair


def written(port: int, line: bytes, *fields: bytes, host: bytes = b"a", tail: tuple[bytes, ...] = ()) -> bytes:
    """The head that a target must be sent: `fields` as they were, the gateway's own in their order, `tail` last."""
    named = b";host=" + b'"%b"' % host
    lines = [
        line,
        b"Host: " + host,
        *fields,
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Host: " + host,
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Port: %d" % port,
        b"Forwarded: for=127.0.0.1;proto=http" + named,
        b"Via: 1.1 gatewright",
        b"X-Request-ID: ID",
        *tail,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


# name: (request line, fields that are sent, fields that arrive, what is written behind them)
HEADS = {
    "case, order and duplicates": (
        b"GET / HTTP/1.1",
        (b"x-b: 1", b"X-A: 2", b"X-b: 3", b"ACCEPT: */*", b"Cookie: a=1", b"cookie: b=2", b"Accept: text/html"),
        (b"x-b: 1", b"X-A: 2", b"X-b: 3", b"ACCEPT: */*", b"Cookie: a=1", b"cookie: b=2", b"Accept: text/html"),
        (),
    ),
    "space around values is written in one form": (
        b"GET / HTTP/1.1",
        (b"A:1", b"B:  2", b"C: 3 ", b"D:\t4\t", b"E:", b"F: ", b"G: a  b\tc"),
        (b"A: 1", b"B: 2", b"C: 3", b"D: 4", b"E: ", b"F: ", b"G: a  b\tc"),
        (),
    ),
    "8-bit values": (b"GET / HTTP/1.1", (b"A: \xc3\xa4\xff",), (b"A: \xc3\xa4\xff",), ()),
    "every character of a name": (
        b"GET / HTTP/1.1", (b"!#$%&'*+-.^_`|~09azAZ: b",), (b"!#$%&'*+-.^_`|~09azAZ: b",), (),
    ),
    "hop-by-hop fields stay": (
        b"GET / HTTP/1.1",
        (
            b"Connection: keep-alive",
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"Proxy-Authorization: Basic eDp5",
            b"Proxy-Authenticate: Basic",
            b"HTTP2-Settings: AAMAAABkAAQ",
            b"Upgrade: h2c",
            b"A: b",
        ),
        (b"A: b",),
        (),
    ),
    "fields that Connection names stay": (
        b"GET / HTTP/1.1",
        (b"X-One: 1", b"Connection: x-one ,close,\tX-TWO", b"x-two: 2", b"connection: X-Three", b"X-Three: 3", b"A: b"),
        (b"A: b",),
        (),
    ),
    "Connection cannot name Host or framing": (
        b"POST / HTTP/1.1",
        (b"Connection: host, content-length, transfer-encoding, connection", b"Content-Length: 0"),
        (),
        (b"Content-Length: 0",),
    ),
    "underscores make no managed field": (
        b"POST / HTTP/1.1",
        (
            b"Content_Length: 5",
            b"Transfer_Encoding: chunked",
            b"X_Forwarded_For: 6.6.6.6",
            b"X-Forwarded_Host: evil",
            b"X_Request_Id: evil",
            b"X_Real_IP: 6.6.6.6",
            b"Proxy_Authorization: x",
            b"A_B: c",
        ),
        (b"A_B: c",),
        (b"Content-Length: 0",),
    ),
    "a stranger's word about who forwarded": (
        b"GET / HTTP/1.1",
        (
            b"X-Forwarded-For: 6.6.6.6",
            b"X-Forwarded-Host: evil",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Port: 443",
            b"X-Forwarded-Prefix: /evil",
            b"X-Real-IP: 6.6.6.6",
            b"Forwarded: for=6.6.6.6",
            b"X-Request-ID: evil",
        ),
        (),
        (),
    ),
    "Via is kept": (b"GET / HTTP/1.1", (b"Via: 1.0 fred",), (b"Via: 1.0 fred",), ()),
    "TE": (
        b"GET / HTTP/1.1",
        (b"TE: deflate;q=0.5, Trailers", b"Connection: TE"),
        (),
        (b"TE: trailers", b"Connection: TE"),
    ),
    "TE without trailers": (b"GET / HTTP/1.1", (b"TE: gzip",), (), ()),
    "upgrade": (
        b"GET / HTTP/1.1",
        (b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
        (b"Sec-WebSocket-Version: 13",),
        (b"Upgrade: websocket", b"Connection: Upgrade"),
    ),
    "upgrade that Connection does not name": (b"GET / HTTP/1.1", (b"Upgrade: websocket",), (), ()),
    "upgrade to h2c": (b"GET / HTTP/1.1", (b"Upgrade: h2c", b"Connection: upgrade, http2-settings"), (), ()),
    "upgrade to h2c among others": (b"GET / HTTP/1.1", (b"Upgrade: websocket, H2C", b"Connection: upgrade"), (), ()),
    "a length with zeros": (b"GET / HTTP/1.1", (b"Content-Length: 000",), (), (b"Content-Length: 0",)),
    "no length for GET": (b"GET / HTTP/1.1", (), (), ()),
    "a length for POST": (b"POST / HTTP/1.1", (), (), (b"Content-Length: 0",)),
    "an expectation without a body": (b"GET / HTTP/1.1", (b"Expect: 100-continue",), (), ()),
    "expectations in HTTP/1.0 mean nothing": (b"GET / HTTP/1.0", (b"Expect: x",), (), ()),
    "upgrade in HTTP/1.0 means nothing": (
        b"GET / HTTP/1.0", (b"Connection: upgrade", b"Upgrade: websocket"), (), (),
    ),
    "empty lines before the request": (b"\r\n\r\n\r\nGET /x HTTP/1.1", (), (), ()),
    "query bytes": (b"GET /?a=1&&a=2&=%zz%2f%00+\"<>\\^`{|}[]'/? HTTP/1.1", (), (), ()),
    "empty query": (b"GET /? HTTP/1.1", (), (), ()),
    "unknown method": (b"M-SEARCH / HTTP/1.1", (), (), ()),
    "lower-case method": (b"get / HTTP/1.1", (), (), ()),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("time", ["first", "second"])  # the second time it is known by its bytes
def test_heads(pair: Recording, name, time):
    line, sent, arrives, tail = HEADS[name]
    answer, crossed = pair.exchange(b"\r\n".join([line, b"Host: a", *sent]) + b"\r\n\r\n")
    assert answer.status == 200
    line = line.lstrip(b"\r\n").replace(b"HTTP/1.0", b"HTTP/1.1")
    assert without_id(crossed) == written(pair.port, line, *arrives, tail=tail)


@pytest.mark.parametrize(
    ("sent", "line", "host"),
    [
        (b"GET http://b/x?y HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /x?y HTTP/1.1", b"b"),
        (b"GET HTTP://b:8080 HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1", b"b:8080"),
        (b"GET http://b?y HTTP/1.1\r\nHost: b\r\n\r\n", b"GET /?y HTTP/1.1", b"b"),
        (b"GET http://b/x HTTP/1.0\r\n\r\n", b"GET /x HTTP/1.1", b"b"),
        (b"GET http://b/a/./b//../c%41 HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /a/cA HTTP/1.1", b"b"),
        (b"GET / HTTP/1.1\r\nHOST:\tA.Example:80 \r\n\r\n", b"GET / HTTP/1.1", b"A.Example:80"),
        (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", b"GET / HTTP/1.1", b"[::1]:80"),
        (b"GET /a%2e%2E/b HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /a../b HTTP/1.1", b"a"),
        (b"GET //x/..//y/%7euser/%c3%a4 HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /y/~user/%C3%A4 HTTP/1.1", b"a"),
    ],
)
def test_targets_and_hosts(pair: Recording, sent, line, host):
    answer, crossed = pair.exchange(sent)
    assert answer.status == 200
    assert without_id(crossed) == written(pair.port, line, host=host)


def test_http_1_0_without_a_host_gets_the_targets(pair: Recording):
    answer, crossed = pair.exchange(b"GET /x HTTP/1.0\r\n\r\n")
    assert (answer.status, answer.get("connection")) == (200, "close")
    assert crossed.startswith(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % pair.target.port)
    assert b"X-Forwarded-Host" not in crossed


def test_options_asterisk_is_for_the_gateway_itself(pair: Recording):
    answer, crossed = pair.exchange(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (answer.status, crossed) == (204, b"")
    assert answer.get("allow") is not None
    assert answer.get("content-length") is None


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
WHOLE = b"5\r\nhello\r\n0\r\n\r\n"
# name: (fields and body that are sent, what is written behind the head's fields, body that arrives)
BODIES = {
    "length": (b"Content-Length: 5\r\n\r\nhello", b"Content-Length: 5", b"hello"),
    "length with zeros": (b"Content-Length: 0005\r\n\r\nhello", b"Content-Length: 5", b"hello"),
    "a body that looks like a request": (
        b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        b"Content-Length: %d" % len(SMUGGLED),
        SMUGGLED,
    ),
}
# Chunked bodies that are here with their head cross with a length: one form, and one write.
CHUNKED_BODIES = {
    "chunked": WHOLE,
    "coding in other case": WHOLE,
    "several chunks": b"2\r\nhe\r\n1\r\nl\r\n2\r\nlo\r\n0\r\n\r\n",
    "size with zeros": b"00000005\r\nhello\r\n000\r\n\r\n",
    "extension": b"5;a\r\nhello\r\n0;b=c\r\n\r\n",
    "extension with spaces": b"5 ;\ta = b ; c\r\nhello\r\n0\r\n\r\n",
    "extension that is quoted": b'5;a="b;\\"\\\\ \xff\t0"\r\nhello\r\n0\r\n\r\n',
}


@pytest.mark.parametrize("name", [*BODIES, *CHUNKED_BODIES])
def test_bodies(pair: Recording, name):
    if name in BODIES:
        sent, framing, body = BODIES[name]
    else:
        coding = b"transfer-encoding:  CHUNKED" if "case" in name else CHUNKED
        sent, framing, body = coding + b"\r\n\r\n" + CHUNKED_BODIES[name], b"Content-Length: 5", b"hello"
    answer, crossed = pair.exchange(b"PUT / HTTP/1.1\r\nHost: a\r\n" + sent)
    assert answer.status == 200
    assert without_id(crossed) == written(pair.port, b"PUT / HTTP/1.1", tail=(framing,)) + body


def test_trailers_cross_but_for_those_that_would_change_the_message(pair: Recording):
    forbidden = (
        b"Content-Length: 1\r\nTransfer-Encoding: x\r\nHost: evil\r\nConnection: close\r\nTE: x\r\n"
        b"X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX-Request-ID: evil\r\n"
        b"Expect: x\r\nUpgrade: x\r\nProxy-Authorization: x\r\nKeep-Alive: x\r\n"
    )
    body = b"5\r\nhello\r\n0\r\nX-Sum:1 \r\n" + forbidden + b"x-sum: 2\r\n\r\n"
    answer, crossed = pair.exchange(b"PUT / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\n" + CHUNKED + b"\r\n\r\n" + body)
    assert answer.status == 200
    head = written(pair.port, b"PUT / HTTP/1.1", b"Trailer: X-Sum", tail=(CHUNKED,))
    assert without_id(crossed) == head + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n"


def test_pipelined_requests_cross_one_by_one_and_are_answered_in_order(pair: Recording):
    requests = b"".join(
        b"POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n%d\r\n0\r\n\r\n\r\n" % (n, n)
        for n in range(5)
    )
    with RawSocket.connect(pair.port) as client:
        client.send(requests)
        assert [client.read_answer().status for _ in range(5)] == [200] * 5
    expected = [
        written(pair.port, b"POST /%d HTTP/1.1" % n, tail=(b"Content-Length: 1",)) + b"%d" % n for n in range(5)
    ]
    assert without_id(pair.crossed()) == b"".join(expected)


def as_h11_reads(data: bytes) -> list[tuple[str, str, bytes]]:
    """Return (method, target, body) of every request in `data`; all of it must be requests."""
    seen: list[tuple[str, str, bytes]] = []
    if not data:  # for h11 that is the end of the connection
        return seen
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            seen.append((event.method.decode(), event.target.decode(), b""))
        elif isinstance(event, h11.Data):
            seen[-1] = (*seen[-1][:2], seen[-1][2] + bytes(event.data))
        elif event is h11.PAUSED or event is h11.NEED_DATA:
            if connection.their_state is not h11.DONE:
                assert event is h11.NEED_DATA
                assert not connection.trailing_data[0], "what crossed ends in the middle of a request"
                return seen
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()


@given(st.lists(near_requests, min_size=1, max_size=2).map(b"".join))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_target_reads_the_requests_that_the_gateway_read_and_no_others(pair: Recording, data):
    """Whatever a client sends, the requests behind it are what an independent parser sees of them on the other side."""
    read = read_requests([data])
    complete = [message for message in read.messages if message.complete]
    if len(complete) < len(read.messages) or (read.refused is None and read.rest):
        return  # it waits for more, or streams what it cannot take back
    expected = []
    with RawSocket.connect(pair.port) as client:
        client.send(data)
        for message in complete:
            method, path, query, _ = message.start
            expected.append((method, path if query is None else f"{path}?{query}", message.body))
            answer = client.read_answer()
            assert answer.status == 200
            if answer.get("connection") == "close":
                break
        else:
            assert read.refused is None or client.read_answer().status in (400, 417, 505)
    assert as_h11_reads(pair.crossed()) == expected
