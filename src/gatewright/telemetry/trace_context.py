"""Trace contexts on the wire: W3C Trace Context, B3 (one field or several) and Jaeger's uber-trace-id.

It reads what a client sends, all of it hostile until it fits its grammar, and writes what a target is told. It knows
header fields and nothing of exchanges or spans. `tracing` calls it; docs/tracing.md says what wins over what.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from gatewright.core.headers import TRACE, Headers

MAX_STATE = 512  # characters of tracestate that are kept (W3C Trace Context section 3.3.1.5)
_MAX_MEMBERS = 32
_LONG_MEMBER = 128

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_KEY = r"(?:[a-z0-9][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_MEMBER = re.compile(_KEY + r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]", re.ASCII)
_B3 = re.compile(r"([0-9a-f]{32}|[0-9a-f]{16})-([0-9a-f]{16})(?:-([01d])(?:-[0-9a-f]{16})?)?", re.ASCII)
_B3_TRACE = re.compile(r"[0-9a-f]{32}|[0-9a-f]{16}", re.ASCII)
_B3_SPAN = re.compile(r"[0-9a-f]{16}", re.ASCII)
_B3_SAMPLED = {"1": True, "true": True, "d": True, "0": False, "false": False}
_JAEGER = re.compile(r"([0-9a-f]{1,32}):([0-9a-f]{1,16}):[0-9a-f]{1,16}:([0-9a-f]{1,2})", re.ASCII)
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


class Parent(NamedTuple):
    """What came with a request. Without a trace only the decision came (B3 allows that); `sampled` None leaves it open.

    `random`: the trace ID's right half is known to be random (W3C Trace Context level 2). `state` is a tracestate.
    """

    trace_id: str
    span_id: str
    sampled: bool | None
    random: bool = False
    state: str = ""


def read_parent(headers: Headers) -> Parent | None:
    """Return the context that a request came with; of several the first of W3C, b3, X-B3-* and Jaeger that is sound."""
    values: dict[bytes, str] = {}
    states: list[str] = []
    for name, value, _, mark in headers.fields:
        if mark & TRACE:
            text = value.decode("latin-1")
            if name == b"tracestate":
                states.append(text)
            else:
                values[name] = "" if name in values else text  # one that comes twice says nothing
    if (parent := _traceparent(values.get(b"traceparent", ""))) is not None:
        return parent._replace(state=read_state(states)) if states else parent
    return _b3(values.get(b"b3", "").lower()) or _b3_fields(values) or _jaeger(values.get(b"uber-trace-id", ""))


def _context(trace_id: str, span_id: str, sampled: bool | None, random: bool = False) -> Parent | None:
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return Parent(trace_id, span_id, sampled, random)


def _traceparent(value: str) -> Parent | None:
    """Read a traceparent. A later version's is read as far as ours goes (section 4.3); "ff" is none."""
    match = _PARENT.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    bits = int(flags, 16)
    return _context(trace_id, span_id, bool(bits & 1), bool(bits & 2))


def read_state(values: Sequence[str]) -> str:
    """Return the tracestate that these field values make together: "" where it breaks the grammar, at most MAX_STATE.

    What is too long loses its long members first, then the oldest (section 3.3.1.5).
    """
    members = [member for value in values for part in value.split(",") if (member := part.strip(" \t"))]
    if len(members) > _MAX_MEMBERS or not all(map(_MEMBER.fullmatch, members)):
        return ""
    if len({member.partition("=")[0] for member in members}) < len(members):
        return ""
    if len(state := ",".join(members)) <= MAX_STATE:
        return state
    members = [member for member in members if len(member) <= _LONG_MEMBER]
    while len(state := ",".join(members)) > MAX_STATE:
        members.pop()
    return state


def _b3(value: str) -> Parent | None:
    if value in ("0", "1", "d"):
        return Parent("", "", _B3_SAMPLED[value])
    match = _B3.fullmatch(value)
    if match is None:
        return None
    trace_id, span_id, sampled = match.groups()
    return _context(trace_id.zfill(32), span_id, _B3_SAMPLED.get(sampled))


def _b3_fields(values: dict[bytes, str]) -> Parent | None:
    sampled = _B3_SAMPLED.get(values.get(b"x-b3-sampled", "").lower())
    if values.get(b"x-b3-flags") == "1":
        sampled = True
    trace_id, span_id = values.get(b"x-b3-traceid", "").lower(), values.get(b"x-b3-spanid", "").lower()
    if _B3_TRACE.fullmatch(trace_id) and _B3_SPAN.fullmatch(span_id):
        return _context(trace_id.zfill(32), span_id, sampled)
    return Parent("", "", sampled) if sampled is not None and not trace_id else None


def _jaeger(value: str) -> Parent | None:
    """Read Jaeger's `trace:span:parent:flags`: leading zeros may be missing, colons may be percent-encoded."""
    match = _JAEGER.fullmatch(unquote(value).lower())
    if match is None:
        return None
    trace_id, span_id, flags = match.groups()
    return _context(trace_id.zfill(32), span_id.zfill(16), bool(int(flags, 16) & 3))


# What a target is told: (trace ID, span ID, flags, tracestate) -> field lines

Write = Callable[[str, str, str, str], str]


def _write_w3c(trace_id: str, span_id: str, flags: str, state: str) -> str:
    if state:
        return f"traceparent: 00-{trace_id}-{span_id}-{flags}\r\ntracestate: {state}\r\n"
    return f"traceparent: 00-{trace_id}-{span_id}-{flags}\r\n"


def _write_b3(trace_id: str, span_id: str, flags: str, state: str) -> str:
    return f"b3: {trace_id}-{span_id}-{int(flags, 16) & 1}\r\n"


def _write_b3_fields(trace_id: str, span_id: str, flags: str, state: str) -> str:
    sampled = int(flags, 16) & 1
    return f"X-B3-TraceId: {trace_id}\r\nX-B3-SpanId: {span_id}\r\nX-B3-Sampled: {sampled}\r\n"


def _write_jaeger(trace_id: str, span_id: str, flags: str, state: str) -> str:
    return f"uber-trace-id: {trace_id}:{span_id}:0:{int(flags, 16) & 1}\r\n"


# By the names that OTEL_PROPAGATORS uses.
WRITERS: dict[str, Write] = {
    "tracecontext": _write_w3c,
    "b3": _write_b3,
    "b3multi": _write_b3_fields,
    "jaeger": _write_jaeger,
}


def make_writer(names: Sequence[str]) -> Write:
    """Return what writes a context in all of the formats `names`."""
    writers = [WRITERS[name] for name in names]
    if len(writers) == 1:
        return writers[0]
    return lambda *context: "".join([write(*context) for write in writers])
