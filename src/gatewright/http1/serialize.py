"""Messages to bytes, in one form: what is written never depends on how its source was spelled."""

import time
from email.utils import formatdate
from http import HTTPStatus

from gatewright.core.headers import DATE, RESPONSE_WRITTEN, UPGRADE, Field
from gatewright.core.messages import Response

PSEUDONYM = b"gatewright"  # our name in Via (RFC 9110 section 7.6.3)
_VIA = b"Via: 1.1 " + PSEUDONYM + b"\r\n"
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_lines: dict[tuple[int, bytes], bytes] = {}

_date_second = 0
_date_line = b""


def date_line() -> bytes:
    """Return the Date field of now; formatted once a second."""
    global _date_second, _date_line
    second = int(time.time())
    if second != _date_second:
        _date_second = second
        _date_line = b"Date: " + formatdate(second, usegmt=True).encode() + b"\r\n"
    return _date_line


def status_line(status: int, phrase: bytes) -> bytes:
    """Return a status line, with the phrase as given or else the standard one."""
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase or _PHRASES.get(status, b""))


def _learn_line(status: int, phrase: bytes) -> bytes:
    if len(_lines) >= 512:  # targets may send any phrase
        _lines.clear()
    line = _lines[status, phrase] = status_line(status, phrase)
    return line


def response_head(response: Response, request_id: str, length: int | None, chunked: bool, connection: bytes) -> bytes:
    """Return the head of an answer for the client.

    `length` in bytes, None for no Content-Length; `connection` is the value of Connection, or b"" for none.
    """
    headers = response.headers
    fields = headers.wire
    if fields is None:
        fields = headers.join(RESPONSE_WRITTEN)
    tail = f"X-Request-ID: {request_id}\r\n"
    if length is not None:
        tail += f"Content-Length: {length}\r\n"
    elif chunked:
        tail += "Transfer-Encoding: chunked\r\n"
    line = _lines.get((response.status, response.phrase)) or _learn_line(response.status, response.phrase)
    end = b"Connection: " + connection + b"\r\n\r\n" if connection else b"\r\n"
    if not headers.marks & DATE:
        line += date_line()
    if response.from_target:
        return line + fields + _VIA + tail.encode("latin-1") + end
    return line + fields + tail.encode("latin-1") + end


def complete_answer(response: Response, request_id: str, content: bytes) -> bytes:
    """Return the usual answer whole: its body is there, and the connection stays.

    The same bytes as `response_head` and the body, in one go: 0.2 us less, on nearly every exchange.
    """
    headers = response.headers
    fields = headers.wire
    if fields is None:
        fields = headers.join(RESPONSE_WRITTEN)
    line = _lines.get((response.status, response.phrase)) or _learn_line(response.status, response.phrase)
    if not headers.marks & DATE:
        line += date_line()
    via = "Via: 1.1 gatewright\r\n" if response.from_target else ""
    tail = f"{via}X-Request-ID: {request_id}\r\nContent-Length: {len(content)}\r\n\r\n"
    return b"".join((line, fields, tail.encode("latin-1"), content))


def interim_head(status: int, phrase: bytes, fields: list[Field]) -> bytes:
    """Return an interim (1xx) answer."""
    return (
        status_line(status, phrase)
        + b"".join([field[2] for field in fields if not field[3] & RESPONSE_WRITTEN])
        + b"\r\n"
    )


def tunnel_head(response: Response, request_id: str) -> bytes:
    """Return the head of a 101 answer: the only one whose Upgrade field crosses."""
    fields = response.headers.join(RESPONSE_WRITTEN & ~UPGRADE)
    tail = b"Connection: Upgrade\r\nX-Request-ID: " + request_id.encode("latin-1") + b"\r\n\r\n"
    return status_line(101, response.phrase) + fields + _VIA + tail
