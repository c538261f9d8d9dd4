"""Field lines: the grammar of RFC 9112 section 5, and the memos that make reading them cheap.

Clients and targets send the same lines again and again (Accept, User-Agent, Server...), and on kept-alive connections
the same whole heads. What was checked once is looked up by its bytes the next time, as HPACK does with lines; the
micro-benchmarks have the price of a head that is new, of known lines, and known as a whole. The memos are bounded and
shared by all connections; a peer that floods them with new lines only makes everybody pay the full price.
"""

import re
from collections.abc import Iterable, Set
from typing import Generic, TypeVar

from gatewright.core.errors import GatewayError, Reason, RequestError
from gatewright.core.headers import CONNECTION, CONTENT_LENGTH, HOST, TOKEN, TRANSFER_ENCODING, Field, Headers, mark_of
from gatewright.core.target import is_valid_host

BARE_END = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")  # a CR or LF that is not part of a CRLF; a last CR may become one
_LINE = re.compile(rb"(" + TOKEN + rb"):[\t ]*([\t\x20-\x7e\x80-\xff]*)")

V = TypeVar("V")


class Memo(dict[bytes, V], Generic[V]):
    """A bounded dictionary from bytes: emptied when full, which is cheaper than keeping an order.

    A key is kept when it comes for the second time, so that what never comes again (a trace's ID, a date) does not
    push out what does.
    """

    def __init__(self, entries: int, key_bytes: int) -> None:
        """Keep at most `entries`, none with a key of more than `key_bytes`."""
        super().__init__()
        self._entries = entries
        self._key_bytes = key_bytes
        self._seen: set[int] = set()  # hashes of keys that came once

    def put(self, key: bytes, value: V) -> V:
        """Remember `value` if its key has come before, and return it."""
        if len(key) > self._key_bytes:
            return value
        if (mark := hash(key)) not in self._seen:
            if len(self._seen) >= 4 * self._entries:
                self._seen.clear()
            self._seen.add(mark)
            return value
        if len(self) >= self._entries:
            self.clear()
        self[key] = value
        return value


lines: Memo[Field] = Memo(4096, 256)


def learn(line: bytes) -> Field:
    """Check a field line and return its field; remember it.

    Raises RequestError(malformed_request): no colon, space before it, a folded line, a name that is no token, a bare CR
    or LF or another control character. Codecs turn it into their own side's error.
    """
    match = _LINE.fullmatch(line)
    if match is None:
        raise RequestError(Reason.MALFORMED_REQUEST, _complaint(line))
    name, value = match.groups()
    value = value.rstrip(b" \t")
    lower = name.lower()
    mark = mark_of(lower)
    if mark == HOST and not is_valid_host(value):
        raise RequestError(Reason.INVALID_HOST, "The Host field does not hold a host")
    return lines.put(line, (lower, value, name + b": " + value + b"\r\n", mark))


def _complaint(line: bytes) -> str:
    if line[:1] in (b" ", b"\t"):
        return "A header field is folded over two lines"
    name, colon, _ = line.partition(b":")
    if not colon:
        return "A header line has no colon"
    if name.endswith((b" ", b"\t")):
        return "A header field has a space before its colon"
    if re.fullmatch(TOKEN, name) is None:
        return "A header field's name holds characters that a name may not hold"
    return "A header field's value holds a control character"


def content_length(fields: Iterable[Field]) -> int:
    """Return the one Content-Length of `fields`. Raises RequestError(bad_framing) for two, and for no number."""
    values = [field[1] for field in fields if field[3] == CONTENT_LENGTH]
    if len(values) != 1:
        raise RequestError(Reason.BAD_FRAMING, "There is more than one Content-Length")
    # bytes.isdigit takes ASCII digits only; 18 of them stay below 2**63.
    if not values[0].isdigit() or len(values[0]) > 18:
        raise RequestError(Reason.BAD_FRAMING, "Content-Length is not a plain number")
    return int(values[0])


def is_chunked(fields: Iterable[Field], marks: int, version: int) -> bool:
    """Return True for a message with `Transfer-Encoding: chunked`.

    Raises RequestError(bad_framing) for every other coding, for repeated ones, for a Content-Length beside it and for
    HTTP/1.0 (RFC 9112 sections 6.1 and 6.3).
    """
    values = [field[1].lower() for field in fields if field[3] == TRANSFER_ENCODING]
    if values != [b"chunked"]:
        raise RequestError(Reason.BAD_FRAMING, "Transfer-Encoding is not exactly chunked")
    if marks & CONTENT_LENGTH:
        raise RequestError(Reason.BAD_FRAMING, "There are both Content-Length and Transfer-Encoding")
    if version == 0:
        raise RequestError(Reason.BAD_FRAMING, "HTTP/1.0 has no Transfer-Encoding")
    return True


NO_OPTIONS: Set[bytes] = frozenset()
_USUAL_OPTIONS = {
    value: frozenset({value.lower()})
    for value in (b"keep-alive", b"close", b"Keep-Alive", b"Close", b"Upgrade", b"upgrade")
}


def connection_options(headers: Headers) -> Set[bytes]:
    """Return the options of the Connection fields, in lower case, and take the fields that they name out of `headers`.

    Host and the framing fields stay: naming them would let a client change what the message says.
    """
    values = [field[1] for field in headers.fields if field[3] == CONNECTION]
    if len(values) == 1 and (usual := _USUAL_OPTIONS.get(values[0])) is not None:
        return usual
    options = {option.strip(b" \t").lower() for value in values for option in value.split(b",")}
    named = options - {b"close", b"keep-alive", b"upgrade", b"te", b""}
    if named:
        keep = HOST | CONTENT_LENGTH | TRANSFER_ENCODING | CONNECTION
        headers.fields = [field for field in headers.fields if field[0] not in named or field[3] & keep]
    return options


def as_response_error(error: GatewayError) -> tuple[Reason, str, str]:
    """Return the arguments of the ResponseError that stands for a grammar error in a target's answer."""
    return Reason.UPSTREAM_MALFORMED, "The target's answer is not valid HTTP", error.detail
