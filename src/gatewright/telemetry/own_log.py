"""The gateway's own log (plugin failures, health changes) to stderr, without ever blocking the event loop.

Records come by Python's logging, from structlog's loggers as well; structlog makes lines of them, JSON or for people.
Lines are written by a thread; when whoever reads stderr stalls, what no longer fits the queue is lost, and no request
waits for it. Other processes of the gateway write to the same place, so they say who they are. The access log has a
sink of its own. Called by the command line and the workers: an embedding application keeps its own log.
"""

import contextlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import MutableMapping
from typing import Any

from gatewright.core.text import printable
from gatewright.telemetry.whole_lines import WholeLines

_LINES = 10_000
_STDERR = 2
_COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "31"}

Event = MutableMapping[str, Any]


class OwnLog(logging.Handler):
    """Writes records to stderr, in the background."""

    def __init__(self, label: str = "") -> None:
        """`label` tells this process from the gateway's others."""
        super().__init__()
        self._label = label
        self._lines: queue.Queue[bytes] = queue.Queue(_LINES)
        self.use(human=True)
        # A daemon that writes to the bare descriptor: neither thread nor buffer of `sys.stderr` can hold up an exit.
        threading.Thread(target=self._write_all, name="gatewright-own-log", daemon=True).start()

    def use(self, human: bool, level: int = logging.INFO) -> None:
        """Write lines for people or JSON from now on, of the root logger's records from `level` on."""
        self._human = human
        self._made: logging.Formatter | None = None
        logging.getLogger().setLevel(level)

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line. structlog is imported for the first: at a start it would take 0.1 s of it."""
        if self._made is None:
            try:
                self._made = self._make_formatter()
            except OSError:  # no file descriptor is free for the import, which may be what is to be told
                return self._format_plainly(record)
        return self._made.format(record)

    def _format_plainly(self, record: logging.LogRecord) -> str:
        event = _add_fields(None, "", {"_record": record, "event": record.getMessage()})
        del event["_record"]
        return (_human if self._human else _json)(None, "", self._add_process(None, "", event))

    def _make_formatter(self) -> logging.Formatter:
        import structlog

        before = (structlog.contextvars.merge_contextvars, _add_fields, structlog.processors.format_exc_info)
        render = _human if self._human else _json
        last = (structlog.stdlib.ProcessorFormatter.remove_processors_meta, self._add_process, render)
        return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=before, processors=last)

    def _add_process(self, logger: Any, method: str, event: Event) -> Event:
        event["process"] = self._label
        return event

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; one that cannot be formatted, or finds the queue full, is lost and hurts nobody."""
        with contextlib.suppress(Exception):
            self.say(self.format(record))

    def say(self, text: str) -> None:
        """Write a text as it is, as lines of its own; lost like a record where the queue is full."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(text.encode("utf-8", "backslashreplace") + b"\n")

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


def _add_fields(logger: Any, method: str, event: Event) -> Event:
    """Put what every line has first, then what the record brought along."""
    record: logging.LogRecord = event["_record"]
    moment = time.gmtime(record.created)
    head: dict[str, Any] = {
        "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{int(record.msecs):03d}+00:00",
        "level": record.levelname.lower(),
        "logger": record.name,
        "process": "",
        "message": event.pop("event"),
    }
    request_id = getattr(record, "request_id", None)
    if request_id is not None:
        head["request_id"] = request_id
    fields = getattr(record, "fields", None)
    return {**head, **{name: value for name, value in (fields or {}).items() if name not in head}, **event}


def _json(logger: Any, method: str, event: Event) -> str:
    if not event["process"]:
        del event["process"]
    return json.dumps(event, default=str, ensure_ascii=False)


def _human(logger: Any, method: str, event: Event) -> str:
    moment, level, name, process, message, exception = (
        str(event.pop(key, "")) for key in ("time", "level", "logger", "process", "message", "exception")
    )
    who = f"gatewright {process}" if process else "gatewright"
    level = level.upper()
    if level in _COLOURS and os.isatty(_STDERR) and "NO_COLOR" not in os.environ:
        level = f"\x1b[{_COLOURS[level]}m{level}\x1b[0m"
    # Further lines are indented, or a text of a client's could pass for a line of its own.
    first, *rest = (printable(line) for line in [*(message.split("\n")), *exception.splitlines()])
    fields = "".join(printable(f" {key}={value}") for key, value in event.items())
    return "\n    ".join([f"{moment[11:23]} {who}: {level} {name}: {first}{fields}", *rest])


def start_own_log(level: int = logging.INFO, label: str = "") -> OwnLog:
    """Send the root logger's records from `level` on to stderr; wait for them with `wait` before the process ends.

    `label` ("worker 2") tells this process from the gateway's others. Until `use` says otherwise, lines are for people.
    """
    log = OwnLog(label)
    logging.basicConfig(handlers=[log], level=level)
    return log
