"""The chunked transfer coding (RFC 9112 section 7.1), read strictly and written in one form."""

import re
from enum import Enum

from gatewright.core.errors import Reason, RequestError
from gatewright.core.headers import REQUEST_WRITTEN, Field
from gatewright.http1.fields import learn, lines

_SIZE_LINE_BYTES = 256
_TRAILER_BYTES = 8 * 1024
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?:[\t ]*;[\t ]*" + _TOKEN + rb"(?:[\t ]*=[\t ]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*"
)
# Fields that would change the meaning of a message after the fact (RFC 9110 section 6.5.1) are left out of trailers, as
# are those that only the gateway may say: some targets take trailers for more header fields.
_NO_TRAILER = REQUEST_WRITTEN


class Part(Enum):
    """Where in a chunked body a decoder stands."""

    SIZE = "size"
    DATA = "data"
    DATA_END = "data_end"
    TRAILERS = "trailers"
    DONE = "done"


class ChunkedDecoder:
    """Reads one chunked body. `part` is DONE at its end; `trailers` are its trailer fields."""

    __slots__ = ("_left", "_trailer_bytes", "part", "trailers")

    def __init__(self) -> None:
        self.part = Part.SIZE
        self.trailers: list[Field] = []
        self._left = 0
        self._trailer_bytes = 0

    def decode(self, data: bytes) -> tuple[bytes, bytes]:
        """Return (body bytes, bytes not used yet). Raises RequestError(bad_framing) for anything but the grammar."""
        pieces: list[bytes] = []
        position = 0
        while self.part is not Part.DONE:
            if self.part is Part.DATA:
                piece = data[position : position + self._left]
                if not piece:
                    break
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self.part = Part.DATA_END
            elif self.part is Part.DATA_END:
                end = data[position : position + 2]
                if end != b"\r\n"[: len(end)]:
                    raise RequestError(Reason.BAD_FRAMING, "A chunk does not end where its size says")
                if len(end) < 2:
                    break
                position += 2
                self.part = Part.SIZE
            else:
                line = self._line(data, position)
                if line is None:
                    break
                position += len(line) + 2
                if self.part is Part.SIZE:
                    self._take_size(line)
                else:
                    self._take_trailer(line)
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), data[position:]

    def _line(self, data: bytes, position: int) -> bytes | None:
        end = data.find(b"\r\n", position)
        bound = _SIZE_LINE_BYTES if self.part is Part.SIZE else _TRAILER_BYTES
        if end < 0:
            rest = data[position:]
            if len(rest) > bound or b"\n" in rest or b"\r" in rest[:-1]:
                raise RequestError(Reason.BAD_FRAMING, "A line of the chunked body is too long or not ended by CRLF")
            if self.part is Part.SIZE and rest and rest[0] not in b"0123456789abcdefABCDEF":
                raise RequestError(Reason.BAD_FRAMING, "A chunk size is not a hexadecimal number")
            return None
        if end - position > bound:
            raise RequestError(Reason.BAD_FRAMING, "A line of the chunked body is too long")
        return data[position:end]

    def _take_size(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise RequestError(Reason.BAD_FRAMING, "A chunk size is not a hexadecimal number")
        self._left = int(match.group(1), 16)
        self.part = Part.DATA if self._left else Part.TRAILERS

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            self.part = Part.DONE
            return
        self._trailer_bytes += len(line)
        if self._trailer_bytes > _TRAILER_BYTES:
            raise RequestError(Reason.HEADERS_TOO_LARGE, "The trailer fields are too large")
        field = lines.get(line) or learn(line)
        if not field[3] & _NO_TRAILER:
            self.trailers.append(field)


def encode_chunk(data: bytes) -> bytes:
    """Return `data` (not empty) as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def encode_end(trailers: list[Field]) -> bytes:
    """Return the last chunk with its trailer fields."""
    if not trailers:
        return b"0\r\n\r\n"
    return b"0\r\n" + b"".join([field[2] for field in trailers]) + b"\r\n"
