"""Our codecs beside h11 and httptools: never laxer than they are, and where both accept, of one mind.

A message that one reader takes and another refuses, or reads differently, is what request smuggling is made of. What we
take and h11 does not is listed here, with the reason why it is harmless.
"""

import re
from contextlib import suppress
from typing import Any

import h11
import httptools
from hypothesis import example, given, settings

from gatewright.core.headers import REQUEST_WRITTEN, mark_of
from tests.http1.reading import Outcome, Pairs, read_requests, read_responses
from tests.http1.strategies import METHODS, near_requests, near_responses

# RFC 9112 section 2.2 wants empty lines before a request ignored; h11 does not.
H11_LACKS = (b"\r\n",)
# Space and tab behind a value are no part of it (RFC 9110 section 5.5), and in chunk extensions they may stand around
# ";" and "=" (RFC 9112 section 7.1.1); httptools does not know that. Neither crosses: all of it is written anew.
HTTPTOOLS_LACKS = re.compile(
    rb"(?i)\r\n(transfer-encoding|content-length):[^\r]*\t|\n[0-9a-f]+[^\r]*([\t ][;=]|[;=][\t ])"
)


class Refused(Exception):
    """The other parser does not take it."""


def by_h11(data: bytes, role: type[h11.CLIENT] | type[h11.SERVER], method: str = "GET") -> tuple[object, ...] | None:
    """Return (head, fields, body, trailers) as h11 reads one message, None if it is not complete."""
    connection = h11.Connection(role)
    if role is h11.CLIENT:
        connection.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    head: tuple[object, ...] = ()
    fields: Pairs = []
    body = b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise Refused(str(error)) from error
        if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            return None
        if isinstance(event, h11.Request):
            head = (event.method.decode(), event.target.decode(), event.http_version[-1:] == b"1")
            fields = list(event.headers)
        elif isinstance(event, h11.Response):
            head = (event.status_code, event.reason, event.http_version[-1:] == b"1")
            fields = list(event.headers)
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return head, fields, body, list(event.headers)


def by_ours(outcome: Outcome) -> tuple[Any, ...]:
    """The same of the first message that we read."""
    message = outcome.messages[0]
    first, second, third = message.start[:3]
    if isinstance(first, str):
        url = second if third is None else f"{second}?{third}"
        head: tuple[object, ...] = (first, url, message.start[3] == 1)
    else:
        head = (first, second, third == 1)
    return head, message.fields, message.body, message.trailers


def crossing(trailers: Pairs) -> Pairs:
    """The trailers that we pass on."""
    return [(name, value) for name, value in trailers if not mark_of(name) & REQUEST_WRITTEN]


def compare(ours: tuple[Any, ...], theirs: tuple[object, ...] | None) -> None:
    assert theirs is not None, "we take for complete what h11 does not"
    head, fields, body, trailers = theirs
    assert isinstance(trailers, list)
    assert isinstance(fields, list)
    assert ours[0] == head
    # h11 writes the coding in lower case; the gateway writes it anew in any case.
    assert [(name, value.lower()) for name, value in ours[1]] == [(name, value.lower()) for name, value in fields]
    assert ours[2:] == (body, crossing(trailers))


@given(near_requests)
@settings(max_examples=250, deadline=None)
@example(b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n")
@example(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 05\r\n\r\nhello!")
@example(b"GET / HTTP/1.1\r\nHost: a\r\nA: \xff\r\n\r\n")
def test_requests_beside_h11(data):
    ours = read_requests([data])
    if ours.messages and ours.messages[0].complete and not data.startswith(H11_LACKS):
        compare(by_ours(ours), by_h11(data, h11.SERVER))


@given(near_responses)
@settings(max_examples=250, deadline=None)
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
@example(b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nhello")
@example(b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello!")
def test_answers_beside_h11(data):
    for method in ("GET", "HEAD"):
        ours = read_responses([data], method)
        if ours.accepted:
            compare(by_ours(ours), by_h11(data, h11.CLIENT, method))


class Listener:
    """What httptools tells of the first message."""

    def __init__(self) -> None:
        self.url, self.body, self.complete = b"", b"", False
        self.fields: Pairs = []
        self.head_fields: Pairs | None = None

    def on_url(self, url: bytes) -> None:
        if not self.complete:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.complete:
            self.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.head_fields is None:
            self.head_fields = list(self.fields)

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


@given(near_requests)
@settings(max_examples=250, deadline=None)
def test_requests_beside_httptools(data):
    ours = read_requests([data])
    if not ours.messages or not ours.messages[0].complete or HTTPTOOLS_LACKS.search(data):
        return
    if ours.messages[0].start[0] not in METHODS:
        return  # httptools knows its methods; a proxy lets through what it does not know
    listener = Listener()
    parser = httptools.HttpRequestParser(listener)
    with suppress(httptools.HttpParserError):  # of what follows the first message, which is all that is compared
        parser.feed_data(data)
    assert listener.complete, "httptools refuses, or waits for more"
    (method, url, _), fields, body, trailers = by_ours(ours)
    assert (method, url) == (parser.get_method().decode(), listener.url.decode())
    assert (fields, body) == (listener.head_fields, listener.body)
    assert trailers == crossing(listener.fields[len(fields) :])


@given(near_responses)
@settings(max_examples=250, deadline=None)
def test_answers_beside_httptools(data):
    ours = read_responses([data])
    if not ours.accepted or HTTPTOOLS_LACKS.search(data):
        return
    listener = Listener()
    parser = httptools.HttpResponseParser(listener)
    with suppress(httptools.HttpParserError):
        parser.feed_data(data)
    assert listener.complete
    message = ours.messages[0]
    assert message.start[0] == parser.get_status_code()
    assert (message.fields, message.body) == (listener.head_fields, listener.body)
