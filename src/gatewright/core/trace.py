"""What the proxy and plugins see of a distributed trace: its IDs, and what a recorded one is told.

Only shapes: `telemetry.tracing` makes what has them, the proxy tells it of attempts and of plugins' time.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from gatewright.core.errors import GatewayError

T = TypeVar("T")


class AttemptTarget(Protocol):
    """What a trace tells of the target of an attempt."""

    host: str
    port: int
    url: str


class Trace(Protocol):
    """The gateway's place in a distributed trace (`telemetry.tracing`). IDs are in lower-case hex digits.

    Only a trace that is `recording` needs to be told of attempts and of plugins' time.
    """

    trace_id: str
    span_id: str
    recording: bool

    def fields(self) -> str:
        """Return the field lines that tell a target which trace and span its own work belongs to."""

    def onward(self) -> "Trace":
        """Return the same place for a request that the gateway makes on the exchange's behalf; it is not recorded."""

    def begin_attempt(self, target: AttemptTarget, now: float) -> None:
        """An attempt begins."""

    def answered(self, now: float, status: int, complete: bool) -> None:
        """The present attempt got an answer's head, and all of the answer if `complete`."""

    def failed(self, now: float, error: GatewayError) -> None:
        """The present attempt got no answer."""

    def timed(self, hooks: Sequence[T], phase: str) -> Iterator[T]:
        """Yield the plugins' hooks of a phase one by one; the time until the next is asked for is a hook's own."""
