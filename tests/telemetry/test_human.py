"""Lines of the access log for people: what stands where, and that nobody's text can pass for a line or a command."""

import re

import pytest

from gatewright.telemetry.access_log import Line
from gatewright.telemetry.human import render

BASE = {
    "time": "2026-11-02T14:03:07.123+00:00",
    "request_id": "4f1c",
    "client_ip": "127.0.0.1",
    "method": "GET",
    "scheme": "http",
    "host": "shop.test",
    "path": "/a/b",
    "protocol": "HTTP/1.1",
    "status": 200,
    "duration_ms": 3.21,
    "overhead_ms": 0.4,
    "bytes_in": 4,
    "bytes_out": 17,
    "attempts": 1,
}


def shown(colour=False, **fields):
    return render(Line(**{**BASE, **fields}), colour).decode()


def test_a_line():
    assert shown() == "2026-11-02 14:03:07.123Z 200 GET shop.test/a/b 3.2ms 4B/17B from 127.0.0.1 4f1c"


def test_a_line_with_all_that_there_may_be():
    line = shown(
        query="x=1",
        service="s",
        upstream_addr="127.0.0.1:8001",
        upstream_duration_ms=2.81,
        attempts=3,
        consumer="bob",
        cache_status="miss",
        reason="timeout",
        cause="it slept",
    )
    assert line == (
        "2026-11-02 14:03:07.123Z 200 GET shop.test/a/b?x=1 3.2ms -> s 127.0.0.1:8001 2.8ms in 3 attempts 4B/17B"
        " from 127.0.0.1 consumer=bob cache=miss reason=timeout cause=it slept 4f1c"
    )


def test_what_messages_held_stands_below():
    line = shown(
        request={"headers": {"host": "shop.test"}, "body": {"type": "application/json", "bytes": 7, "text": '{"a":1}'}},
        response={"body": {"type": "image/png", "bytes": 9000}},
    )
    assert line.splitlines()[1:] == [
        "    > host: shop.test",
        '    > {"a":1} [application/json, 7 bytes]',
        "    < [image/png, 9000 bytes]",
    ]
    cut = {"body": {"type": "application/json", "bytes": 9000, "text": "{}", "truncated": True}}
    assert shown(response=cut).endswith("\n    < {} [application/json, 9000 bytes, cut off]")


@pytest.mark.parametrize(("status", "code"), [(204, "32"), (302, "36"), (404, "33"), (503, "31"), (999, "0")])
def test_colours(status, code):
    line = shown(colour=True, status=status)
    assert f"\x1b[{code}m{status}\x1b[0m" in line
    assert re.sub(r"\x1b\[\d+m", "", line) == shown(status=status)


EVIL = "\x1b[2J\r\n2026 200 GET \x00\x85\u2028\u202e\x7f"


@pytest.mark.parametrize("field", ["method", "path", "query", "host", "client_ip", "request_id", "cause", "consumer"])
def test_nobody_forges_a_line_or_commands_a_terminal(field):
    line = shown(**{field: EVIL})
    assert line.isprintable()
    assert len(line.splitlines()) == 1


def test_nor_does_a_header_or_a_body():
    message = {"headers": {"x": EVIL}, "body": {"type": EVIL, "bytes": 1, "text": EVIL, "encoding": EVIL}}
    lines = shown(request=message).splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


def test_text_that_utf8_does_not_know():
    assert shown(path="/\ud800").endswith("from 127.0.0.1 4f1c")
