"""An answer whose framing is in doubt becomes a 502, and its connection is never used again.

Also: an answer that breaks off never looks complete, to HTTP/1.1 and to HTTP/1.0 clients (RFC 9112 section 8).
"""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http1.reading import read_responses
from tests.http1.strategies import near_responses
from tests.kit.recording import Recording, recording, told
from tests.kit.wire import OK, RawSocket, TargetSession, answer_all, get, request

FIRST = b"HTTP/1.1 200 OK\r\n"
CHUNKED = FIRST + b"Transfer-Encoding: chunked\r\n\r\n"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

MALFORMED = {
    "length and coding": FIRST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": FIRST + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
    "two lengths": FIRST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "two lengths that agree": FIRST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "list of lengths": FIRST + b"Content-Length: 5, 5\r\n\r\nhello",
    "signed length": FIRST + b"Content-Length: +5\r\n\r\nhello",
    "negative length": FIRST + b"Content-Length: -1\r\n\r\n",
    "empty length": FIRST + b"Content-Length:\r\n\r\n",
    "huge length": FIRST + b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "unknown coding": FIRST + b"Transfer-Encoding: gzip\r\n\r\n",
    "gzip, chunked": FIRST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": FIRST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity": FIRST + b"Transfer-Encoding: identity\r\n\r\n",
    "coding in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size": CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
    "chunk size with 0x": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "chunk size ended by LF": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "chunk without an end": CHUNKED + b"5\r\nhello0\r\n\r\n",
    "trailer": CHUNKED + b"0\r\nno colon\r\n\r\n",
    "LF only": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "LF within": FIRST + b"A: b\nContent-Length: 5\r\n\r\nhello",
    "CR within": FIRST + b"A: b\rC: d\r\nContent-Length: 0\r\n\r\n",
    "LF in a head that has not ended": FIRST + b"A: b\n",
    "folded": FIRST + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    "space before a colon": FIRST + b"Content-Length : 5\r\n\r\nhello",
    "no colon": FIRST + b"nonsense\r\n\r\n",
    "empty name": FIRST + b": b\r\n\r\n",
    "NUL": FIRST + b"A: \0\r\nContent-Length: 0\r\n\r\n",
    "8-bit name": FIRST + b"\xc3\xa4: b\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
    "lower-case protocol": b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "two-digit status": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "four-digit status": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "status 0xx": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    "signed status": b"HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n",
    "two spaces before the status": b"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
    "control character in the phrase": b"HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n",
    "empty line first": b"\r\n" + OK,
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "too large a head": FIRST + b"A: " + b"b" * 70_000 + b"\r\n\r\n",
    "too large a head without an end": FIRST + b"A: " + b"b" * 70_000,
    "too many fields": FIRST + b"A: b\r\n" * 257 + b"\r\n",
    "interim answer with a length": b"HTTP/1.1 103 Early\r\nContent-Length: 5\r\n\r\nhello" + OK,
    "interim answer with a coding": b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n" + OK,
    "interim answers without end": b"HTTP/1.1 103 Early\r\n\r\n" * 40 + OK,
    "101 unasked": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n" + POISON,
}

# These are answers, but what comes with them tells that the connection is out of step.
LAST_ANSWERS = {
    "bytes behind a length": FIRST + b"Content-Length: 2\r\n\r\nok" + POISON,
    "CRLF behind a length": FIRST + b"Content-Length: 2\r\n\r\nok\r\n",
    "bytes behind the last chunk": CHUNKED + b"2\r\nok\r\n0\r\n\r\n" + POISON,
    "204 with a length": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    "204 with a coding": b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
    "204 with a body": b"HTTP/1.1 204 No Content\r\n\r\n" + POISON,
    "304 with a body": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n" + POISON,
    "a body that lasts until the end of the head": FIRST + b"Content-Length: 0\r\n\r\n" + POISON,
    "Connection: close": FIRST + b"Content-Length: 2\r\nConnection: Close\r\n\r\nok",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
}

ALL = {**MALFORMED, **LAST_ANSWERS}


def serve_table(session: TargetSession) -> None:
    """Answer `/table/<name>` with those bytes of the table, and everything else with 200; go on until the end."""
    while True:
        head, _ = session.read_request()
        path = head.split(b" ")[1].decode()
        numbers = path.removeprefix("/table/")
        session.send(list(ALL.values())[int(numbers)] if numbers.isdigit() else OK)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with recording(tmp_path_factory.mktemp("responses"), serve_table) as pair:
        yield pair


def path_of(name: str) -> str:
    return f"/table/{list(ALL).index(name)}"


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_answer_is_a_502_and_its_connection_is_never_used_again(pair: Recording, name):
    pair.crossed()
    before = len(pair.target.sessions)
    with RawSocket.connect(pair.port) as client:
        client.send(f"GET {path_of(name)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        answer = client.read_answer()
        while answer.status == 103:
            answer = client.read_answer()
        assert (answer.status, told(answer)) == (502, "upstream_malformed")
        assert answer.get("content-type") == "application/problem+json"
        # The client did nothing wrong: its connection serves on, over another one to the target.
        client.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_answer().body == b"ok"
    assert len(pair.target.sessions) == before + 1


@pytest.mark.parametrize("name", LAST_ANSWERS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_nothing_behind_an_answer_becomes_the_next_answer(pair: Recording, name, method):
    pair.crossed()
    before = len(pair.target.sessions)
    with RawSocket.connect(pair.port) as client:
        client.send(f"{method} {path_of(name)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        answer = client.read_answer(method)
        assert answer.status == int(ALL[name][9:12])
        assert answer.body in (b"ok", b"")
        client.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_answer().body == b"ok"
    assert len(pair.target.sessions) == before + 1


def test_a_good_connection_is_used_again(pair: Recording):
    """What makes the counts above mean something."""
    pair.crossed()
    before = len(pair.target.sessions)
    for _ in range(3):
        assert get(pair.port, "/again").body == b"ok"
    assert len(pair.target.sessions) == before


def test_an_answer_that_comes_before_a_request_is_nobodys(proxy, target):
    """On a connection that lies idle; bytes there close it."""
    closed = threading.Event()

    def script(session: TargetSession) -> None:
        session.read_request()
        session.send(OK)
        if session is upstream.sessions[0]:
            session.send(POISON)
            assert session.read_to_end() == b""
            closed.set()

    upstream = target(script)
    running = proxy(upstream)
    assert get(running.port).body == b"ok"
    assert closed.wait(10), "the connection with unasked bytes is still open"
    assert get(running.port).body == b"ok"
    assert (len(upstream.sessions), upstream.errors) == (2, [])


def test_an_answer_before_the_request_is_complete_ends_the_connection(proxy, target):
    ended = threading.Event()

    def script(session: TargetSession) -> None:
        session.read_head()
        session.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        session.read_to_end()
        ended.set()

    upstream = target(script)
    running = proxy(upstream)
    with RawSocket.connect(running.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
        answer = client.read_answer()
        assert (answer.status, answer.body, answer.get("connection")) == (403, b"no", "close")
        client.send(b"hello" + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_to_end() == b""
    assert ended.wait(10)
    assert b"smuggled" not in upstream.received
    assert len(upstream.sessions) == 1


BROKEN = {
    "length": (FIRST + b"Content-Length: 100\r\n\r\nhello", False),
    "chunk": (CHUNKED + b"64\r\nhello", False),
    "chunks without the last": (CHUNKED + b"5\r\nhello\r\n", False),
    "trailers without an end": (CHUNKED + b"5\r\nhello\r\n0\r\nA: b\r\n", False),
    "later chunk that is none": (CHUNKED + b"5\r\nhello\r\n", b"zz\r\n"),
    "reset of a length": (FIRST + b"Content-Length: 100\r\n\r\nhello", True),
    "reset of chunks": (CHUNKED + b"5\r\nhello\r\n", True),
    "reset of what lasts until the end": (FIRST + b"\r\nhello", True),
    "reset of HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nhello", True),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_an_answer_that_breaks_off_never_looks_complete(proxy, target, name, version):
    begun = threading.Event()
    data, end = BROKEN[name]

    def script(session: TargetSession) -> None:
        session.read_request()
        session.send(data)
        begun.wait(10)
        if end is True:
            session.reset()
        elif end:
            session.send(end)
            session.read_to_end()

    running = proxy(target(script))
    with RawSocket.connect(running.port) as client:
        client.send(f"GET / HTTP/{version}\r\nHost: a\r\n\r\n".encode())
        head = client.read_until(b"\r\n\r\n").lower()
        client.read_until(b"hello")  # the client has seen the beginning: nothing can be taken back
        begun.set()
        rest = client.read_to_end()
        framed = b"content-length: 100" in head or b"transfer-encoding: chunked" in head
        assert rest in (b"", b"\r\n"), rest
        assert framed or client.was_reset, "an orderly end of an answer without framing says that it is complete"
        assert framed == (version == "1.1" or b"content-length" in head)
    assert running.access_log()[-1]["reason"] in ("upstream_truncated", "upstream_malformed")


def test_an_answer_that_breaks_off_in_its_head_is_a_502(proxy, target):
    def script(session: TargetSession) -> None:
        session.read_request()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r")

    answer = get(proxy(target(script), service="retry: {attempts: 0}").port)
    assert (answer.status, told(answer)) == (502, "upstream_reset")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_complete_answer_looks_complete(proxy, target, version):
    def script(session: TargetSession) -> None:
        session.read_request()
        session.send(FIRST + b"\r\nhello")

    running = proxy(target(script))
    with RawSocket.connect(running.port) as client:
        client.send(f"GET / HTTP/{version}\r\nHost: a\r\n\r\n".encode())
        assert client.read_answer().body == b"hello"
        assert not client.was_reset


def test_interim_answers_cross_and_the_final_one_counts(proxy, target):
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n"
    running = proxy(target(answer_all(early + OK)))
    with RawSocket.connect(running.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_answer().raw_head == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        assert client.read_answer().body == b"ok"
    assert request(running.port, b"GET / HTTP/1.0\r\n\r\n").status == 200, "HTTP/1.0 has no interim answers"


class Puppet:
    """A target's script that answers `/puppet` with `data` and then closes, and all else with 200."""

    def __init__(self) -> None:
        self.data = b""

    def __call__(self, session: TargetSession) -> None:
        while True:
            head, _ = session.read_request()
            if b" /puppet " in head:
                session.send(self.data)
                return
            session.send(OK)


@pytest.fixture(scope="module")
def puppet(tmp_path_factory):
    script = Puppet()
    with recording(tmp_path_factory.mktemp("puppet"), script) as pair:
        yield script, pair.port


@given(st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_target_sends_its_client_gets_one_answer_and_the_next_request_its_own(puppet, data):
    script, port = puppet
    script.data = data.draw(near_responses)
    method = data.draw(st.sampled_from(["GET", "HEAD"]))
    read = read_responses([script.data], method, eof=True)
    if read.refused == "upstream_truncated":
        return  # its head may have been told already: see above
    with RawSocket.connect(port) as client:
        client.send(f"{method} /puppet HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        answer = client.read_answer(method)
        if read.accepted:
            message = read.messages[0]
            assert (answer.status, answer.body) == (message.start[0], message.body)
        else:
            assert answer.status == 502
        client.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_answer().body == b"ok"
