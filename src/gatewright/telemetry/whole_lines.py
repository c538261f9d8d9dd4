"""Writing whole lines to a file, pipe or terminal that other threads and processes write to at the same time.

Three things keep lines whole: a regular file is appended to in one system call; a pipe gets pieces of whole lines that
are small enough for it to take at once (POSIX: up to PIPE_BUF bytes); and a lock on the destination itself, which all
who write through here respect, covers what is longer. It knows nothing of what the lines say. The sink of the access
log and the gateway's own log write through it, each in a thread of its own: a write may wait for its reader for ever.
"""

import fcntl
import os
import select
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from weakref import WeakValueDictionary

PIPE_BUF = select.PIPE_BUF  # 4096 on Linux, 512 on macOS

# The lock on a destination is the process's, so the threads of one process need another, by (device, inode).
_locks: WeakValueDictionary[tuple[int, int], threading.Lock] = WeakValueDictionary()
_finding = threading.Lock()


class WholeLines:
    """A destination by its descriptor, which stays the caller's."""

    def __init__(self, fd: int) -> None:
        """Raises OSError when `fd` is not open."""
        status = os.fstat(fd)
        self._fd = fd
        self._regular = stat.S_ISREG(status.st_mode)
        self._appends = self._regular and bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND)
        with _finding:
            place = (status.st_dev, status.st_ino)
            self._lock = _locks.get(place) or threading.Lock()
            _locks[place] = self._lock

    def write(self, lines: bytes) -> int:
        """Write `lines`, each with its newline; return how many of them were lost, to a full disk or a gone reader."""
        with self._alone():
            if self._regular:
                return self._append(lines)
            begin = 0
            while begin < len(lines):
                end = lines.rfind(b"\n", begin, begin + PIPE_BUF) + 1
                if not end:  # a line that is longer
                    end = lines.find(b"\n", begin) + 1 or len(lines)
                if self._write(lines[begin:end]) < end - begin:
                    return lines.count(b"\n", begin)
                begin = end
        return 0

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads and processes out. Where the system cannot lock a pipe, lines up to PIPE_BUF stay whole.

        The lock of `fcntl`, not `flock`: that one does not tell apart processes that inherited their descriptor.
        """
        with self._lock:
            with suppress(OSError):
                fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                with suppress(OSError):
                    fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def _append(self, lines: bytes) -> int:
        begun = os.fstat(self._fd).st_size
        written = self._write(lines)
        if written == len(lines):
            return 0
        whole = lines.rfind(b"\n", 0, written) + 1
        # The piece of a line that a full disk still took would spoil the next line too, whoever writes it.
        if self._appends and os.fstat(self._fd).st_size == begun + written:
            with suppress(OSError):
                os.ftruncate(self._fd, begun + whole)
        return lines.count(b"\n", whole)

    def _write(self, data: bytes) -> int:
        """Return how many bytes were written; fewer than all after an error."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:  # somebody made the pipe non-blocking: wait here as a blocking write would
                select.select([], [self._fd], [])
            except OSError:
                break
        return len(data) - len(left)
