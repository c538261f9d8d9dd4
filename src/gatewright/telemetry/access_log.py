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

    def record(self, exchange: Exchange, seconds: float) -> None:
        """Write the line of an exchange that lasted `seconds`."""
        request = exchange.request
        upstream = exchange.upstream_seconds
        trace = exchange.trace
        began = datetime.fromtimestamp(self._clock.wall() - seconds, UTC)
        line = Line(
            time=began.isoformat(timespec="milliseconds"),
            request_id=exchange.id,
            client_ip=exchange.client_ip,
            method=request.method,
            scheme=exchange.scheme,
            host=exchange.host,
            path=request.path,
            query=redact_query(request.query),
            protocol=f"HTTP/1.{request.version}" if request.version < 2 else "HTTP/2",
            status=exchange.status or 499,
            duration_ms=round(seconds * 1000, 3),
            overhead_ms=round(max(0.0, seconds - upstream) * 1000, 3),
            bytes_in=exchange.bytes_in,
            bytes_out=exchange.bytes_out,
            attempts=exchange.attempts,
            route=exchange.route,
            service=exchange.service,
            upstream_addr=exchange.target,
            upstream_status=exchange.upstream_status,
            upstream_duration_ms=round(upstream * 1000, 3) if upstream else None,
            consumer=exchange.consumer.name if exchange.consumer is not None else None,
            tls_version=exchange.peer.tls_version,
            trace_id=trace.trace_id if trace is not None else None,
            span_id=trace.span_id if trace is not None else None,
            reason=exchange.reason,
            cause=exchange.cause or None,
        )
        if exchange.kept is not None:
            _add_what_is_kept(line, exchange, exchange.kept)
        self._sink.write(self._render(line) + b"\n")


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
