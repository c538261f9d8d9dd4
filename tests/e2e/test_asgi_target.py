"""Services that are Python applications in the gateway's own process."""

import contextlib
import itertools
import json
import logging
import sys
import threading

import pytest

from gatewright.app import StartError
from tests.kit.answers import why
from tests.kit.inside import NOTHING, Finished, at_rest, until
from tests.kit.reloading import saying
from tests.kit.wire import TIMEOUT, RawSocket, get, request

FASTAPI = """
import asyncio
from contextlib import asynccontextmanager
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

@asynccontextmanager
async def lifespan(app):
    yield {"greeting": "hello"}

app = FastAPI(lifespan=lifespan)

@app.get("/items/{item_id}")
async def item(item_id: int, request: Request, q: str = ""):
    about = {"greeting": request.state.greeting, "client": request.client.host, "url": str(request.url)}
    return {"id": item_id, "q": q, **about}

@app.get("/stream")
async def stream():
    async def pieces():
        for number in range(3):
            yield f"{number};"
            await asyncio.sleep(0)
    return StreamingResponse(pieces(), media_type="text/plain")

@app.post("/count")
async def count(request: Request):
    total = 0
    async for piece in request.stream():
        total += len(piece)
    return {"total": total, "type": request.headers.get("content-type")}

@app.get("/fails")
async def fails():
    raise RuntimeError("a-secret-detail")
"""


_numbers = itertools.count(1)


@pytest.fixture
def served(gateway, monkeypatch):
    """Start a gateway that serves the application `app` of some code, which is imported as `served.module`."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def start(code, service="", extra=""):
        name = f"served_by_a_test_{next(_numbers)}"
        running = gateway(
            f"services:\n  s:\n    app: {name}:app\n    {service}\n"
            "routes:\n  - {name: all, match: {path: '/{rest...}'}, service: s}\n" + extra,
            files={f"{name}.py": code},
        )
        running.module = sys.modules.pop(name)
        return running

    return start


def raw_app(body):
    """An application of few lines: `body` has `scope`, `receive` and `send`."""
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    only_http = "    if scope['type'] != 'http': raise RuntimeError\n"
    return "import asyncio\nseen = {}\nasync def app(scope, receive, send):\n" + only_http + lines


START = 'await send({"type": "http.response.start", "status": 200, "headers": %s})\n'
BODY = 'await send({"type": "http.response.body", "body": %s, "more_body": %s})\n'
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def test_fastapi_with_parameters_and_lifespan_state(served):
    running = served(FASTAPI)
    answer = get(running.port, "/items/7?q=%C3%A9")
    assert json.loads(answer.body) == {
        "id": 7, "q": "é", "greeting": "hello", "client": "127.0.0.1", "url": "http://test/items/7?q=%C3%A9",
    }  # fmt: skip
    assert answer.get("content-type") == "application/json"
    assert get(running.port, "/items/x").status == 422
    assert get(running.port, "/nothing").status == 404
    assert [line["status"] for line in running.access_log()] == [200, 422, 404]
    assert at_rest(running) == NOTHING


def test_streams_in_both_directions(served):
    running = served(FASTAPI, extra="limits: {body: unlimited}")
    assert get(running.port, "/stream").body == b"0;1;2;"
    body = b"x" * 8_000_000
    data = b"POST /count HTTP/1.1\r\nHost: test\r\nContent-Type: a/b\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    assert json.loads(request(running.port, data).body) == {"total": 8_000_000, "type": "a/b"}
    assert at_rest(running) == NOTHING


def test_a_body_waits_for_an_application_that_does_not_read(served):
    code = raw_app("await asyncio.Event().wait()")
    running = served(code, "timeouts: {response: 0, total: 0}", "limits: {body: unlimited}")
    with RawSocket.connect(running.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 65_000)
        client.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(1500):
                client.sock.send(b"x" * 65536)
                running.call(lambda: None)
            pytest.fail("nothing held the client back")
        connection = next(iter(running.listeners[0].connections))
        until(running, lambda: not connection._reading)
        assert running.call(lambda: connection._pipe.sink._held) < 512 * 1024
        client.sock.setblocking(True)


def test_an_answer_waits_for_a_client_that_does_not_read(served):
    running = served(
        raw_app(
            START % "[]"
            + 'while True:\n    seen["sent"] = seen.get("sent", 0) + 1\n    '
            + BODY % ("b'x' * 65536", True)
        )
    )
    finished = Finished(running)
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        client.read_until(b"\r\n\r\n")
        connection = next(iter(running.listeners[0].connections))
        until(running, lambda: connection.congested)
        counts = [running.call(lambda: running.module.seen["sent"]) for _ in range(20)]
        assert counts[0] == counts[-1]
    assert finished.next().reason == "client_gone"
    assert at_rest(running) == NOTHING


def test_the_head_does_not_wait_for_the_body(served):
    """Server-sent events: the client's `open` must not wait for the first event."""
    go = "while 'go' not in seen: await asyncio.sleep(0.005)\n"
    running = served(
        raw_app(START % '[(b"content-type", b"text/event-stream")]' + go + BODY % ("b'data: 1\\n\\n'", False))
    )
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        assert b"text/event-stream" in client.read_until(b"\r\n\r\n")
        running.module.seen["go"] = True
        assert b"data: 1\n\n" in client.read_until(b"0\r\n\r\n")


def test_an_exception_before_the_answer_gives_502(served, caplog):
    with caplog.at_level(logging.ERROR):
        running = served(raw_app("raise KeyError('a-secret-detail')"), "retry: {attempts: 0}")
        answer = get(running.port)
        assert why(answer) == (502, "app_failed")
        assert b"a-secret" not in answer.body
    assert "KeyError: 'a-secret-detail'" in caplog.text
    assert at_rest(running) == NOTHING


def test_fastapis_own_500_is_passed_on(served):
    answer = get(served(FASTAPI).port, "/fails")
    assert (answer.status, answer.body) == (500, b"Internal Server Error")


@pytest.mark.parametrize(
    "code",
    [
        START % "[]" + "raise KeyError",
        START % "[]",
        "",
        START % "[]" + START % "[]",
        BODY % ("b''", False),
        START.replace("200", "101") % "[]",
    ],
    ids=["raises after the start", "no body", "nothing", "two starts", "no start", "interim"],
)
def test_an_answer_that_never_becomes_one_gives_502(served, code):
    running = served(raw_app(code or "return"), "retry: {attempts: 0}")
    assert why(get(running.port)) == (502, "app_failed")
    assert at_rest(running) == NOTHING


@pytest.mark.parametrize("code", [BODY % ("b'half'", True) + "raise KeyError", BODY % ("b'half'", True)])
def test_an_application_that_fails_in_the_middle_never_looks_complete(served, code):
    running = served(raw_app(START % "[]" + code))
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        client.read_until(b"half")
        assert b"0\r\n\r\n" not in client.read_to_end()
    assert running.access_log()[0]["reason"] == "app_failed"
    assert at_rest(running) == NOTHING


@pytest.mark.parametrize("body", [b"short", b"much too long"])
def test_a_wrong_length_in_one_piece_gives_502(served, body):
    running = served(raw_app(START % '[(b"content-length", b"10")]' + BODY % (body, False)), "retry: {attempts: 0}")
    assert why(get(running.port)) == (502, "app_failed")


@pytest.mark.parametrize("pieces", [(b"1234", b"12"), (b"1234", b"123456789")], ids=["short", "long"])
def test_a_wrong_length_in_pieces_breaks_off_and_sends_nothing_past_it(served, pieces):
    code = START % '[(b"content-length", b"10")]' + BODY % (pieces[0], True) + BODY % (pieces[1], False)
    running = served(raw_app(code))
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        client.read_until(b"\r\n\r\n")
        assert client.read_to_end() in (b"1234", b"")
    assert running.access_log()[0]["reason"] == "app_failed"


def test_a_right_length_crosses(served):
    code = START % '[(b"content-length", b"10")]' + BODY % (b"1234", True) + BODY % (b"567890", False)
    answer = get(served(raw_app(code)).port)
    assert (answer.body, answer.get("content-length"), answer.get("transfer-encoding")) == (b"1234567890", "10", None)


def test_head_has_the_length_and_no_body(served):
    code = START % '[(b"content-length", b"10")]' + BODY % (b"1234567890", False)
    running = served(raw_app(code))
    with RawSocket.connect(running.port) as client:
        client.send(GET.replace(b"GET", b"HEAD") + GET)
        assert client.read_answer("HEAD").get("content-length") == "10"
        assert client.read_answer().body == b"1234567890"


def test_a_slow_application_runs_into_the_response_timeout_and_is_cancelled(served):
    code = raw_app("try:\n    await asyncio.Event().wait()\nfinally:\n    seen['cancelled'] = True")
    running = served(code, "timeouts: {response: 100ms}\n    retry: {attempts: 0}")
    assert why(get(running.port)) == (504, "response_timeout")
    assert at_rest(running) == NOTHING


def test_a_client_that_goes_cancels_the_application(served, tmp_path):
    note = tmp_path / "note"
    code = raw_app(
        "seen['here'] = True\ntry:\n    await asyncio.Event().wait()\nfinally:\n"
        f"    with open({str(note)!r}, 'w') as file: file.write('cancelled')"
    )
    running = served(code)
    finished = Finished(running)
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        until(running, lambda: running.gateway._proxy.in_flight)
    assert finished.next().reason == "client_gone"
    until(running, note.exists)
    assert at_rest(running) == NOTHING


def test_receive_tells_of_the_end_when_the_answer_is_complete(served, tmp_path):
    note = tmp_path / "note"
    write = f"with open({str(note)!r}, 'w') as file: file.write(message['type'])"
    watch = f"async def watch():\n    message = await receive()\n    {write}\n"
    code = "await receive()\n" + watch + "seen['task'] = asyncio.ensure_future(watch())\nawait asyncio.sleep(0)\n"
    running = served(raw_app(code + START % "[]" + BODY % (b"ok", False)))
    assert get(running.port).body == b"ok"
    until(running, note.exists)
    assert note.read_text() == "http.disconnect"


BACKGROUND = """
import asyncio
log, go = [], asyncio.Event()
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        log.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
    try:
        await go.wait()
        log.append("background")
    except asyncio.CancelledError:
        log.append("cancelled")
"""


@pytest.mark.parametrize("how", ["stop", "reload"])
def test_what_goes_on_after_an_answer_is_waited_for_before_the_shutdown(served, how):
    running = served(BACKGROUND)
    app = running.module
    assert get(running.port).body == b"ok"
    assert at_rest(running) == NOTHING
    thread = threading.Thread(target=running.call, args=(running.gateway.stop, 10))
    if how == "stop":
        thread.start()
        until(running, lambda: not running.listeners or running.listeners[0].emptied.is_set())
    else:
        running.reload(saying("hello"))
        running.reload(saying("hello again"))
        until(running, lambda: len(running.gateway._generations.earlier) == 1)
    running.call(app.go.set)
    until(running, lambda: app.log == ["background", "shutdown"])
    if how == "stop":
        thread.join(TIMEOUT)


@pytest.mark.parametrize("how", ["stop", "reload"])
def test_what_goes_on_for_too_long_after_an_answer_is_cancelled_before_the_shutdown(served, how, monkeypatch):
    monkeypatch.setattr("gatewright.control.generation.BACKGROUND_SECONDS", 0.01)
    running = served(BACKGROUND)
    assert get(running.port).body == b"ok"
    if how == "stop":
        running.call(running.gateway.stop, 0.01)
    else:
        running.reload(saying("hello"))
    until(running, lambda: running.module.log == ["cancelled", "shutdown"])


@pytest.mark.parametrize("error", ["KeyError", "SystemExit", "asyncio.CancelledError"])
@pytest.mark.parametrize("answer", ["", START % "[]" + BODY % ("b'ok'", False)], ids=["before", "after"])
def test_whatever_an_application_raises_is_logged_and_costs_its_call(served, caplog, error, answer):
    code = answer + f"if scope['path'] == '/bad': raise {error}('a-secret-detail')\n" + START % "[]" * (not answer)
    running = served(raw_app(code + BODY % ("b'ok'", False) * (not answer)), "retry: {attempts: 0}")
    for path, expected in (("/bad", 200 if answer else 502), ("/", 200)):
        assert get(running.port, path).status == expected
    until(running, lambda: "a-secret-detail" in caplog.text)
    assert at_rest(running) == NOTHING


def test_a_lifespan_that_fails_is_one_line_at_the_start(served, caplog):
    code = FASTAPI.replace('yield {"greeting": "hello"}', 'raise ValueError("no database")\n    yield')
    with pytest.raises(StartError) as caught:
        served(code)
    assert str(caught.value).endswith("The application did not start: ValueError: no database")
    assert "Traceback" in caplog.text
