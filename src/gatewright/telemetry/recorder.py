"""Who is told of each exchange at its end: the counters, the access log, or both.

The composition root asks for it once; the proxy calls what it gets, on the hot path, so it is one object with one call
wherever one of the two is off.
"""

from typing import Protocol

from gatewright.core.exchange import Exchange
from gatewright.telemetry.access_log import AccessLog
from gatewright.telemetry.counters import Counters


class Recorder(Protocol):
    """What takes finished exchanges."""

    def record(self, exchange: Exchange, seconds: float) -> None:
        """Take a finished exchange that lasted `seconds`."""


class CountAndLog:
    """Counts, then logs: a line that cannot be written (a plugin's text that no encoder takes) still counts."""

    def __init__(self, counters: Counters, access_log: AccessLog) -> None:
        self._count = counters.record
        self._log = access_log.record

    def record(self, exchange: Exchange, seconds: float) -> None:
        """See `Recorder`."""
        self._count(exchange, seconds)
        self._log(exchange, seconds)


def make_recorder(counters: Counters | None, access_log: AccessLog | None) -> Recorder | None:
    """Return what tells those of the two that are there."""
    if counters is not None and access_log is not None:
        return CountAndLog(counters, access_log)
    return access_log if counters is None else counters
