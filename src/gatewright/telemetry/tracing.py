"""Which trace an exchange is part of, whether it is recorded, and what is noted of it on the way.

All of it is on the hot path, so it only notes numbers and references. Spans are made of that at the end (`otlp`,
`span_exporter`): a span of OpenTelemetry's SDK costs 20 us where it is made and 37 more to encode, two an exchange. The
proxy calls `begin` and tells the trace of attempts; the recorder calls `record` at the end.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, TypeVar

from gatewright.core.errors import GatewayError
from gatewright.core.exchange import Exchange
from gatewright.core.headers import REQUEST_ID, TRACE
from gatewright.core.peer import Peer
from gatewright.core.trace import AttemptTarget
from gatewright.telemetry.trace_context import Parent, Write, make_writer, read_parent

T = TypeVar("T")

_SPACE = 1 << 56  # what the right 14 digits of a trace ID can be
_DIGITS = 18  # where they begin
_SPAN_DIGITS = 16
_BATCH = 512
_span_ids: list[str] = []


def _new_span_id() -> str:
    """Return 16 random hex digits; made in batches, as request IDs are."""
    if not _span_ids:
        _span_ids.extend(re.findall(".{16}", os.urandom(8 * _BATCH).hex()))
    return _span_ids.pop()


class Parents(Enum):
    """Whose word on the trace counts."""

    ALL = "all"
    TRUSTED = "trusted"  # that of trusted proxies
    NONE = "none"


class Trace:
    """The place of an exchange that is not recorded: its context is passed on, and nothing else noted."""

    __slots__ = ("_flags", "_state", "_write", "span_id", "trace_id")
    recording = False

    def __init__(self, write: Write, trace_id: str, span_id: str, flags: str, state: str) -> None:
        self._write = write
        self.trace_id = trace_id
        self.span_id = span_id
        self._flags = flags
        self._state = state

    def fields(self) -> str:
        """See `core.trace.Trace`."""
        return self._write(self.trace_id, self.span_id, self._flags, self._state)

    def onward(self) -> "Trace":
        """See `core.trace.Trace`."""
        return Trace(self._write, self.trace_id, self.span_id, self._flags, self._state)

    def begin_attempt(self, target: AttemptTarget, now: float) -> None:
        """Not recorded."""

    def answered(self, now: float, status: int, complete: bool) -> None:
        """Not recorded."""

    def failed(self, now: float, error: GatewayError) -> None:
        """Not recorded."""

    def timed(self, hooks: Sequence[T], phase: str) -> Iterator[T]:
        """Not recorded."""
        return iter(hooks)


class AttemptNote:
    """What is known of one attempt. `ended` None: with the exchange."""

    __slots__ = ("cause", "ended", "error", "span_id", "started", "status", "target")

    def __init__(self, span_id: str, target: AttemptTarget, started: float) -> None:
        self.span_id = span_id
        self.target = target
        self.started = started
        self.ended: float | None = None
        self.status: int | None = None
        self.error = ""  # the reason for which there is no answer
        self.cause = ""


# Plugins' time in a phase: its name; its hooks, methods or what holds one as `hook` and its plugin as `plugin`; when
# the first began, and when each that was called ended.
PhaseNote = tuple[str, Sequence[Any], list[float]]


class RecordedTrace(Trace):
    """The place of an exchange that is recorded."""

    __slots__ = ("_now", "attempts", "parent_id", "phases")
    recording = True

    def __init__(
        self,
        write: Write,
        trace_id: str,
        span_id: str,
        flags: str,
        state: str,
        parent_id: str,
        now: Callable[[], float],
    ) -> None:
        # Not by super(): that is 0.1 us, on every exchange that is recorded.
        self._write = write
        self.trace_id = trace_id
        self.span_id = span_id
        self._flags = flags
        self._state = state
        self.parent_id = parent_id  # "": this is where the trace begins
        self._now = now
        self.attempts: list[AttemptNote] = []
        self.phases: list[PhaseNote] = []

    @property
    def flags(self) -> str:
        """The trace's flags, two hex digits."""
        return self._flags

    @property
    def state(self) -> str:
        """The tracestate that came with the request."""
        return self._state

    def fields(self) -> str:
        """See `core.trace.Trace`."""
        parent = self.attempts[-1].span_id if self.attempts else self.span_id
        return self._write(self.trace_id, parent, self._flags, self._state)

    def begin_attempt(self, target: AttemptTarget, now: float) -> None:
        """See `core.trace.Trace`."""
        if self.attempts and self.attempts[-1].ended is None:
            self.attempts[-1].ended = now  # its answer was a stream, and is given up
        self.attempts.append(AttemptNote(_new_span_id(), target, now))

    def answered(self, now: float, status: int, complete: bool) -> None:
        """See `core.trace.Trace`."""
        attempt = self.attempts[-1]
        attempt.status = status
        if complete:
            attempt.ended = now

    def failed(self, now: float, error: GatewayError) -> None:
        """See `core.trace.Trace`."""
        attempt = self.attempts[-1]
        if attempt.ended is None:
            attempt.ended, attempt.error, attempt.cause = now, error.reason, error.cause

    def timed(self, hooks: Sequence[T], phase: str) -> Iterator[T]:
        """See `core.trace.Trace`. A hook that ends the phase, by an answer or an error, is noted too."""
        now = self._now
        times = [now()]
        self.phases.append((phase, hooks, times))
        try:
            for hook in hooks:
                yield hook
                times.append(now())
        except GeneratorExit:
            times.append(now())
            raise


class Tracer:
    """Begins traces, and hands over those that are recorded when they end."""

    def __init__(
        self,
        put: Callable[[Exchange, RecordedTrace, float], None],
        now: Callable[[], float],
        sample: float = 1.0,
        propagate: Sequence[str] = ("tracecontext",),
        parents: Parents = Parents.ALL,
    ) -> None:
        """`put` takes an exchange that is over, its trace and when it ended, and never waits; `now` gives seconds;
        `sample` is the share, 0 to 1, of the traces that begin here which is recorded.
        """
        self._put = put
        self._now = now
        self._write = make_writer(propagate)
        self._parents = parents
        # The decision hangs on the trace ID alone, so that gateways with the same share agree (OpenTelemetry's
        # consistent sampling: the right 56 bits against a threshold). Texts of one length compare as their numbers do.
        threshold = round((1.0 - sample) * _SPACE)
        self._threshold = f"{threshold:014x}" if threshold < _SPACE else "g"  # "g": more than any

    def begin(self, exchange: Exchange) -> Trace:
        """Return the place of an exchange whose head has come."""
        marks = exchange.request.headers.marks
        parent: Parent | None = None
        if marks & TRACE and self._listens_to(exchange.peer):
            parent = read_parent(exchange.request.headers)
        if parent is not None:
            return self._continue(exchange, parent)
        trace_id = exchange.id if not marks & REQUEST_ID else _trace_id(exchange)
        span_id = trace_id[:_SPAN_DIGITS]  # as random as another, and 0.1 us cheaper: nobody else begins in this trace
        if trace_id[_DIGITS:] >= self._threshold:
            return RecordedTrace(self._write, trace_id, span_id, "01", "", "", self._now)
        return Trace(self._write, trace_id, span_id, "00", "")

    def _listens_to(self, peer: Peer) -> bool:
        return self._parents is Parents.ALL or (self._parents is Parents.TRUSTED and peer.trusted)

    def _continue(self, exchange: Exchange, parent: Parent) -> Trace:
        trace_id = parent.trace_id or _trace_id(exchange)
        sampled = parent.sampled
        if sampled is None:
            sampled = trace_id[_DIGITS:] >= self._threshold
        flags = f"{sampled | parent.random << 1:02x}"
        if sampled:
            args = (trace_id, _new_span_id(), flags, parent.state, parent.span_id)
            return RecordedTrace(self._write, *args, self._now)
        return Trace(self._write, trace_id, _new_span_id(), flags, parent.state)

    def record(self, exchange: Exchange, seconds: float) -> None:
        """Hand over an exchange that lasted `seconds`, if it is recorded."""
        trace = exchange.trace
        if trace is None or not trace.recording:
            return
        assert isinstance(trace, RecordedTrace)
        self._put(exchange, trace, exchange.started + seconds)


def _trace_id(exchange: Exchange) -> str:
    """Return a new trace ID: the request's ID, unless a trusted proxy has brought one that may have any form."""
    if exchange.request.headers.marks & REQUEST_ID and exchange.peer.trusted:
        return os.urandom(16).hex()
    return exchange.id
