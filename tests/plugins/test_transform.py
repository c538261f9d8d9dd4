"""The `transform` plugin: JSON bodies are edited, everything else passes byte by byte."""

import gzip
import json
import threading

import pytest

from tests.kit.answers import reply, why
from tests.kit.wire import OK, TIMEOUT, RawSocket, answer_all, get, request

DEMO = "{methods: [POST], request: {set: {transformed: true}}}"


def send(body, method="POST", kind="application/json", fields=""):
    head = f"{method} / HTTP/1.1\r\nHost: test\r\nContent-Type: {kind}\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def echo(session):
    while True:
        session.send(reply(200, session.read_request()[1]))


@pytest.fixture
def through(proxy, target):
    """Return what the target sees of a body that is sent through the plugin."""

    def run(config, body, **options):
        running = proxy(target(echo), route=f"plugins: [transform: {config}]")
        answer = request(running.port, send(body, **options))
        assert answer.status == 200
        return answer.body

    return run


def test_the_demos_posts_gain_a_member(through):
    assert json.loads(through(DEMO, b'{"a": 1}')) == {"a": 1, "transformed": True}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_and_only_posts(through, method):
    assert through(DEMO, b'{"a": 1}', method=method) == b'{"a": 1}'


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/problem+json"])
def test_what_json_is_called(through, kind):
    assert json.loads(through(DEMO, b"{}", kind=kind)) == {"transformed": True}


@pytest.mark.parametrize(
    ("body", "kind", "fields"),
    [
        (b"a=1&b=2", "application/x-www-form-urlencoded", ""),
        (b'{"a":1}', "text/plain", ""),
        (b'{"a":', "application/json", ""),
        (b"\xff\xfe{}", "application/json", ""),
        (b"[1, 2]", "application/json", ""),
        (b'"text"', "application/json", ""),
        (b"", "application/json", ""),
        (gzip.compress(b"{}"), "application/json", "Content-Encoding: gzip\r\n"),
        (b"[" * 100_000, "application/json", ""),
        (b'{"a":' * 50_000, "application/json", ""),
    ],
    ids=["form", "text", "invalid", "no UTF-8", "list", "string", "empty", "gzip", "deep list", "deep object"],
)
def test_other_bodies_pass_untouched(through, body, kind, fields):
    assert through(DEMO, body, kind=kind, fields=fields) == body


def test_paths_name_members_inside_others(through):
    config = (
        "{request: {remove: [a.b, none.at.all, list.x], rename: {old.name: new.place.name, gone: x}, "
        "set: {s.t: [1], list.y: 2}}}"
    )
    body = {"a": {"b": 1, "c": 2}, "old": {"name": "n"}, "list": [1], "s": 3}
    assert json.loads(through(config, json.dumps(body).encode())) == {
        "a": {"c": 2},
        "old": {},
        "new": {"place": {"name": "n"}},
        "s": {"t": [1]},
        "list": {"y": 2},
    }


def test_numbers_and_texts_come_out_as_they_went_in(through):
    body = '{"big":123456789012345678901234567890,"money":1.10,"tiny":1e-400,"text":"é\\u0000\\"☕"}'.encode()
    seen = through("{request: {set: {x: 1}}}", body)
    for piece in (b"123456789012345678901234567890", b"1.10", "é".encode(), "☕".encode()):
        assert piece in seen
    assert json.loads(seen)["text"] == 'é\x00"☕'
    assert b"e-400" in seen.lower().replace(b"e-0", b"e-")


def test_a_large_body_that_is_not_concerned_streams(proxy, target):
    first = threading.Event()

    def script(session):
        session.read_head()
        session.read_exactly(1000)
        first.set()
        session.read_exactly(2_999_000)
        session.send(OK)

    running = proxy(target(script), route=f"plugins: [transform: {DEMO}]")
    with RawSocket.connect(running.port) as client:
        data = send(b"x" * 3_000_000, method="PUT")
        client.send(data[:-2_990_000])
        assert first.wait(TIMEOUT)
        client.send(data[-2_990_000:])
        assert client.read_answer().status == 200


def test_a_body_past_the_limit_is_refused_and_not_passed_unedited(proxy, target):
    upstream = target(echo)
    running = proxy(upstream, route="plugins: [transform: {max_body: 100, request: {set: {x: 1}}}]")
    assert why(request(running.port, send(b'{"a": "' + b"x" * 100 + b'"}'))) == (413, "body_too_large")
    assert upstream.sessions == []


def answer(body, *fields, kind="application/json"):
    return reply(200, body, f"Content-Type: {kind}", *fields)


@pytest.fixture
def answered(proxy, target):
    """Return the answer to a GET whose target sends `raw`."""

    def run(config, raw):
        running = proxy(target(answer_all(raw)), "retry: {attempts: 0}", route=f"plugins: [transform: {config}]")
        return get(running.port)

    return run


def test_answers_are_edited(answered):
    got = answered("{response: {remove: [secret], set: {served_by: gateway}}}", answer(b'{"a": 1, "secret": 2}'))
    assert json.loads(got.body) == {"a": 1, "served_by": "gateway"}
    assert got.get("content-length") == str(len(got.body))


def test_refusals_are_not(answered):
    got = answered("{response: {set: {x: 1}}}", b"nonsense\r\n\r\n")
    assert why(got) == (502, "upstream_malformed")
    assert "x" not in json.loads(got.body)


@pytest.mark.parametrize(
    "raw",
    [
        answer(b"[1]"),
        answer(b'{"a":1}', kind="text/html"),
        answer(gzip.compress(b"{}"), "Content-Encoding: gzip"),
        answer(b'{"broken'),
    ],
)
def test_other_answers_pass_untouched(answered, raw):
    assert answered("{response: {set: {x: 1}}}", raw).body == raw.partition(b"\r\n\r\n")[2]
