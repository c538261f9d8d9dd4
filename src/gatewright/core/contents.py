"""Files that a configuration is made from, read so that it can be made again as it was.

A worker that is started in the place of one that died must run what the others run, whatever has become of the files
since: an edit that was refused lies on the disk until somebody mends it. So whoever reads such a file reads it here:
what is read is noted, and what was noted once can be recalled. For one making at a time in a process.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

_recalled: Mapping[str, bytes] = {}
_noted: dict[str, bytes] = {}


@contextlib.contextmanager
def recalling(contents: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    """Let files have these contents, by path, in the block; others are read from the disk. Yields what is read."""
    global _recalled, _noted
    before = _recalled, _noted
    _recalled, _noted = contents, {}
    try:
        yield _noted
    finally:
        _recalled, _noted = before


def read(path: Path) -> bytes:
    """Return a file's content. Raises OSError."""
    name = str(path)
    content = _recalled.get(name)
    if content is None:
        content = path.read_bytes()
    _noted[name] = content
    return content


def is_recalled(path: Path) -> bool:
    """Tell whether the file's content is known, whatever is on the disk."""
    return str(path) in _recalled


@contextlib.contextmanager
def name_of(path: str) -> Iterator[str]:
    """Yield a name under which a library that reads files itself finds the content."""
    content = _recalled.get(path)
    if content is None or not hasattr(os, "memfd_create"):
        yield path
        return
    fd = os.memfd_create("gatewright")  # in memory: it may be a private key
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
