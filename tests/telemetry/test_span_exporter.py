"""Sending spans: batches, refusals, a collector that is slow, late or dead; the event loop never waits."""

import logging
import socket
import threading
import time

import pytest

from gatewright.core.clock import SystemClock
from gatewright.telemetry import span_exporter
from gatewright.telemetry.otlp import Encoder
from gatewright.telemetry.span_exporter import BATCH, QUEUE, SpanExporter
from tests.kit.collector import collector, until
from tests.telemetry.test_otlp import attempt, finished, recorded

WAIT = 0.02


@pytest.fixture
def heard(stack):
    return stack.enter_context(collector())


@pytest.fixture
def export(stack):
    def make(endpoint, headers=None):
        exporter = SpanExporter(endpoint, headers or {}, Encoder("g", {}), SystemClock(), WAIT, WAIT)
        stack.callback(exporter.close, 0.1)
        return exporter

    return make


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def test_spans_come_soon(export, heard):
    export(heard.url).put(*finished())
    (span,) = heard.wait_for(1)
    assert abs(span.start - (time.time() - time.monotonic() + 1.0) * 1e9) < 60e9
    (fields,) = heard.requests
    assert (fields[":path"], fields["Content-Type"]) == ("/v1/traces", "application/x-protobuf")


@pytest.mark.parametrize(
    ("path", "asked"),
    [("", "/v1/traces"), ("/", "/v1/traces"), ("/otlp", "/otlp/v1/traces"), ("/v1/traces", "/v1/traces"), ("/a/v1/traces/", "/a/v1/traces")],
)  # fmt: skip
def test_where_they_are_sent(export, heard, path, asked):
    exporter = export(heard.url + path, {"Authorization": "Bearer abc"})
    exporter.put(*finished())
    exporter.close()
    assert [(fields[":path"], fields["Authorization"]) for fields in heard.requests] == [(asked, "Bearer abc")]


def test_many_go_in_batches_on_one_connection_and_none_is_lost(export, heard, monkeypatch):
    exporter = export(heard.url)
    for _ in range(3 * BATCH + 10):
        trace = recorded()
        trace.attempts.append(attempt(status=200, ended=1.2))
        exporter.put(*finished(trace))
    heard.wait_for(2 * (3 * BATCH + 10))
    assert len(heard.requests) in (4, 5)
    assert exporter.dropped == 0


def test_what_comes_while_a_part_of_a_batch_is_sent_waits_for_others(heard, stack, monkeypatch):
    rests = threading.Event()

    class Wake(threading.Event):
        def wait(self, timeout=None):
            rests.set()
            return super().wait(timeout)

    monkeypatch.setattr(span_exporter.threading, "Event", Wake)
    exporter = SpanExporter(heard.url, {}, Encoder("g", {}), SystemClock(), flush=60)
    stack.callback(exporter.close, 1)
    monkeypatch.undo()
    take = heard._take

    def take_and_go_on(fields, body):
        if len(heard.requests) == 1:
            exporter.put(*finished())
        return take(fields, body)

    monkeypatch.setattr(heard, "_take", take_and_go_on)
    heard.may_answer.clear()
    for _ in range(BATCH):
        exporter.put(*finished())
    heard.wait_for_requests(1)
    rests.clear()
    exporter.put(*finished())
    heard.may_answer.set()
    assert rests.wait(10)
    assert (len(heard.requests), len(heard.spans)) == (2, BATCH + 1)


def test_closing_sends_what_waits(export, heard):
    exporter = export(heard.url)
    for _ in range(5):
        exporter.put(*finished())
    exporter.close()
    assert len(heard.spans) == 5
    exporter.put(*finished())
    assert exporter.dropped == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_be_tried_again_is(export, heard, status):
    heard.answers = [
        (status, {}),
        (status, {"Retry-After": "0"}),
        (status, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}),
    ]
    exporter = export(heard.url)
    exporter.put(*finished())
    assert len(heard.wait_for(1)) == 1
    assert (len(heard.requests), exporter.dropped) == (4, 0)


def test_the_collector_says_when(export, heard):
    heard.answers = [(503, {"Retry-After": "1"})]
    began = time.monotonic()
    export(heard.url).put(*finished())
    heard.wait_for_requests(1)
    heard.wait_for(1)
    assert time.monotonic() - began >= 1.0


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 302])
def test_what_may_not_be_tried_again_is_lost_and_counted(export, heard, status, caplog):
    heard.answers = [(status, {})]
    exporter = export(heard.url)
    trace = recorded()
    trace.attempts.append(attempt())
    exporter.put(*finished(trace))
    until(lambda: exporter.dropped == 2)
    assert len(heard.requests) == 1
    exporter.put(*finished())
    assert len(heard.wait_for(1)) == 1
    until(lambda: len([record for record in caplog.records if record.name == "gatewright.tracing"]) >= 1)
    assert f"it answered {status}" in caplog.text


def test_a_batch_is_given_up_after_some_tries(export, heard):
    heard.answers = [(503, {})] * 5
    exporter = export(heard.url)
    exporter.put(*finished())
    until(lambda: exporter.dropped == 1)
    assert len(heard.requests) == 5


def test_a_dead_collector_costs_a_counter_and_one_line(export, caplog, monkeypatch):
    monkeypatch.setattr(span_exporter, "QUEUE", 100)
    with caplog.at_level(logging.INFO):
        exporter = export(f"http://127.0.0.1:{closed_port()}")
        began = time.monotonic()
        for _ in range(10_000):
            exporter.put(*finished())
        took = time.monotonic() - began
        exporter.close()
    assert exporter.dropped == 10_000
    assert took < 1.0
    assert caplog.text.count("spans cannot be sent to") == 1


def test_it_comes_back_by_itself(export, heard, caplog):
    heard.answers = [(503, {})]
    with caplog.at_level(logging.INFO):
        exporter = export(heard.url)
        exporter.put(*finished())
        heard.wait_for(1)
        until(lambda: "spans reach" in caplog.text)
    assert exporter.dropped == 0


def test_a_slow_collector_holds_up_nobody(export, heard):
    heard.may_answer.clear()
    exporter = export(heard.url)
    exporter.put(*finished())
    heard.wait_for_requests(1)
    began = time.monotonic()
    for _ in range(QUEUE):
        exporter.put(*finished())
    trace = recorded()
    trace.attempts.append(attempt())
    for _ in range(50):
        exporter.put(*finished(trace))
    assert time.monotonic() - began < 1.0
    assert exporter.dropped == 100
    heard.may_answer.set()
    heard.wait_for(QUEUE + 1)


def test_closing_does_not_wait_for_ever(export, heard, caplog):
    heard.may_answer.clear()
    exporter = export(heard.url)
    exporter.put(*finished())
    heard.wait_for_requests(1)
    began = time.monotonic()
    exporter.close(0.1)
    assert time.monotonic() - began < 2.0
    assert "could not be sent" in caplog.text


def test_an_idle_connection_that_was_closed_is_no_failure(export, caplog):
    """A collector that closes after each answer without saying so."""
    taken = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            for _ in range(3):
                connection, _ = server.accept()
                with connection:
                    data = b""
                    while b"\r\n\r\n" not in data:
                        data += connection.recv(65536)
                    head, _, body = data.partition(b"\r\n\r\n")
                    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                    while len(body) < length:
                        body += connection.recv(65536)
                    taken.append(body)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        exporter = export(f"http://127.0.0.1:{server.getsockname()[1]}")
        for count in (1, 2, 3):
            exporter.put(*finished())
            until(lambda count=count: len(taken) == count)
        thread.join()
    assert exporter.dropped == 0
    assert "cannot be sent" not in caplog.text


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"\x00\xff"])
def test_a_collector_that_speaks_no_http(export, answer):
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while not stopped.is_set():
                connection, _ = server.accept()
                with connection:
                    connection.recv(1_000_000)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        exporter = export(f"http://127.0.0.1:{server.getsockname()[1]}")
        exporter.put(*finished())
        until(lambda: exporter.dropped == 1)
        stopped.set()
        socket.create_connection(server.getsockname()).close()
        thread.join(5)


def test_an_exchange_that_cannot_be_encoded_takes_no_other_with_it(export, heard, caplog):
    exporter = export(heard.url)
    exporter.put(*finished(host=None))
    exporter.put(*finished())
    assert len(heard.wait_for(1)) == 1
    assert exporter.dropped == 1
    assert "could not be encoded" in caplog.text
