"""Who is told of each exchange at its end: the counters, the tracer, the access log, or several of them.

The composition root asks for it once; the proxy calls what it gets, on the hot path, so it is one object with one call
wherever the others are off.
"""

from functools import reduce
from typing import Protocol

from gatewright.core.exchange import Exchange
from gatewright.telemetry.access_log import AccessLog
from gatewright.telemetry.counters import Counters
from gatewright.telemetry.tracing import Tracer


class Recorder(Protocol):
    """What takes finished exchanges."""

    def record(self, exchange: Exchange, seconds: float) -> None:
        """Take a finished exchange that lasted `seconds`."""


class Both:
    """Tells one, then the other. What may fail comes last: the others have been told then."""

    def __init__(self, first: Recorder, second: Recorder) -> None:
        self._first = first.record
        self._second = second.record

    def record(self, exchange: Exchange, seconds: float) -> None:
        """See `Recorder`."""
        self._first(exchange, seconds)
        self._second(exchange, seconds)


def make_recorder(
    counters: Counters | None, access_log: AccessLog | None, tracer: Tracer | None = None
) -> Recorder | None:
    """Return what tells those that are there. A line of the log that cannot be written (a plugin's text that no encoder
    takes) still counts, and has its spans.
    """
    present: list[Recorder] = [each for each in (counters, tracer, access_log) if each is not None]
    return reduce(Both, present) if present else None
