"""How long a body is, and reading it: the framings of RFC 9112 section 6 behind one face."""

from enum import Enum

from gatewright.core.headers import Field
from gatewright.http1.chunked import ChunkedDecoder, Part


class Framing(Enum):
    """What ends a message."""

    HEAD = "head"  # no message is open: the next bytes are a head
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


class BodyReader:
    """The bytes of one connection direction, and how the open message is framed. Both codecs stand on it."""

    __slots__ = ("_decoder", "_left", "buffer", "framing", "trailers")

    def __init__(self) -> None:
        self.buffer = b""
        self.framing = Framing.HEAD
        self.trailers: list[Field] = []
        self._left = 0
        self._decoder: ChunkedDecoder | None = None

    def receive(self, data: bytes) -> None:
        """Take bytes from the network."""
        self.buffer = self.buffer + data if self.buffer else data

    def _open(self, length: int | None, chunked: bool) -> None:
        if chunked:
            self.framing = Framing.CHUNKED
            self._decoder = ChunkedDecoder()
        elif length is None:
            self.framing = Framing.CLOSE
        elif length:
            self.framing = Framing.LENGTH
            self._left = length

    def read_body(self) -> bytes:
        """Return the body bytes that are here, maybe none; `framing` is HEAD again when they are the last."""
        data, self.buffer = self.buffer, b""
        if self.framing is Framing.LENGTH:
            if len(data) > self._left:
                self.buffer = data[self._left :]
                data = data[: self._left]
            self._left -= len(data)
            if not self._left:
                self.framing = Framing.HEAD
        elif self.framing is Framing.CHUNKED:
            assert self._decoder is not None
            data, self.buffer = self._decoder.decode(data)
            if self._decoder.part is Part.DONE:
                self.trailers = self._decoder.trailers
                self._decoder = None
                self.framing = Framing.HEAD
        return data
