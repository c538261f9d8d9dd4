"""Who is told of each exchange at its end: the counters, the tracer, the access log, or several of them.

The composition root asks for it once; the proxy calls what it gets, on the hot path, so it is one object with one call
wherever the others are off.
"""

from collections.abc import Sequence
from typing import Protocol

from gatewright.core.exchange import Exchange
from gatewright.telemetry.access_log import AccessLog
from gatewright.telemetry.counters import Counters
from gatewright.telemetry.tracing import Tracer


class Recorder(Protocol):
    """What takes finished exchanges."""

    def record(self, exchange: Exchange, seconds: float) -> None:
        """Take a finished exchange that lasted `seconds`."""


class All:
    """Tells several, one after the other. What may fail comes last: the others have been told then."""

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        self._record = [recorder.record for recorder in recorders]

    def record(self, exchange: Exchange, seconds: float) -> None:
        """See `Recorder`."""
        for record in self._record:
            record(exchange, seconds)


def make_recorder(
    counters: Counters | None, access_log: AccessLog | None, tracer: Tracer | None = None
) -> Recorder | None:
    """Return what tells those that are there. A line of the log that cannot be written (a plugin's text that no encoder
    takes) still counts, and has its spans.
    """
    present: list[Recorder] = [each for each in (counters, tracer, access_log) if each is not None]
    return All(present) if len(present) > 1 else next(iter(present), None)
