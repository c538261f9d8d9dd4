"""Bodies for tests of framing: bytes of every value, and the chunked coding."""

import random

LENGTH, CHUNKED, CLOSE = "length", "chunked", "close"  # the framings


def noise(size: int) -> bytes:
    """Bytes of every value, the same each time."""
    return random.Random(size).randbytes(size)


def chunks(data: bytes, size: int, trailers: bytes = b"") -> bytes:
    """`data` in the chunked coding."""
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailers + b"\r\n"
