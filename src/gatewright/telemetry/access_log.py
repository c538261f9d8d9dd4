"""The access log: one JSON line an exchange, without headers and without query values that may be secrets."""

from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import unquote_plus

import msgspec

from gatewright.core.clock import Clock
from gatewright.core.exchange import Exchange

SECRET_PARAMETERS = frozenset(
    [
        "access_token",
        "api_key",
        "apikey",
        "assertion",
        "auth",
        "authorization",
        "client_secret",
        "code",
        "credential",
        "id_token",
        "jwt",
        "key",
        "passwd",
        "password",
        "pwd",
        "refresh_token",
        "secret",
        "session",
        "sessionid",
        "sig",
        "signature",
        "token",
        "x-amz-credential",
        "x-amz-security-token",
        "x-amz-signature",
        "x-goog-signature",
    ]
)
_HIDDEN = "[redacted]"


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
    reason: str | None = None
    cause: str | None = None


class AccessLog:
    """Writes a line for each exchange that is over."""

    def __init__(self, sink: Sink, clock: Clock) -> None:
        self._sink = sink
        self._clock = clock
        self._encode = msgspec.json.Encoder().encode

    def record(self, exchange: Exchange, seconds: float) -> None:
        """Write the line of an exchange that lasted `seconds`."""
        request = exchange.request
        upstream = exchange.upstream_seconds
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
            reason=exchange.reason,
            cause=exchange.cause or None,
        )
        self._sink.write(self._encode(line) + b"\n")


def redact_query(query: str | None) -> str | None:
    """Return `query` with the values of parameters whose names are known for secrets replaced."""
    if not query or "=" not in query:
        return query
    pairs = []
    for pair in query.split("&"):
        name, equals, _ = pair.partition("=")
        secret = equals and unquote_plus(name).lower() in SECRET_PARAMETERS
        pairs.append(f"{name}={_HIDDEN}" if secret else pair)
    return "&".join(pairs)
