"""Requests from bytes: the side of a connection that clients write. Knows no socket; `net.downstream` feeds it.

Own code instead of a parser library, because the head must be checked by rules of our own anyway and its fields kept
in wire form, and because clients repeat themselves: see `fields` for the memos. `docs/life-of-a-request.md` has the
numbers. httptools also cannot be paused between pipelined requests and takes only the methods that it knows; a test
holds this codec against httptools and h11.
"""

import re
from copy import copy

from gatewright.core.errors import Reason, RequestError
from gatewright.core.headers import (
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    REQUEST_WRITTEN,
    TOKEN,
    TRANSFER_ENCODING,
    UPGRADE,
    Field,
    Headers,
)
from gatewright.core.limits import Limits
from gatewright.core.messages import Request
from gatewright.core.target import parse_target
from gatewright.http1.body import BodyReader
from gatewright.http1.fields import (
    BARE_END,
    NO_OPTIONS,
    Memo,
    connection_options,
    content_length,
    is_chunked,
    learn,
    lines,
)

_METHODS = {
    name.encode(): name
    for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "PROPFIND")
}
_TOKEN = re.compile(TOKEN)
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_EMPTY_LINES = re.compile(rb"\A(?:\r\n)+")
_FIRST = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz\r")
_SPECIAL = CONTENT_LENGTH | TRANSFER_ENCODING | CONNECTION | UPGRADE | EXPECT


class Block:
    """All field lines of a request's head, checked, and what they say about the message."""

    __slots__ = (
        "chunked",
        "content_length",
        "count",
        "expects_continue",
        "fields",
        "host",
        "keep_alive",
        "marks",
        "special",
        "upgrade",
        "wire",
    )

    def __init__(self, block: bytes, version: int) -> None:
        """Raises RequestError for what RFC 9110 and 9112 do not allow."""
        fields: list[Field] = []
        marks = 0
        hosts = []
        known = lines.get
        for line in block.split(b"\r\n") if block else ():
            field = known(line) or learn(line)
            fields.append(field)
            marks |= field[3]
            if field[3] == HOST:
                hosts.append(field[1])
        if len(hosts) != 1 and (hosts or version):
            raise RequestError(Reason.INVALID_HOST, "There must be exactly one Host field")
        self.count = len(fields)  # as sent; `fields` loses those that Connection names
        self.marks = marks
        self.host = hosts[0] if hosts else b""
        self.special = bool(marks & _SPECIAL) or not version
        self.content_length: int | None = 0
        self.chunked = False
        self.expects_continue = False
        self.upgrade: bytes | None = None
        headers = Headers(fields, marks)
        options = connection_options(headers) if marks & CONNECTION else NO_OPTIONS
        self.fields = headers.fields
        self.wire = headers.join(REQUEST_WRITTEN)
        self.keep_alive = b"close" not in options and (version > 0 or b"keep-alive" in options)
        if marks & TRANSFER_ENCODING:
            self.chunked = is_chunked(fields, marks, version)
            self.content_length = None
        elif marks & CONTENT_LENGTH:
            self.content_length = content_length(fields)
        if marks & EXPECT and version:
            if headers.tokens("expect") != ["100-continue"]:
                raise RequestError(Reason.EXPECTATION_FAILED, "The only expectation known here is 100-continue")
            self.expects_continue = self.content_length != 0
        if marks & UPGRADE and b"upgrade" in options and version and self.content_length == 0:
            protocols = headers.tokens("upgrade")
            # h2c would let a client speak past the gateway's rules to a target that takes it.
            if protocols and "h2c" not in protocols:
                self.upgrade = ", ".join(headers.get_all("upgrade")).encode("latin-1")

    def for_authority(self, authority: bytes) -> "Block":
        """Return the same block with the authority of an absolute-form target in the place of Host (RFC 9112 section
        3.2.2): routes, plugins and targets must see one host."""
        block = copy(self)
        headers = Headers(self.fields, self.marks)
        headers.set(b"host", authority)
        block.fields, block.marks, block.host = headers.fields, headers.marks, authority
        return block


_blocks: Memo[Block] = Memo(1024, 1024)
_request_lines: Memo[tuple[str, int, str, str | None, bytes | None]] = Memo(4096, 256)


class RequestCodec(BodyReader):
    """Reads the requests of one connection, one after the other."""

    __slots__ = ("_limits", "_scanned")

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._limits = limits
        self._scanned = 0

    def next_request(self) -> Request | None:
        """Return the next request's head, or None when it is not complete yet.

        `framing` tells whether more of its body is to be read, with `read_body`. Raises RequestError for what is
        malformed, ambiguous or over the limits; the connection must not be read any further then.
        """
        buffer = self.buffer
        end = buffer.find(b"\r\n\r\n", self._scanned)
        line_end = buffer.find(b"\r\n")
        if not line_end:  # RFC 9112 section 2.2: empty lines before a request
            buffer = self.buffer = _EMPTY_LINES.sub(b"", buffer)
            self._scanned = 0
            end = buffer.find(b"\r\n\r\n")
            line_end = buffer.find(b"\r\n")
        limits = self._limits
        if end < 0:
            if buffer:
                self._check_partial(buffer)
            return None
        if line_end > limits.request_line:
            self._refuse_line()
        if end > limits.headers:
            self._refuse_size()
        self._scanned = 0
        self.buffer = buffer[end + 4 :]
        line = buffer[:line_end]
        parsed = _request_lines.get(line) or _request_lines.put(line, _parse_line(line))
        method, version, path, query, authority = parsed
        block_bytes = buffer[line_end + 2 : end]
        block = _blocks.get(block_bytes) if version else None
        if block is None:
            block = self._learn_block(block_bytes, version)
        if block.count > limits.header_count:
            self._refuse_count()
        if authority is not None:
            block = block.for_authority(authority)
        headers = Headers(block.fields, block.marks, block.wire)
        request = Request(method, path, query, version, block.host, headers)
        if block.special:
            self._apply(block, request)
        return request

    def _learn_block(self, block_bytes: bytes, version: int) -> Block:
        if block_bytes.count(b"\r\n") >= self._limits.header_count:
            self._refuse_count()
        block = Block(block_bytes, version)
        return _blocks.put(block_bytes, block) if version else block

    def _apply(self, block: Block, request: Request) -> None:
        """Say of the request what its fields say of it, and take its body at once if all of it is here."""
        request.keep_alive = block.keep_alive
        request.chunked = block.chunked
        length = request.content_length = block.content_length
        request.upgrade = block.upgrade
        if length == 0:
            return
        if length is not None and len(self.buffer) >= length:
            request.content = self.buffer[:length]
            self.buffer = self.buffer[length:]
        else:
            request.expects_continue = block.expects_continue
            self._open(length, block.chunked)

    def _check_partial(self, buffer: bytes) -> None:
        """Refuse at once what no further byte can make right: a wait would only end in a timeout."""
        limits = self._limits
        if buffer[0] not in _FIRST:
            raise RequestError(Reason.MALFORMED_REQUEST, "This is not an HTTP request")
        if BARE_END.search(buffer, max(0, self._scanned - 1)):
            raise RequestError(Reason.MALFORMED_REQUEST, "A line is not ended by CRLF")
        self._scanned = max(0, len(buffer) - 3)
        if len(buffer) > limits.request_line + 2 and buffer.find(b"\r\n", 0, limits.request_line + 2) < 0:
            self._refuse_line()
        if len(buffer) > limits.headers + 3:
            self._refuse_size()

    def _refuse_size(self) -> None:
        raise RequestError(Reason.HEADERS_TOO_LARGE, f"The request's head may have {self._limits.headers} bytes")

    def _refuse_line(self) -> None:
        raise RequestError(Reason.REQUEST_LINE_TOO_LONG, f"The request line may have {self._limits.request_line} bytes")

    def _refuse_count(self) -> None:
        raise RequestError(Reason.TOO_MANY_HEADERS, f"A request may have {self._limits.header_count} header fields")


def _parse_line(line: bytes) -> tuple[str, int, str, str | None, bytes | None]:
    """Return method, minor version, normalised path, query and authority of a request line. Raises RequestError."""
    try:
        method_bytes, raw_target, version_bytes = line.split(b" ")
    except ValueError:
        raise RequestError(Reason.MALFORMED_REQUEST, "The request line is not METHOD TARGET VERSION") from None
    method = _METHODS.get(method_bytes) or _other_method(method_bytes)
    version = 1 if version_bytes == b"HTTP/1.1" else _other_version(version_bytes)
    target = parse_target(raw_target, method)
    return method, version, target.path, target.query, target.authority


def _other_method(method: bytes) -> str:
    if method == b"CONNECT":
        raise RequestError(Reason.UNSUPPORTED_METHOD, "A gateway makes no tunnels: CONNECT is not taken")
    if not _TOKEN.fullmatch(method) or len(method) > 32:
        raise RequestError(Reason.MALFORMED_REQUEST, "The method is not a token")
    return method.decode("ascii")


def _other_version(version: bytes) -> int:
    if version == b"HTTP/1.0":
        return 0
    if _VERSION.fullmatch(version):
        raise RequestError(Reason.UNSUPPORTED_VERSION, "HTTP/1.1 and HTTP/1.0 are spoken here")
    raise RequestError(Reason.MALFORMED_REQUEST, "The request line does not end in an HTTP version")
