"""Spans of finished exchanges as OTLP writes them: protobuf, after OpenTelemetry's semantic conventions for HTTP.

It owns names and encoding, and knows no network: `span_exporter` calls it. The protobuf is written here and not by
generated classes because it is written for every exchange: 2 us a span against 17, and 58 with the SDK's own. What
repeats (a route's attributes, a client's) is encoded once and kept. Tests read what it writes with opentelemetry-proto.
"""

import os
import struct
import uuid
from collections.abc import Mapping
from importlib.metadata import version as installed_version

from gatewright.core.errors import Reason
from gatewright.telemetry.counters import METHODS, OTHER
from gatewright.telemetry.secrets import redact_query
from gatewright.telemetry.tracing import AttemptNote, Finished

_KEPT = 4096  # encoded pieces of each kind
_SHORT = 256  # characters; longer texts are not kept
_MAX_EVENTS = 128
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
_FIXED, _FLOAT = struct.Struct("<Q").pack, struct.Struct("<d").pack
_DOUBLE = struct.Struct("<Bd").pack

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


class _Kept(dict[tuple[object, ...], bytes]):
    """Encoded pieces by what they are made of; as many as _KEPT."""

    def keep(self, key: tuple[object, ...], piece: bytes, size: int = 0) -> bytes:
        """Keep `piece`, unless its texts have more than _SHORT characters; return it."""
        if size <= _SHORT:
            if len(self) >= _KEPT:
                self.clear()
            self[key] = piece
        return piece


class Encoder:
    """Encodes exchanges as spans. `routes` are the paths of the routes by name."""

    def __init__(self, service_name: str, routes: Mapping[str, str]) -> None:
        self.routes = routes
        resource: dict[str, Value] = {
            "service.name": service_name,
            "service.version": installed_version("gatewright"),
            "service.instance.id": str(uuid.uuid4()),
            "process.pid": os.getpid(),
        }
        fields = b"".join([attribute(key, value, b"\x0a") for key, value in resource.items()])
        self._resource = _field(b"\x0a", fields)
        self._scope = _field(b"\x0a", _field(b"\x0a", b"gatewright"))
        self._groups, self._clients, self._urls, self._agents = _Kept(), _Kept(), _Kept(), _Kept()
        self._events: dict[tuple[str, str], tuple[bytes, bytes]] = {}

    def head(self, size: int) -> bytes:
        """Return what makes an ExportTraceServiceRequest of encoded spans that follow it, `size` bytes in all."""
        scope = b"".join((b"\x12", _varint(len(self._scope) + size), self._scope))
        return b"".join((b"\x0a", _varint(len(self._resource) + len(scope) + size), self._resource, scope))

    def spans(self, of: Finished, offset: int) -> list[bytes]:
        """Return the spans of an exchange: its own, then one for each attempt. `offset` in nanoseconds makes the
        gateway's clock one that counts from the epoch.
        """
        # Unpacked at once: fields of a NamedTuple asked for one by one take 1 us more.
        (
            trace, request_id, started, ended, method, path, query, _, version, scheme, host, agent, client_ip, peer,
            route, status, reason, cause, consumer, _, _,
        ) = of  # fmt: skip
        trace_id, parent_id = trace.trace_id, trace.parent_id
        state = _field(_STATE, trace.state.encode("latin-1")) if trace.state else b""
        flags = int(trace.flags, 16)
        local = flags | _LOCAL_PARENT
        own_ids = f"{_TRACE_ID}{trace_id}{_SPAN_ID}{trace.span_id}"
        template = self.routes.get(route or "")
        group = (method, template, status, scheme, host, version, route, reason, cause, consumer)
        client = (client_ip, peer.address, peer.port)
        url = (path, query)
        parts = [
            bytes.fromhex(f"{own_ids}{_PARENT}{parent_id}" if parent_id else own_ids),
            state,
            _TIMES(
                *(_START, int(started * _NANO) + offset, _END, int(ended * _NANO) + offset),
                *(_FLAGS, flags | _REMOTE_PARENT if parent_id else local),
            ),
            self._groups.get(group) or self._groups.keep(group, _group(of, template)),
            self._clients.get(client) or self._clients.keep(client, _client(*client)),
            self._urls.get(url) or self._urls.keep(url, _url(*url), len(path) + len(query or "")),
        ]
        if agent:
            parts.append(self._agents.get((agent,)) or self._agents.keep((agent,), _agent(agent), len(agent)))
        if request_id != trace_id:
            parts.append(attribute("gatewright.request_id", request_id))
        for phase, hook, begun, over in trace.hooks[:_MAX_EVENTS]:
            try:
                name = hook.__self__.name
            except AttributeError:
                name = getattr(getattr(hook, "plugin", None), "name", "")
            head, middle = self._events.get((name, phase)) or self._keep_event(name, phase)
            parts += (head, _FIXED(int(begun * _NANO) + offset), middle, _FLOAT(over - begun))
        spans = [_field(_SPAN, b"".join(parts))]
        for number, attempt in enumerate(trace.attempts):
            ids = f"{_TRACE_ID}{trace_id}{_PARENT}{trace.span_id}{_SPAN_ID}{attempt.span_id}"
            spans.append(self._attempt(of, attempt, number, bytes.fromhex(ids) + state, local, offset))
        return spans

    def _keep_event(self, name: str, phase: str) -> tuple[bytes, bytes]:
        """Return a plugin's event without its time and its duration, which come behind either piece."""
        values: dict[str, Value] = {
            "gatewright.plugin.name": str(name),
            "gatewright.plugin.phase": phase,
            "gatewright.plugin.duration": 0.0,
        }
        time = b"\x09" + _FIXED(0)
        attributes = b"".join([attribute(key, value, b"\x1a") for key, value in values.items()])
        event = _field(_EVENT, time + _field(b"\x12", b"gatewright.plugin") + attributes)
        at = event.index(time) + 1
        if len(self._events) >= _KEPT:
            self._events.clear()
        self._events[name, phase] = halves = (event[:at], event[at + 8 : -8])
        return halves

    def _attempt(
        self, of: Finished, attempt: AttemptNote, number: int, common: bytes, flags: int, offset: int
    ) -> bytes:
        status, ended = attempt.status, attempt.ended
        if ended is None and status is None and of.upstream_seconds:  # the short way notes no more than that
            status, ended = of.upstream_status, attempt.started + of.upstream_seconds
        if ended is None:
            ended = of.ended
        begun = int(attempt.started * _NANO) + offset
        times = _TIMES(_START, begun, _END, int(ended * _NANO) + offset, _FLAGS, flags)
        url = attempt.target.url
        path, query = of.path, of.query
        if of.rewritten is not None:
            path, mark, rest = of.rewritten.partition("?")
            query = rest if mark else None
        key = (of.method, url, status, number, attempt.error, attempt.cause)
        group = self._groups.get(key) or self._groups.keep(key, _attempt_group(of.method, attempt, number, status))
        full = b""
        if "://" in url:
            place = (url, path, query)
            full = self._urls.get(place) or self._urls.keep(
                place, _full_url(url, path, query), len(path) + len(query or "")
            )
        return _field(_SPAN, b"".join((common, times, group, full)))


def _group(of: Finished, template: str | None) -> bytes:
    """Return what many exchanges have in common: name, kind, status, most attributes."""
    known = of.method in METHODS
    name, port = _host_and_port(of.host, of.scheme)
    error = server_error(of)
    values: dict[str, Value | None] = {
        "http.request.method": of.method if known else OTHER,
        "http.request.method_original": None if known or not of.method else of.method,
        "http.route": template,
        "http.response.status_code": of.status,
        "url.scheme": of.scheme,
        "server.address": name,
        "server.port": port,
        "network.protocol.version": "2" if of.version >= 20 else f"1.{of.version}",
        "error.type": error,
        "gatewright.route": of.route,
        "gatewright.reason": of.reason,
        "gatewright.consumer": of.consumer[:_SHORT] if of.consumer is not None else None,
    }
    method = of.method if known else "HTTP"
    title = f"{method} {template}" if template is not None else method
    return _SERVER + _field(_NAME, title.encode()) + _attributes(values) + _status(error, of.cause)


def _client(client_ip: str, address: str, port: int) -> bytes:
    return _attributes(
        {
            "client.address": client_ip or None,
            "network.peer.address": address or None,
            "network.peer.port": port or None,
        }
    )


def _url(path: str, query: str | None) -> bytes:
    return _attributes({"url.path": path or None, "url.query": redact_query(query) or None})


def _agent(value: bytes) -> bytes:
    return attribute("user_agent.original", value.decode("latin-1"))


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
    return attribute("url.full", url.rstrip("/") + path + (f"?{redact_query(query)}" if query is not None else ""))


def server_error(of: Finished) -> str | None:
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
