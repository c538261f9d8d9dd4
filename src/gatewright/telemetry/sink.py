"""Writing lines to a file or stream without ever blocking the event loop.

Lines are gathered for FLUSH_SECONDS and written by a thread, in one system call a batch. A reader that stalls (a full
pipe, a slow disk) costs lines, which are counted, never requests.
"""

import asyncio
import os
import queue
import select
import threading
import time
from pathlib import Path

FLUSH_SECONDS = 0.1
BATCH_BYTES = 64 * 1024
PENDING_BYTES = 16 * 1024 * 1024


class LineSink:
    """A destination for lines: "stdout", "stderr" or a file's path, which is created and appended to."""

    def __init__(self, destination: str) -> None:
        """Raises OSError when the file cannot be opened."""
        self._path = None if destination in ("stdout", "stderr") else Path(destination)
        self._fd = {"stdout": 1, "stderr": 2}.get(destination, -1)
        self._lines: list[bytes] = []
        self._size = 0
        self._pending = 0  # bytes handed to the thread and not written yet
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.dropped = 0
        if self._path is not None:
            self._fd = self._open(self._path)
        self._thread = threading.Thread(target=self._write_all, name="gatewright-log", daemon=True)
        self._thread.start()

    @staticmethod
    def _open(path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

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
            self.dropped += len(self._lines)
        else:
            with self._lock:
                self._pending += self._size
            self._queue.put(b"".join(self._lines))
        self._lines.clear()
        self._size = 0

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
        self._queue.put(None)
        self._thread.join(timeout)
        if self._path is not None and not self._thread.is_alive():
            os.close(self._fd)

    def _write_all(self) -> None:
        while (batch := self._queue.get()) is not None:
            left = memoryview(batch)
            while left:
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:  # somebody made the pipe non-blocking: wait here as a blocking write would
                    select.select([], [self._fd], [])
                except OSError:
                    # The disk is full or the reader is gone; there is nobody to tell but this counter.
                    self.dropped += bytes(left).count(b"\n")
                    break
            with self._lock:
                self._pending -= len(batch)
