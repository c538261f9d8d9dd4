"""The gateway's own log (plugin failures, health changes) to stderr, without ever blocking the event loop.

Lines are written by a thread; when whoever reads stderr stalls, what no longer fits the queue is lost, and no request
waits for it. Other processes of the gateway write to the same place, so they say who they are. The access log has a
sink of its own. Called by the command line and the workers: an embedding application keeps its own log.
"""

import contextlib
import logging
import queue
import threading
import time

from gatewright.telemetry.whole_lines import WholeLines

_LINES = 10_000
_STDERR = 2
_FORMAT = ": %(levelname)s %(name)s: %(message)s"


class OwnLog(logging.Handler):
    """Writes records to stderr, in the background."""

    def __init__(self, label: str = "") -> None:
        """`label` tells this process from the gateway's others."""
        super().__init__()
        name = f"gatewright {label}" if label else "gatewright"
        self.setFormatter(logging.Formatter(name.replace("%", "%%") + _FORMAT))
        self._lines: queue.Queue[bytes] = queue.Queue(_LINES)
        # A daemon that writes to the bare descriptor: neither thread nor buffer of `sys.stderr` can hold up an exit.
        threading.Thread(target=self._write_all, name="gatewright-own-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; one that cannot be formatted, or finds the queue full, is lost and hurts nobody."""
        with contextlib.suppress(Exception):
            self._lines.put_nowait(self.format(record).encode("utf-8", "backslashreplace") + b"\n")

    def wait(self, seconds: float) -> None:
        """Block until all lines are written, for that long at most."""
        deadline = time.monotonic() + seconds
        while self._lines.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)

    def _write_all(self) -> None:
        while True:
            lines = self._lines.get()
            with contextlib.suppress(OSError):  # stderr is closed, or its reader gone: there is nobody to tell
                WholeLines(_STDERR).write(lines)
            self._lines.task_done()


def start_own_log(level: int = logging.INFO, label: str = "") -> OwnLog:
    """Send the root logger's records from `level` on to stderr; wait for them with `wait` before the process ends.

    `label` ("worker 2") tells this process from the gateway's others.
    """
    log = OwnLog(label)
    logging.basicConfig(handlers=[log], level=level)
    return log
