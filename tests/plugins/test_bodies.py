"""Plugins and bodies: buffered where a plugin asks for it, otherwise streams that stay streams."""

import queue
import threading

import pytest

from tests.kit.answers import plan, reply, why
from tests.kit.inside import NOTHING, Finished, at_rest, until
from tests.kit.inside import target as inner
from tests.kit.wire import OK, TIMEOUT, RawSocket, get, request
from tests.plugins.body_kit import GET, chunked, echo, post, starter


@pytest.fixture
def plugged(gateway, target):
    return starter(gateway, target)


# The request's body, buffered

UPPER = """
class Upper(Plugin[PluginConfig]):
    body = "buffer"
    max_body = 1000
    def wants_body(self, exchange):
        return exchange.request.path != "/stream"
    def on_request(self, exchange):
        if self.wants_body(exchange):
            exchange.request.body = exchange.request.body.upper() + b"!"
class AsyncUpper(Upper, name="async_upper"):
    async def on_request(self, exchange):
        await asyncio.sleep(0)
        Upper.on_request(self, exchange)
"""


@pytest.mark.parametrize("name", ["Upper", "AsyncUpper"])
@pytest.mark.parametrize("data", [post(b"hello"), chunked(b"he", b"llo")], ids=["length", "chunked"])
def test_a_buffered_body_can_be_read_and_replaced(plugged, name, data):
    running, upstream = plugged(UPPER, name, echo)
    assert request(running.port, data).body == b"HELLO!"
    assert b"Content-Length: 6\r\n" in upstream.received
    assert b"chunked" not in upstream.received


def test_a_body_that_comes_in_pieces_is_waited_for(plugged):
    running, upstream = plugged(UPPER, "Upper", echo)
    with RawSocket.connect(running.port) as client:
        client.send(post(b"hello")[:-2])
        until(running, lambda: running.gateway._proxy.in_flight == 1)
        assert upstream.sessions == []
        client.send(b"lo")
        assert client.read_answer().body == b"HELLO!"


def test_a_client_that_waits_for_100_is_told_to_go_on(plugged):
    running, upstream = plugged(UPPER, "Upper", echo)
    with RawSocket.connect(running.port) as client:
        client.send(post(b"hello", fields="Expect: 100-continue\r\n")[:-5])
        assert client.read_answer().status == 100
        client.send(b"hello")
        assert client.read_answer().body == b"HELLO!"
    assert b"xpect" not in upstream.received


@pytest.mark.parametrize("data", [post(b"x" * 1001), chunked(b"x" * 600, b"x" * 600)], ids=["length", "chunked"])
def test_a_body_past_the_plugins_limit_is_refused(plugged, data):
    running, upstream = plugged(UPPER, "Upper", echo)
    assert why(request(running.port, data)) == (413, "body_too_large")
    assert upstream.sessions == []
    assert at_rest(running) == NOTHING


def test_what_a_plugin_does_not_want_is_not_buffered(plugged):
    """A body past the limit crosses, and its first piece is at the target before its last has left the client."""
    first = threading.Event()

    def script(session):
        session.read_until(b"\r\n\r\n")
        session.read_exactly(10)
        first.set()
        session.read_exactly(1990)
        session.send(OK)

    running, _ = plugged(UPPER, "Upper", script)
    with RawSocket.connect(running.port) as client:
        client.send(post(b"x" * 2000, "/stream")[:-1990])
        assert first.wait(TIMEOUT)
        client.send(b"x" * 1990)
        assert client.read_answer().status == 200


def test_a_plugin_that_did_not_ask_cannot_read_a_body(plugged):
    code = """
class Peek(Plugin[PluginConfig]):
    def on_request(self, exchange):
        exchange.request.body
"""
    running, _ = plugged(UPPER + code, "Upper Peek", echo)
    assert why(request(running.port, post(b"hello"))) == (500, "plugin_error")
    assert 'declare body = "buffer"' in running.access_log()[0]["cause"]


def test_a_client_that_goes_while_its_body_is_buffered_leaves_nothing(plugged):
    running, upstream = plugged(UPPER, "Upper", echo)
    finished = Finished(running)
    with RawSocket.connect(running.port) as client:
        client.send(post(b"hello")[:-1])
        until(running, lambda: running.gateway._proxy.in_flight == 1)
    assert finished.next().reason == "client_gone"
    assert (at_rest(running), upstream.sessions) == (NOTHING, [])


# The answer's body, buffered

LOWER = """
class Lower(Plugin[PluginConfig]):
    response_body = "buffer"
    max_body = 1000
    def wants_response_body(self, exchange, response):
        return exchange.request.path != "/stream"
    def on_response(self, exchange, response):
        if self.wants_response_body(exchange, response):
            response.body = response.body.lower() + b"."
"""
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nHEL\r\n2\r\nLO\r\n0\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nHELLO"


@pytest.mark.parametrize("answer", [reply(200, b"HELLO"), CHUNKED, UNTIL_CLOSE], ids=["length", "chunked", "close"])
def test_a_buffered_answer_can_be_read_and_replaced(plugged, answer):
    def script(session):
        session.read_request()
        session.send(answer)

    running, _ = plugged(LOWER, "Lower", script)
    got = get(running.port)
    assert (got.body, got.get("content-length")) == (b"hello.", "6")


@pytest.mark.parametrize("pieces", [[reply(200, b"X" * 1001)], [reply(200, b"X" * 1001)[:-900], b"X" * 900]])
def test_an_answer_past_the_plugins_limit_gives_502_and_is_no_failure_of_the_target(plugged, pieces):
    go = threading.Semaphore(0)

    def script(session):
        session.read_request()
        for piece in pieces:
            session.send(piece)
            go.acquire(timeout=0 if len(pieces) == 1 else 0.05)
        session.read_to_end()

    running, _ = plugged(LOWER, "Lower", script)
    assert why(get(running.port)) == (502, "response_too_large")
    assert running.call(lambda: inner(running).consecutive_failures) == 0
    assert at_rest(running) == NOTHING


def test_an_answer_that_breaks_while_it_is_buffered_gives_502(plugged):
    def script(session):
        session.read_request()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    running, _ = plugged(LOWER, "Lower", script)
    assert why(get(running.port)) == (502, "upstream_truncated")
    assert running.call(lambda: inner(running).consecutive_failures) == 1
    assert at_rest(running) == NOTHING


def test_an_answer_that_is_not_wanted_streams(plugged):
    go = threading.Event()

    def script(session):
        session.read_request()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"X" * 10)
        assert go.wait(TIMEOUT)
        session.send(b"X" * 1990)

    running, _ = plugged(LOWER, "Lower", script)
    with RawSocket.connect(running.port) as client:
        client.send(GET.replace(b"/ ", b"/stream "))
        client.read_until(b"XXXXXXXXXX")
        go.set()
        assert client.read_exactly(1990) == b"X" * 1990


# Pieces of a stream

CHUNKS = """
class Count(Plugin[PluginConfig]):
    def on_request_chunk(self, exchange, chunk):
        return b"<%d>" % exchange.state.get("in", 0) if not chunk else self.add(exchange, "in", chunk)
    def on_response_chunk(self, exchange, chunk):
        return b"[%d]" % exchange.state.get("out", 0) if not chunk else self.add(exchange, "out", chunk)
    def add(self, exchange, key, chunk):
        exchange.state[key] = exchange.state.get(key, 0) + len(chunk)
        return chunk.upper()
class Mark(Plugin[PluginConfig]):
    def on_request_chunk(self, exchange, chunk):
        return chunk.replace(b"<", b"{") + (b"" if chunk else b"end")
"""


@pytest.mark.parametrize("data", [post(b"hello"), chunked(b"he", b"llo")], ids=["length", "chunked"])
def test_chunk_hooks_change_both_directions_in_order(plugged, data):
    running, _ = plugged(CHUNKS, "Count Mark", echo)
    assert request(running.port, data).body == b"HELLO{5>END[11]"


@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_large_bodies_cross_chunk_hooks_whole(plugged, size):
    running, _ = plugged(CHUNKS, "Count", echo)
    body = b"x" * size
    assert request(running.port, post(body)).body == b"X" * size + b"<%d>[%d]" % (size, size + len(str(size)) + 2)


def test_a_stream_with_chunk_hooks_stays_a_stream(plugged):
    received, go = queue.SimpleQueue(), threading.Event()

    def script(session):
        session.read_head()
        received.put(session.read_until(b"ONE"))
        session.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        received.put(session.read_until(b"0\r\n\r\n"))
        assert go.wait(TIMEOUT)
        session.send(b"3\r\ndef\r\n0\r\n\r\n")

    running, _ = plugged(CHUNKS, "Count", script)
    with RawSocket.connect(running.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        assert received.get(timeout=TIMEOUT).endswith(b"ONE")
        client.read_until(b"ABC")
        client.send(b"3\r\ntwo\r\n0\r\n\r\n")
        assert b"TWO" in received.get(timeout=TIMEOUT)
        go.set()
        assert client.read_until(b"0\r\n\r\n") == b"\r\n3\r\nDEF\r\n3\r\n[6]\r\n0\r\n\r\n"


def test_an_answer_without_a_body_gets_none_from_a_chunk_hook(plugged):
    running, _ = plugged(CHUNKS, "Count", plan(reply(304), b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", reply(204)))
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        assert client.read_answer().status == 304
        client.send(GET.replace(b"GET", b"HEAD"))
        assert client.read_answer("HEAD").status == 200
        client.send(GET)
        assert client.read_answer().status == 204
        assert client.buffer == b""


def test_a_chunk_hook_that_fails_in_mid_stream_breaks_the_answer_off(plugged):
    code = """
class Fail(Plugin[PluginConfig]):
    def on_response_chunk(self, exchange, chunk):
        if b"bad" in chunk:
            raise ValueError("no")
        return chunk
"""
    go = threading.Event()

    def script(session):
        session.read_request()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ngood")
        assert go.wait(TIMEOUT)
        session.send(b"bad")

    running, _ = plugged(code, "Fail", script)
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        client.read_until(b"good")
        go.set()
        rest = client.read_to_end()
        assert not rest.endswith(b"0\r\n\r\n")
    assert running.access_log()[0]["reason"] == "plugin_error"
    assert running.call(lambda: inner(running).consecutive_failures) == 0
    assert at_rest(running) == NOTHING


@pytest.mark.parametrize("data", [post(b"hello"), chunked(b"he", b"llo")], ids=["length", "chunked"])
def test_a_chunk_hook_that_holds_back_does_not_end_the_body_for_the_next_one(plugged, data):
    code = """
class Hold(Plugin[PluginConfig]):
    def on_request_chunk(self, exchange, chunk):
        held = exchange.state.setdefault("held", [])
        held.append(chunk)
        return b"".join(held) if not chunk else b""
class End(Plugin[PluginConfig]):
    def on_request_chunk(self, exchange, chunk):
        return chunk or b"."
"""
    running, _ = plugged(code, "Hold End", echo)
    assert request(running.port, data).body == b"hello."
