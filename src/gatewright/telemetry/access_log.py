"""The access log: one line an exchange, without query values that may be secrets.

It owns the line's fields; how a line looks to people, `human` says. What messages hold is there only if a plugin has
left it (DETAILS). The recorder calls it.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from gatewright.core.clock import Clock
from gatewright.core.exchange import Exchange
from gatewright.telemetry.secrets import redact_query

_log = logging.getLogger("gatewright.log")
# Where an exchange's `state` has what is told of its messages: a callable that takes it, and returns a dict with
# `request` and `response`. It is asked only if a line is written.
DETAILS = "log"
CACHE = "cache"  # and what the cache did
_PROTOCOLS = {0: "HTTP/1.0", 1: "HTTP/1.1"}
_FRACTIONS = [f".{number:03d}+00:00" for number in range(1000)]


class Sink(Protocol):
    """Where lines go."""

    def write(self, line: bytes) -> None:
        """Take a line with its newline."""


class Line(msgspec.Struct, omit_defaults=True):
    """One line. Durations are in milliseconds, sizes count body bytes."""

    time: str
    request_id: str
    client_ip: str
    method: str
    scheme: str
    host: str
    path: str
    protocol: str
    status: int
    duration_ms: float
    overhead_ms: float
    bytes_in: int
    bytes_out: int
    attempts: int
    query: str | None = None
    route: str | None = None
    service: str | None = None
    upstream_addr: str | None = None
    upstream_status: int | None = None
    upstream_duration_ms: float | None = None
    consumer: str | None = None
    tls_version: str | None = None
    cache_status: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    reason: str | None = None
    cause: str | None = None
    request: dict[str, Any] | None = None
    response: dict[str, Any] | None = None


class AccessLog:
    """Writes a line for each exchange that is over."""

    def __init__(self, sink: Sink, clock: Clock, render: Callable[[Line], bytes] | None = None) -> None:
        """`render` makes bytes of a line, by default JSON."""
        self._sink = sink
        self._clock = clock
        self._render = render or msgspec.json.Encoder().encode
        self._second, self._second_text = -1, ""

    def record(self, exchange: Exchange, seconds: float) -> None:
        """Write the line of an exchange that lasted `seconds`."""
        request = exchange.request
        upstream = exchange.upstream_seconds
        trace = exchange.trace
        # In the order of the fields: by their names it would take 1.1 us more.
        line = Line(
            self._time(self._clock.wall() - seconds),
            exchange.id,
            exchange.client_ip,
            request.method,
            exchange.scheme,
            request.host.decode("latin-1"),
            request.path,
            _PROTOCOLS.get(request.version, "HTTP/2"),
            exchange.status or 499,
            int(seconds * 1e6 + 0.5) / 1000,  # to the microsecond; `round` would take four times as long
            int((seconds - upstream) * 1e6 + 0.5) / 1000 if seconds > upstream else 0.0,
            exchange.bytes_in,
            exchange.bytes_out,
            exchange.attempts,
            redact_query(request.query) if request.query else request.query,
            exchange.route,
            exchange.service,
            exchange.target,
            exchange.upstream_status,
            int(upstream * 1e6 + 0.5) / 1000 if upstream else None,
            exchange.consumer.name if exchange.consumer is not None else None,
            exchange.peer.tls_version,
            None,
            trace.trace_id if trace is not None else None,
            trace.span_id if trace is not None else None,
            exchange.reason,
            exchange.cause or None,
        )
        kept = exchange.kept
        if kept is not None and (DETAILS in kept or CACHE in kept):
            _add_what_is_kept(line, exchange, kept)
        self._sink.write(self._render(line) + b"\n")

    def _time(self, at: float) -> str:
        """Return a time since the epoch as text, in UTC and to the millisecond; the text of a second is made once."""
        second = int(at)
        if second != self._second:
            self._second, self._second_text = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return self._second_text + _FRACTIONS[int((at - second) * 1000)]


def _add_what_is_kept(line: Line, exchange: Exchange, kept: dict[str, Any]) -> None:
    """Add what plugins have left. What they get wrong costs the addition, not the line."""
    status = kept.get(CACHE)
    if isinstance(status, str):
        line.cache_status = status
    details = kept.get(DETAILS)
    if details is not None:
        try:
            told = details(exchange)
            line.request, line.response = told.get("request"), told.get("response")
        except Exception:
            _log.exception("what request %s held cannot be logged", exchange.id, extra={"request_id": exchange.id})
