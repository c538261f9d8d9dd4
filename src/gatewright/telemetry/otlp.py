"""Spans of finished exchanges as OTLP writes them: protobuf, after OpenTelemetry's semantic conventions for HTTP.

It owns names and encoding, and knows no network: `span_exporter` calls it. The protobuf is written here and not by
generated classes because it is written for every exchange: 2 us a span against 17, and 58 with the SDK's own. What
repeats (a route's attributes, a client's) is encoded once and kept. Tests read what it writes with opentelemetry-proto.
"""

import os
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version as installed_version

from gatewright.core.errors import Reason
from gatewright.core.exchange import Exchange
from gatewright.telemetry.counters import METHODS, OTHER
from gatewright.telemetry.secrets import redact_query
from gatewright.telemetry.tracing import AttemptNote, PhaseNote, RecordedTrace

_KEPT = 4096  # encoded pieces of each kind
_SHORT = 256  # characters; of longer texts nothing is kept
_LONGEST = 1024  # characters of a path, a query or a user agent that are told
_MAX_PHASES = 64  # whose plugins' time is told: one that calls again and again has no end of them
_NANO = 1_000_000_000
_DEFAULT_PORTS = {"http": "80", "https": "443"}

# Field numbers of opentelemetry/proto/trace/v1/trace.proto with their wire types, as they stand before each field.
# Those of IDs, which have one length, are in hex digits, as the IDs themselves.
_TRACE_ID, _SPAN_ID, _PARENT = "0a10", "1208", "2208"
_STATE, _NAME, _ATTRIBUTE, _EVENT = b"\x1a", b"\x2a", b"\x4a", b"\x5a"
_SPAN = b"\x12"  # in a ScopeSpans
_SERVER, _CLIENT = b"\x30\x02", b"\x30\x03"  # kind
_ERROR = b"\x18\x02"  # a status's code
_TIMES = struct.Struct("<BQBQHI").pack  # start (7) and end (8), fixed64; flags (16), fixed32
_START, _END, _FLAGS = 0x39, 0x41, 0x0185
_LOCAL_PARENT, _REMOTE_PARENT = 0x100, 0x300  # beside the trace's flags: whether it is known where the parent is
_FLAGS_OF = {f"{flags:02x}": flags for flags in range(256)}
_DOUBLE = struct.Struct("<Bd").pack
_NO_TIME = bytes(8)

Value = str | int | float


def _varint(number: int) -> bytes:
    pieces = bytearray()
    while number > 0x7F:
        pieces.append(number & 0x7F | 0x80)
        number >>= 7
    pieces.append(number)
    return bytes(pieces)


_LENGTHS = tuple(_varint(length) for length in range(2048))


def _field(tag: bytes, data: bytes) -> bytes:
    length = len(data)
    return b"".join((tag, _LENGTHS[length] if length < 2048 else _varint(length), data))


def attribute(key: str, value: Value, tag: bytes = _ATTRIBUTE) -> bytes:
    """Return a KeyValue as a field; numbers are not negative."""
    if isinstance(value, str):
        encoded = _field(b"\x0a", value.encode("utf-8", "replace"))
    elif isinstance(value, int):
        encoded = b"\x18" + _varint(value)
    else:
        encoded = _DOUBLE(0x21, value)
    return _field(tag, _field(b"\x0a", key.encode()) + _field(b"\x12", encoded))


def _attributes(values: Mapping[str, Value | None]) -> bytes:
    return b"".join([attribute(key, value) for key, value in values.items() if value is not None])


class _Kept(dict[object, bytes]):
    """Encoded pieces by what they are made of; as many as _KEPT."""

    def keep(self, key: object, piece: bytes, size: int, longest: int = _SHORT) -> bytes:
        """Keep `piece`, unless its texts have more than `longest` characters, by `size`; return it."""
        if size <= longest:
            if len(self) >= _KEPT:
                self.clear()
            self[key] = piece
        return piece


# How an event is packed, and what it is packed of beside its time and its duration: the piece before each.
_Event = tuple[Callable[..., bytes], bytes, bytes]


class Encoder:
    """Encodes exchanges as spans. `routes` are the paths of the routes by name."""

    def __init__(self, service_name: str, routes: Mapping[str, str]) -> None:
        resource: dict[str, Value] = {
            "service.name": service_name,
            "service.version": installed_version("gatewright"),
            "service.instance.id": str(uuid.uuid4()),
            "process.pid": os.getpid(),
        }
        fields = b"".join([attribute(key, value, b"\x0a") for key, value in resource.items()])
        self._resource = _field(b"\x0a", fields)
        self._scope = _field(b"\x0a", _field(b"\x0a", b"gatewright"))
        self._clients, self._urls, self._agents = _Kept(), _Kept(), _Kept()
        self.set_routes(routes)

    def set_routes(self, routes: Mapping[str, str]) -> None:
        """Take other paths. What was kept of routes and their plugins goes."""
        self._routes = routes
        self._groups = _Kept()
        self._events: dict[tuple[str, Sequence[object]], tuple[_Event, ...]] = {}

    def head(self, size: int) -> bytes:
        """Return what makes an ExportTraceServiceRequest of encoded spans that follow it, `size` bytes in all."""
        scope = b"".join((b"\x12", _varint(len(self._scope) + size), self._scope))
        return b"".join((b"\x0a", _varint(len(self._resource) + len(scope) + size), self._resource, scope))

    def spans(self, exchange: Exchange, trace: RecordedTrace, ended: float, offset: int) -> bytes:
        """Return the spans of an exchange that is over: its own, then one for each attempt. `ended` is when; `offset`
        in nanoseconds makes the gateway's clock one that counts from the epoch.
        """
        trace_id, span_id = trace.trace_id, trace.span_id
        state = _field(_STATE, trace.state.encode("latin-1")) if trace.state else b""
        flags = _FLAGS_OF[trace.flags]
        local = flags | _LOCAL_PARENT
        begun, over = int(exchange.started * _NANO) + offset, int(ended * _NANO) + offset
        if trace.parent_id:
            ids = f"{_TRACE_ID}{trace_id}{_SPAN_ID}{span_id}{_PARENT}{trace.parent_id}"
            times = _TIMES(_START, begun, _END, over, _FLAGS, flags | _REMOTE_PARENT)
        else:
            ids = f"{_TRACE_ID}{trace_id}{_SPAN_ID}{span_id}"
            times = _TIMES(_START, begun, _END, over, _FLAGS, local)
        pieces = [bytes.fromhex(ids), state, times]
        self._describe(exchange, trace, pieces)
        if trace.phases:
            self._tell_hooks(trace.phases, offset, pieces)
        spans = [_field(_SPAN, b"".join(pieces))]
        for number, attempt in enumerate(trace.attempts):
            ids = f"{_TRACE_ID}{trace_id}{_SPAN_ID}{attempt.span_id}{_PARENT}{span_id}"
            start = begun if attempt.started == exchange.started else int(attempt.started * _NANO) + offset
            status, end = attempt.status, attempt.ended
            if end is None and status is None and exchange.upstream_seconds:  # the short way notes no more than that
                status, end = exchange.upstream_status, attempt.started + exchange.upstream_seconds
            times = _TIMES(_START, start, _END, over if end is None else int(end * _NANO) + offset, _FLAGS, local)
            pieces = [bytes.fromhex(ids), state, times]
            self._describe_attempt(exchange, attempt, number, status, pieces)
            spans.append(_field(_SPAN, b"".join(pieces)))
        return b"".join(spans)

    def _describe(self, exchange: Exchange, trace: RecordedTrace, pieces: list[bytes]) -> None:
        """Add name, kind, attributes and status of the exchange's own span."""
        request, peer, consumer = exchange.request, exchange.peer, exchange.consumer
        path, query = request.path, request.query
        group = (
            request.method, exchange.route, exchange.status, exchange.scheme, request.host, request.version,
            exchange.reason, exchange.cause, consumer.name if consumer is not None else None,
        )  # fmt: skip
        client = (exchange.client_ip, peer.address, peer.port)
        url = (path, query)
        pieces += (
            self._groups.get(group) or self._groups.keep(group, self._group(exchange), len(str(group)), _LONGEST),
            self._clients.get(client) or self._clients.keep(client, _client(*client), len(client[0])),
            self._urls.get(url) or self._urls.keep(url, _url(path, query), len(path) + len(query or "")),
        )
        for field in request.headers.fields:
            if field[0] == b"user-agent":
                agent = field[1]
                pieces.append(self._agents.get(agent) or self._agents.keep(agent, _agent(agent), len(agent)))
                break
        if exchange.id != trace.trace_id:
            pieces.append(attribute("gatewright.request_id", exchange.id))

    def _tell_hooks(self, phases: list[PhaseNote], offset: int, pieces: list[bytes]) -> None:
        """Add the time of plugins, as events."""
        for phase, hooks, times in phases[:_MAX_PHASES]:
            try:
                events = self._events[phase, hooks]
            except (KeyError, TypeError):
                events = self._keep_events(phase, hooks)
            if len(times) <= len(events):
                events = events[: len(times) - 1]  # one has ended the phase
            begun = times[0]
            for number, (pack, head, middle) in enumerate(events, 1):
                over = times[number]
                pieces.append(pack(head, int(begun * _NANO) + offset, middle, over - begun))
                begun = over

    def _keep_events(self, phase: str, hooks: Sequence[object]) -> tuple[_Event, ...]:
        events = tuple([_event(phase, hook) for hook in hooks])
        if len(self._events) >= _KEPT:
            self._events.clear()
        with suppress(TypeError):  # a plugin's hook may be anything that can be called, also what has no hash
            self._events[phase, hooks] = events
        return events

    def _describe_attempt(
        self, exchange: Exchange, attempt: AttemptNote, number: int, status: int | None, pieces: list[bytes]
    ) -> None:
        """Add name, kind, attributes and status of an attempt's span."""
        request, url = exchange.request, attempt.target.url
        group = (request.method, url, status, number, attempt.error, attempt.cause)
        pieces.append(
            self._groups.get(group)
            or self._groups.keep(
                group, _attempt_group(request.method, attempt, number, status), len(str(group)), _LONGEST
            )
        )
        if not attempt.target.port:  # an application in this process
            return
        path, query = request.path, request.query
        if exchange.rewritten is not None:
            path, mark, rest = exchange.rewritten.partition("?")
            query = rest if mark else None
        place = (url, path, query)
        pieces.append(self._urls.get(place) or self._urls.keep(place, _full_url(*place), len(path) + len(query or "")))

    def _group(self, of: Exchange) -> bytes:
        """Return what many exchanges have in common: name, kind, status, most attributes."""
        request, consumer = of.request, of.consumer
        known = request.method in METHODS
        name, port = _host_and_port(request.host[:_LONGEST], of.scheme)
        template = self._routes.get(of.route or "")
        error = server_error(of)
        values: dict[str, Value | None] = {
            "http.request.method": request.method if known else OTHER,
            "http.request.method_original": None if known or not request.method else request.method,
            "http.route": template,
            "http.response.status_code": of.status,
            "url.scheme": of.scheme,
            "server.address": name,
            "server.port": port,
            "network.protocol.version": "2" if request.version >= 20 else f"1.{request.version}",
            "error.type": error,
            "gatewright.route": of.route,
            "gatewright.reason": of.reason,
            "gatewright.consumer": consumer.name[:_SHORT] if consumer is not None else None,
        }
        method = request.method if known else "HTTP"
        title = f"{method} {template}" if template is not None else method
        return _SERVER + _field(_NAME, title.encode()) + _attributes(values) + _status(error, of.cause)


def _event(phase: str, hook: object) -> _Event:
    """Return a plugin's event, but for its time and its duration."""
    owner = getattr(hook, "__self__", None)
    if owner is None:
        owner = getattr(hook, "plugin", None)
    values: dict[str, Value] = {
        "gatewright.plugin.name": str(getattr(owner, "name", "")),
        "gatewright.plugin.phase": phase,
        "gatewright.plugin.duration": 0.0,
    }
    attributes = b"".join([attribute(key, value, b"\x1a") for key, value in values.items()])
    event = _field(_EVENT, b"\x09" + _NO_TIME + _field(b"\x12", b"gatewright.plugin") + attributes)
    at = event.index(b"\x09" + _NO_TIME) + 1
    head, middle = event[:at], event[at + 8 : -8]
    return struct.Struct(f"<{len(head)}sQ{len(middle)}sd").pack, head, middle


def _client(client_ip: str, address: str, port: int) -> bytes:
    return _attributes(
        {
            "client.address": client_ip or None,
            "network.peer.address": address or None,
            "network.peer.port": port or None,
        }
    )


def _url(path: str, query: str | None) -> bytes:
    told = redact_query(query[:_LONGEST]) if query else None
    return _attributes({"url.path": path[:_LONGEST] or None, "url.query": told})


def _agent(value: bytes) -> bytes:
    return attribute("user_agent.original", value[:_LONGEST].decode("latin-1"))


def _attempt_group(method: str, attempt: AttemptNote, number: int, status: int | None) -> bytes:
    known = method in METHODS
    error = attempt.error or (str(status) if status is not None and status >= 400 else None)
    values: dict[str, Value | None] = {
        "http.request.method": method if known else OTHER,
        "http.request.method_original": None if known else method,
        "server.address": attempt.target.host,
        "server.port": attempt.target.port or None,
        "network.protocol.version": "1.1",
        "http.response.status_code": status,
        "http.request.resend_count": number or None,
        "error.type": error,
    }
    name = method if known else "HTTP"
    return _CLIENT + _field(_NAME, name.encode()) + _attributes(values) + _status(error, attempt.cause)


def _full_url(url: str, path: str, query: str | None) -> bytes:
    told = f"?{redact_query(query[:_LONGEST])}" if query is not None else ""
    return attribute("url.full", url.rstrip("/") + path[:_LONGEST] + told)


def server_error(of: Exchange) -> str | None:
    """Return the error.type of an exchange: None for what is the client's own affair, a 4xx or its going away."""
    if of.status is not None and of.status >= 500:
        return of.reason or str(of.status)
    if of.reason is not None and of.reason != Reason.CLIENT_GONE and (of.status is None or of.status < 400):
        return of.reason  # the answer broke off
    return None


def _status(error: str | None, cause: str) -> bytes:
    if error is None:
        return b""
    message = _field(b"\x12", cause[:_SHORT].encode("utf-8", "replace")) if cause else b""
    return _field(b"\x7a", message + _ERROR)


def _host_and_port(host: bytes, scheme: str) -> tuple[str | None, int | None]:
    """Return name and port of a Host field; the port only where it is not the scheme's own."""
    text = host.decode("latin-1")
    head, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or (":" in head and not head.endswith("]")):
        head, port = text, ""
    number = int(port) if port and len(port) <= 5 and port != _DEFAULT_PORTS.get(scheme) else None
    return (head.strip("[]") or None), number
