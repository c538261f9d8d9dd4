"""Seeing that files have changed. Tells when they have come to rest again, not at each write.

A look at each file's identity twice a second, and no notifications from the kernel: those do not exist on every file
system (network mounts, containers), need a watch on every folder on the way to a symbolic link that may be swapped,
and cost a dependency. A look costs 2 us a file.
"""

import asyncio
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from gatewright.core.files import open_file

Signature = tuple[int, int, int, int, int]
INTERVAL = 0.5
_TICK = 0.02  # by which a file system's time of a write may be behind the clock


class Watch:
    """Watches files; ones that do not exist are watched for their coming."""

    def __init__(self) -> None:
        self._seen: dict[Path, Signature | None] = {}
        self._changed = False

    def set(self, files: Iterable[Path], read: float) -> None:
        """Watch these files from now on. Ones that are watched already go on from what was seen of them; of others,
        which somebody has read since `read` (seconds of the wall clock), a later change may have been missed: it is
        one now.
        """
        last = int((read - _TICK) * 1e9)
        self._seen = {path: self._seen[path] if path in self._seen else _before(path, last) for path in files}

    def accept(self, written: Path | None = None) -> None:
        """Take all files as they are now: somebody is about to read them. Or only the one that was `written`."""
        if written is not None:
            self._seen[written] = signature(written)
            return
        self._seen = {path: signature(path) for path in self._seen}
        self._changed = False

    def look(self) -> bool:
        """Look at each file; return True once they have changed and are the same as at the look before."""
        moved = False
        for path, before in self._seen.items():
            now = signature(path)
            if now != before:
                self._seen[path] = now
                moved = True
        rested, self._changed = self._changed and not moved, moved
        return rested

    async def change(self) -> None:
        """Return when the files have changed and come to rest."""
        while not self.look():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(INTERVAL)


def _before(path: Path, last: int) -> Signature | None:
    found = signature(path)
    return found if found is None or max(found[:2]) < last else None


def signature(path: Path) -> Signature | None:
    """Return what tells a file's content from any other that it has had; None: there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


def digest_of(path: Path) -> bytes:
    """Return what tells a file's content from any other; b"" when it cannot be read, or is no file at all."""
    try:
        with open_file(path) as file:
            return hashlib.sha256(file.read()).digest()
    except OSError:
        return b""
