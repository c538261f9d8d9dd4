"""One request and its answer, from first byte to last: what plugins are given, and what is logged at the end.

The proxy moves an exchange through its life; a codec's connection made it and will write its answer (`Downstream`).
"""

import json
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from gatewright.core.errors import REASONS, GatewayError, Reason
from gatewright.core.headers import FORWARDING, REQUEST_ID, Field
from gatewright.core.messages import Request, Response
from gatewright.core.peer import Peer, client_behind
from gatewright.core.trace import Trace

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger

# Request IDs: unique, not secret. Made in batches, because one by one they cost 0.35 us each, in a batch 0.19.
_ids: list[str] = []
_BATCH = 256
_ID_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._:+/=@")
_NO_PARAMS: dict[str, str] = {}  # replaced, never edited
PROBLEM = "application/problem+json"


def _new_id() -> str:
    _ids.extend(re.findall(".{32}", os.urandom(16 * _BATCH).hex()))
    return _ids.pop()


class Downstream(Protocol):
    """What an exchange needs of the connection that its request came on."""

    def respond(self, exchange: "Exchange", response: Response, done: Callable[[], None]) -> bool:
        """Write `response`; return True when it is complete, else call `done` once when it is or never will be."""

    def inform(self, exchange: "Exchange", status: int, phrase: bytes, fields: list[Field]) -> None:
        """Send an interim (1xx) answer, where the client's HTTP version allows it."""

    def proceed(self, exchange: "Exchange") -> None:
        """The body is wanted now: send `100 Continue` if the client waits for it."""

    def tunnel(self, exchange: "Exchange", response: Response, upstream: Any, done: Callable[[], None]) -> None:
        """Answer 101 and carry bytes between the client and `upstream` until either side ends, then call `done`."""

    def abort(self, exchange: "Exchange") -> None:
        """Break the connection so that what was sent cannot be taken for a complete answer."""


class Driver(Protocol):
    """What moves an exchange on: its Run, or its only attempt."""

    def fail(self, error: GatewayError) -> None:
        """End the exchange with `error`."""


class Consumer:
    """Who calls: an identity that a plugin established."""

    __slots__ = ("claims", "groups", "name")

    def __init__(self, name: str, groups: frozenset[str] = frozenset(), claims: dict[str, Any] | None = None) -> None:
        self.name = name
        self.groups = groups
        self.claims = claims or {}


class Exchange:
    """One request and its answer.

    For plugins: `id`, `request`, `response` (from the response phase on), `client_ip`, `scheme`, `route` and `service`
    (names), `params` (of the path), `consumer`, `state` (a dict for plugins to leave things in), `attempts`, `reason`,
    `trace_id` and `span_id`, `log` (the gateway's own), and `reject`. Times are seconds of the gateway's monotonic
    clock.
    """

    __slots__ = (
        "_client_ip",
        "attempts",
        "bytes_in",
        "bytes_out",
        "cause",
        "consumer",
        "downstream",
        "id",
        "kept",
        "params",
        "peer",
        "reason",
        "request",
        "response",
        "rewritten",
        "route",
        "run",
        "service",
        "started",
        "status",
        "target",
        "trace",
        "upstream_seconds",
        "upstream_status",
    )

    def __init__(self, request: Request, peer: Peer, downstream: Downstream, started: float) -> None:
        self.request = request
        self.peer = peer
        self.downstream = downstream
        self.started = started
        self.run: Driver | None = None  # what drives it; set by the proxy
        self.response: Response | None = None
        self.route: str | None = None
        self.params: dict[str, str] = _NO_PARAMS
        self.service: str | None = None
        self.target: str | None = None
        self.rewritten: str | None = None  # path and query for the target, when the route changes them
        self.consumer: Consumer | None = None
        self.attempts = 0
        self.reason: str | None = None
        self.cause = ""  # what is behind the reason, for the log only
        self.status: int | None = None  # as sent; None while, or if, nothing was
        self.upstream_status: int | None = None
        self.upstream_seconds = 0.0
        self.bytes_in = 0
        self.bytes_out = 0
        self.trace: Trace | None = None  # set by the proxy, if the gateway traces
        self.kept: dict[str, Any] | None = None  # `state`, once somebody has left something
        self._client_ip: str | None = None
        if request.headers.marks & REQUEST_ID and peer.trusted and (known := self._inbound_id()) is not None:
            self.id = known
        else:
            self.id = _ids.pop() if _ids else _new_id()

    def _inbound_id(self) -> str | None:
        value = self.request.headers.get("x-request-id", "") or ""
        return value if 0 < len(value) <= 128 and _ID_CHARS.issuperset(value) else None

    @property
    def state(self) -> dict[str, Any]:
        """A dict for plugins: it lives as long as the exchange."""
        if self.kept is None:
            self.kept = {}
        return self.kept

    @property
    def log(self) -> "BoundLogger":
        """A structured logger, for the gateway's own log: `exchange.log.warning("slow", seconds=3)`. It names the
        request.
        """
        from gatewright.core.logs import logger_for  # structlog takes 0.05 s, and nearly no exchange needs it

        return logger_for(self.id)

    @property
    def trace_id(self) -> str | None:
        """The ID of the trace that the exchange is part of, 32 hex digits; None where the gateway does not trace."""
        return self.trace.trace_id if self.trace is not None else None

    @property
    def span_id(self) -> str | None:
        """The ID of the exchange's own span, 16 hex digits: parent of what a plugin does for it elsewhere."""
        return self.trace.span_id if self.trace is not None else None

    @property
    def client_ip(self) -> str:
        """The client's IP address: the peer's, or behind trusted proxies the one they vouch for."""
        if self._client_ip is None:
            peer, headers = self.peer, self.request.headers
            self._client_ip = peer.address
            if peer.trusted and headers.marks & FORWARDING:
                entries = [part for value in headers.get_all("x-forwarded-for") for part in value.split(",")]
                self._client_ip = client_behind(entries, peer.address, peer.trusted_networks)
        return self._client_ip

    @property
    def scheme(self) -> str:
        """`http` or `https`, as the client sees it (X-Forwarded-Proto counts from trusted proxies)."""
        if self.peer.trusted:
            told = (self.request.headers.get("x-forwarded-proto") or "").lower()
            if told in ("http", "https"):
                return told
        return self.peer.scheme

    @property
    def host(self) -> str:
        """The Host of the request, as text."""
        return self.request.host.decode("latin-1")

    def reject(self, status: int, reason: str, detail: str, headers: dict[str, str] | None = None) -> Response:
        """Return a problem+json answer (RFC 9457) and note `reason` for log and metrics.

        `status` 400 to 599; `reason` a stable token in snake_case; `detail` a sentence for the client.
        """
        self.reason = reason
        return problem(status, reason, detail, self.id, headers)


def problem(status: int, reason: str, detail: str, request_id: str, headers: dict[str, str] | None = None) -> Response:
    """Return a problem+json answer (RFC 9457). Its `type` names the reason; `docs/reasons.md` explains each."""
    info = REASONS.get(reason)
    title = info.title if info is not None else reason.replace("_", " ").capitalize()
    body = {
        "type": f"urn:gatewright:reason:{reason}",
        "title": title,
        "status": status,
        "detail": detail,
        "reason": reason,
        "request_id": request_id,
    }
    error = info.proxy_status if info is not None and info.proxy_status else "http_request_denied"
    fields = {"Content-Type": PROBLEM, "Proxy-Status": f'gatewright; error={error}; details="{reason}"'}
    if headers:
        fields.update(headers)
    return Response(status, fields, json.dumps(body).encode())


__all__ = ["Consumer", "Downstream", "Exchange", "Reason", "problem"]
