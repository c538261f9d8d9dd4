"""Answers from bytes: the side of a connection that targets write. Knows no socket; `net.upstream` feeds it.

As strict as the request side: an answer whose end is in doubt would let one client read another's.
"""

import re

from gatewright.core.errors import Reason, RequestError, ResponseError
from gatewright.core.headers import CONNECTION, CONTENT_LENGTH, RESPONSE_WRITTEN, TRANSFER_ENCODING, Field, Headers
from gatewright.core.messages import ReceivedResponse, Response
from gatewright.http1.body import BodyReader, Framing
from gatewright.http1.fields import (
    BARE_END,
    NO_OPTIONS,
    Memo,
    as_response_error,
    connection_options,
    content_length,
    is_chunked,
    learn,
    lines,
)

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_HEAD_BYTES = 64 * 1024
_FIELD_COUNT = 256


class Head:
    """The head of an answer, checked, and what it says about the message whatever was asked."""

    __slots__ = (
        "chunked",
        "content_length",
        "fields",
        "has_body",
        "keep_alive",
        "marks",
        "phrase",
        "status",
        "version",
        "wire",
    )

    def __init__(self, head: bytes) -> None:
        """Raises RequestError for what RFC 9110 and 9112 do not allow; the codec turns it into a ResponseError."""
        first, *rest = head.split(b"\r\n")
        match = _STATUS_LINE.fullmatch(first)
        if match is None:
            raise RequestError(Reason.MALFORMED_REQUEST, "The status line is not VERSION STATUS REASON")
        if len(rest) > _FIELD_COUNT:
            raise RequestError(Reason.TOO_MANY_HEADERS, "There are too many header fields")
        self.version = int(match.group(1))
        self.status = int(match.group(2))
        self.phrase = match.group(3) or b""
        fields: list[Field] = []
        marks = 0
        for line in rest:
            field = lines.get(line) or learn(line)
            fields.append(field)
            marks |= field[3]
        headers = Headers(fields, marks)
        options = connection_options(headers) if marks & CONNECTION else NO_OPTIONS
        self.keep_alive = b"close" not in options and (self.version == 1 or b"keep-alive" in options)
        self.chunked = bool(marks & TRANSFER_ENCODING) and is_chunked(fields, marks, self.version)
        self.content_length = content_length(fields) if marks & CONTENT_LENGTH else None
        if self.status < 200 and marks & (CONTENT_LENGTH | TRANSFER_ENCODING):
            raise RequestError(Reason.BAD_FRAMING, "An interim answer announces a body")
        self.has_body = self.status >= 200 and self.status not in (204, 304)
        self.fields = headers.fields
        self.wire = headers.join(RESPONSE_WRITTEN)
        self.marks = marks


_heads: Memo[Head] = Memo(1024, 1024)


class ResponseCodec(BodyReader):
    """Reads the answers of one connection. `method` is what was asked: it decides whether a body follows."""

    __slots__ = ("_scanned", "method")

    def __init__(self) -> None:
        super().__init__()
        self.method = "GET"  # of the request that the next final answer is one to
        self._scanned = 0

    def next_response(self) -> Response | None:
        """Return the next head (also an interim one, status below 200), or None when it is not complete yet.

        `framing` tells whether more of its body is to be read. Raises ResponseError(upstream_malformed); the connection
        must not be used again then.
        """
        buffer = self.buffer
        end = buffer.find(b"\r\n\r\n", self._scanned)
        if end < 0 or end > _HEAD_BYTES:
            self._check_partial(buffer)
            return None
        self._scanned = 0
        self.buffer = buffer[end + 4 :]
        head_bytes = buffer[:end]
        head = _heads.get(head_bytes)
        if head is None:
            try:
                head = _heads.put(head_bytes, Head(head_bytes))
            except RequestError as error:
                raise ResponseError(*as_response_error(error)) from error
        length = head.content_length
        headers = Headers(head.fields, head.marks, head.wire)
        status = head.status
        response = ReceivedResponse(status, head.phrase, head.version, headers, head.keep_alive, length, head.chunked)
        if status >= 200:
            if head.has_body and length is not None and len(self.buffer) >= length and self.method != "HEAD":
                response.content = self.buffer[:length]  # the usual answer: all of it came at once
                self.buffer = self.buffer[length:]
            else:
                self._frame(response)
        return response

    def _check_partial(self, buffer: bytes) -> None:
        if len(buffer) > _HEAD_BYTES:
            raise ResponseError(Reason.UPSTREAM_MALFORMED, "The target's answer has too large a head")
        if not buffer.startswith(b"HTTP/1."[: len(buffer)]):
            raise ResponseError(Reason.UPSTREAM_MALFORMED, "The target's answer is not valid HTTP", "not HTTP/1")
        if BARE_END.search(buffer, max(0, self._scanned - 1)):  # else a head without CRLF would be waited for in vain
            raise ResponseError(Reason.UPSTREAM_MALFORMED, "The target's answer is not valid HTTP", "a bare CR or LF")
        self._scanned = max(0, len(buffer) - 3)

    def _frame(self, response: Response) -> None:
        """Decide what ends the answer (RFC 9112 section 6.3) and whether the connection outlives it."""
        status = response.status
        length, chunked = response.content_length, response.chunked
        if status in (204, 304) or self.method == "HEAD":
            if status == 204 and (chunked or length):
                response.keep_alive = False  # a body that must not be there may follow all the same
        elif length != 0 or chunked:
            if length is None and not chunked:
                response.keep_alive = False
            self._open(length, chunked)

    def eof(self) -> None:
        """The target has closed its side. Ends a body that lasts until then; raises ResponseError for any other."""
        if self.framing is Framing.CLOSE:
            self.framing = Framing.HEAD
        elif self.framing is not Framing.HEAD:
            raise ResponseError(Reason.UPSTREAM_TRUNCATED, "The target broke off in the middle of its answer")
