"""Writing lines to a file or stream without ever blocking the event loop.

Lines are gathered for FLUSH_SECONDS and written by a thread, a batch at a time; other processes may write to the same
place (`whole_lines`). A reader that stalls (a full pipe, a slow disk) costs lines, which are counted, never requests.
"""

import asyncio
import logging
import os
import queue
import threading
import time
from enum import Enum
from pathlib import Path

from gatewright.telemetry.whole_lines import WholeLines

_log = logging.getLogger("gatewright.log")
FLUSH_SECONDS = 0.1
BATCH_BYTES = 256 * 1024  # each batch is some changes of hands between the threads
PENDING_BYTES = 16 * 1024 * 1024


class _Order(Enum):
    """What the thread is told beside batches of lines."""

    REOPEN = "reopen"
    END = "end"


class LineSink:
    """A destination for lines: "stdout", "stderr" or a file's path, which is created and appended to."""

    def __init__(self, destination: str) -> None:
        """Raises OSError when the file cannot be opened."""
        self._path = None if destination in ("stdout", "stderr") else Path(destination)
        self._fd = {"stdout": 1, "stderr": 2}[destination] if self._path is None else _open(self._path)
        self._out = WholeLines(self._fd)
        self._lines: list[bytes] = []
        self._size = 0
        self._pending = 0  # bytes handed to the thread and not written yet
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[bytes | _Order] = queue.SimpleQueue()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._refused = 0  # lines that found too much waiting
        self._lost = 0  # lines that the thread could not write
        self._thread = threading.Thread(target=self._write_all, name="gatewright-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Number of lines that were not written, and never will be."""
        return self._refused + self._lost

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads it at this moment."""
        return os.isatty(self._fd)

    def write(self, line: bytes) -> None:
        """Take a line, with its newline. Called on the event loop."""
        if self._closed:
            return
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BATCH_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Hand what is gathered to the thread."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._lines:
            return
        if self._pending + self._size > PENDING_BYTES:
            self._refused += len(self._lines)
        else:
            with self._lock:
                self._pending += self._size
            self._queue.put(b"".join(self._lines))
        self._lines.clear()
        self._size = 0

    def reopen(self) -> None:
        """Open the file anew, because something has moved it: lines taken until now still go to the old one.

        Returns at once. Where the new one cannot be opened the old one stays, and the gateway's own log says so.
        """
        if self._path is not None and not self._closed:
            self.flush()
            self._queue.put(_Order.REOPEN)

    def wait(self, timeout: float = 2.0) -> bool:
        """Block until all that was handed over is written, `timeout` seconds at most; tell whether it is."""
        deadline = time.monotonic() + timeout
        while self._pending and time.monotonic() < deadline:
            time.sleep(0.001)
        return not self._pending

    def close(self, timeout: float = 2.0) -> None:
        """Write what is left, waiting `timeout` seconds at most."""
        if self._closed:
            return
        self.flush()
        self._closed = True
        self._queue.put(_Order.END)
        self._thread.join(timeout)
        if self._path is not None and not self._thread.is_alive():
            os.close(self._fd)

    # In the thread

    def _write_all(self) -> None:
        while (batch := self._queue.get()) is not _Order.END:
            if batch is _Order.REOPEN:
                self._open_anew()
                continue
            self._lost += self._out.write(batch)
            with self._lock:
                self._pending -= len(batch)

    def _open_anew(self) -> None:
        assert self._path is not None
        try:
            fd = _open(self._path)
        except OSError as error:
            _log.error("%s cannot be opened anew (%s): lines still go to the old file", self._path, error.strerror)
            return
        old, self._fd, self._out = self._fd, fd, WholeLines(fd)
        os.close(old)


def _open(path: Path) -> int:
    # Not blocking, or a named pipe without a reader would hold up the start; it is an error instead.
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
    os.set_blocking(fd, True)
    return fd
