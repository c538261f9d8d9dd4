"""Plugins that surround a call: they may answer instead, replace the answer, call again and give up in time."""

import threading

import pytest

from tests.kit.answers import keep_silent, plan, reply, why
from tests.kit.inside import NOTHING, Finished, at_rest
from tests.kit.wire import OK, TIMEOUT, RawSocket, answer_all, get, request
from tests.plugins.body_kit import GET, echo, post, starter


@pytest.fixture
def plugged(gateway, target):
    return starter(gateway, target)


def around(body, extra="", name="Around"):
    lines = "".join(f"        {line}\n" for line in body.strip().splitlines())
    return f"class {name}(Plugin[PluginConfig]):\n{extra}    async def around(self, exchange, call):\n{lines}"


def test_around_may_answer_instead(plugged):
    running, upstream = plugged(around('return Response(200, {}, b"cached")'), "Around")
    assert get(running.port).body == b"cached"
    assert upstream.sessions == []


def test_around_sees_and_may_replace_the_answer(plugged):
    body = 'response = await call()\nreturn Response(203, {"X-Was": str(response.status)}, b"mine")'
    running, _ = plugged(around(body), "Around", plan(reply(200, b"x" * 500_000), then=reply(404, b"no")))
    first, second = get(running.port), get(running.port)
    assert (first.status, first.body, first.get("x-was")) == (203, b"mine", "200")
    assert second.get("x-was") == "404"
    assert at_rest(running) == NOTHING


def test_the_first_of_the_list_is_outermost(plugged):
    code = "".join(
        around(f'response = await call()\nresponse.headers.add("X-Trail", "{name}")\nreturn response', name=name)
        for name in ("Outer", "Inner")
    )
    running, _ = plugged(code, "Outer Inner")
    assert get(running.port).all("x-trail") == ["Inner", "Outer"]


def test_around_may_call_again(plugged):
    body = "response = await call()\nif response.status == 500:\n    response = await call()\nreturn response"
    running, upstream = plugged(around(body), "Around", plan(reply(500, b"no"), then=echo_once))
    assert request(running.port, post(b"data")).body == b"data"
    assert upstream.received.count(b"POST /") == 2
    assert running.access_log()[0]["attempts"] == 2
    assert at_rest(running) == NOTHING


def echo_once(session):
    """`plan` has read the request; give its body back."""
    session.send(reply(200, session.received.rpartition(b"\r\n\r\n")[2]))


def test_around_may_return_the_first_of_two_answers_if_it_is_whole(plugged):
    running, _ = plugged(
        around("first = await call()\nawait call()\nreturn first"), "Around", plan(reply(200, b"1"), reply(200, b"2"))
    )
    assert get(running.port).body == b"1"
    assert at_rest(running) == NOTHING


def test_an_answer_that_streams_is_lost_with_the_next_call(plugged):
    def endless(session):
        session.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        keep_silent(session)

    running, _ = plugged(around("first = await call()\nawait call()\nreturn first"), "Around", plan(endless))
    assert why(get(running.port)) == (500, "plugin_error")
    assert at_rest(running) == NOTHING


def test_a_body_that_was_streamed_is_not_sent_twice(plugged):
    running, upstream = plugged(around("await call()\nreturn await call()"), "Around")
    assert why(request(running.port, post(b"x" * 600_000))) == (500, "plugin_error")
    assert upstream.received.count(b"POST /") == 1
    assert 'declares body = "buffer"' in running.access_log()[0]["cause"]
    assert at_rest(running) == NOTHING


def test_a_buffered_body_is_sent_twice(plugged):
    running, upstream = plugged(around("await call()\nreturn await call()", '    body = "buffer"\n'), "Around", echo)
    body = b"x" * 600_000
    assert request(running.port, post(body)).body == body
    assert upstream.received.count(b"POST /") == 2


LIMIT = """
try:
    async with asyncio.timeout(0.1):
        return await call()
except TimeoutError:
    pass
"""


def test_a_plugins_own_time_limit_ends_the_attempt_and_it_may_call_again(plugged):
    """What the first attempt still brings must not be taken for the second one's answer, nor cancel the plugin."""
    body = LIMIT + 'await asyncio.sleep(0.15)\nexchange.state["twice"] = True\nreturn await call()'
    service = "retry: {attempts: 0}\n    timeouts: {response: 150ms}"
    running, upstream = plugged(around(body), "Around", plan(keep_silent, reply(200, b"second")), service)
    assert get(running.port).body == b"second"
    assert len(upstream.sessions) == 2
    assert at_rest(running) == NOTHING


def test_a_plugins_own_time_limit_while_it_waits_for_a_connection_gives_it_back(plugged):
    service = "retry: {attempts: 0}\n    pool: {max_connections: 1}"
    here, go = threading.Event(), threading.Event()

    def slow(session):
        here.set()
        assert go.wait(TIMEOUT)
        session.send(OK)

    body = 'if exchange.request.path == "/":\n    return await call()' + LIMIT + 'return Response(200, {}, b"stale")'
    running, _ = plugged(around(body), "Around", plan(slow), service)
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        assert here.wait(TIMEOUT)
        assert get(running.port, "/limited").body == b"stale"
        go.set()
        assert client.read_answer().body == b"ok"
    assert at_rest(running) == NOTHING
    assert get(running.port).body == b"ok"


def test_around_may_catch_a_failure_and_answer(plugged):
    body = "try:\n    return await call()\nexcept Exception as error:\n    return Response(200, {}, str(error.reason))"
    running, _ = plugged(around(body), "Around", lambda session: session.read_request())
    assert get(running.port).body == b"upstream_reset"
    assert at_rest(running) == NOTHING


def test_a_client_that_goes_in_the_middle_of_a_call_leaves_nothing(plugged):
    here = threading.Event()

    def script(session):
        session.read_request()
        here.set()
        session.read_to_end()

    running, _ = plugged(around("return await call()"), "Around", script)
    finished = Finished(running)
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        assert here.wait(TIMEOUT)
    assert finished.next().reason == "client_gone"
    assert at_rest(running) == NOTHING


def test_streams_cross_a_plugin_that_waits(plugged):
    running, _ = plugged(around("return await call()"), "Around", answer_all(reply(200, b"x" * 3_000_000)))
    for _ in range(2):
        assert len(get(running.port).body) == 3_000_000
    assert at_rest(running) == NOTHING
