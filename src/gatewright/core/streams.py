"""Bodies on their way: a Pipe between whoever reads a body and whoever writes it, with backpressure and no copy.

A Pipe exists only for bodies that were not complete when their head was handled. It holds what arrives before a sink is
there (at most HIGH_WATER bytes, then the source is paused) and, while it is small enough, what a second attempt needs.
It knows no sockets: `net` and in-process applications implement Source and Sink.
"""

from collections.abc import Callable
from typing import Protocol

from gatewright.core.errors import GatewayError, Reason, RequestError
from gatewright.core.headers import Field

HIGH_WATER = 64 * 1024
REPLAY_LIMIT = 64 * 1024

Filter = Callable[[bytes], bytes]


class Source(Protocol):
    """Where a body comes from."""

    def pause(self) -> None:
        """Stop reading until `resume`."""

    def resume(self) -> None:
        """Go on reading."""


class Sink(Protocol):
    """Where a body goes to."""

    congested: bool
    feeder: "Pipe | None"

    def write(self, data: bytes) -> None:
        """Take body bytes; look at `congested` afterwards."""

    def end(self, trailers: list[Field]) -> None:
        """The body is complete."""

    def broken(self, error: GatewayError) -> None:
        """The body will never be complete; what was written must not look as if it were."""


class Pipe:
    """One body in one direction."""

    __slots__ = (
        "_keep",
        "_paused",
        "_source",
        "chunks",
        "ended",
        "error",
        "filters",
        "limit",
        "on_event",
        "reshaped",
        "sink",
        "size",
        "total",
        "trailers",
    )

    def __init__(self, source: Source, *, keep: bool = False) -> None:
        """`keep`: remember up to REPLAY_LIMIT bytes so that the body can be sent again."""
        self._source = source
        self._keep = keep
        self._paused = False
        self.chunks: list[bytes] = []
        self.size = 0  # bytes in `chunks`
        self.total = 0  # bytes that came out of the source
        self.limit = 0  # bytes that may come; 0: any number
        self.filters: list[Filter] = []
        self.reshaped = False  # a filter may change the length
        self.sink: Sink | None = None
        self.ended = False
        self.trailers: list[Field] = []
        self.error: GatewayError | None = None
        self.on_event: Callable[[], None] | None = None  # called once, at the end or the failure of the body

    @property
    def replayable(self) -> bool:
        """Tell whether everything that came so far can be sent to another sink."""
        return self._keep

    def feed(self, data: bytes) -> None:
        """Take bytes from the source. Fails the pipe with `body_too_large` past the limit."""
        if self.error is not None:
            return
        self.total += len(data)
        if self.limit and self.total > self.limit:
            self.fail(RequestError(Reason.BODY_TOO_LARGE, f"The body may have {self.limit} bytes"))
            return
        try:
            for change in self.filters:
                if not data:
                    return  # held back by the filter before; b"" would mean the end to this one
                data = change(data)
        except GatewayError as error:
            self.fail(error)
            return
        if data:
            self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        sink = self.sink
        if self._keep and self.size + len(data) > REPLAY_LIMIT:
            self._keep = False
            if sink is not None:
                self.chunks.clear()
                self.size = 0
        if self._keep or sink is None:
            self.chunks.append(data)
            self.size += len(data)
        if sink is not None:
            sink.write(data)
            if sink.congested:
                self.hold()
        elif self.size >= HIGH_WATER:
            self.hold()

    def end(self, trailers: list[Field]) -> None:
        """The source has given everything."""
        if self.error is not None or self.ended:
            return
        if self.filters and not self._flush_filters():
            return
        self.ended = True
        self.trailers = trailers
        if self._paused:  # the last piece was one too many; a source that has given all must still hear of its peer
            self._paused = False
            self._source.resume()
        if self.sink is not None:
            self.sink.end(trailers)
        self._tell()

    def _flush_filters(self) -> bool:
        """Let each filter give what it holds back, through those behind it."""
        try:
            for index, change in enumerate(self.filters):
                rest = change(b"")
                for later in self.filters[index + 1 :]:
                    rest = later(rest) if rest else rest
                if rest:
                    self._pass_on(rest)
        except GatewayError as error:
            self.fail(error)
            return False
        return True

    def add_filter(self, change: Filter, keeps_length: bool = False) -> None:
        """Pass every piece through `change`, also those that are held; it is called with b"" at the end.

        Only before a sink is attached. A GatewayError that it raises fails the pipe. Unless it `keeps_length`, what was
        announced as the body's length is no more true.
        """
        self.reshaped = self.reshaped or not keeps_length
        held = [piece for chunk in self.chunks if (piece := change(chunk))]
        if self.ended and (rest := change(b"")):
            held.append(rest)
        self.chunks = held
        self.size = sum(map(len, held))
        self.filters.append(change)

    def fail(self, error: GatewayError) -> None:
        """The source will not give the rest. The sink is told, once."""
        if self.error is not None or self.ended:
            return
        self.error = error
        if self.sink is not None:
            self.sink.broken(error)
        self._tell()

    def _tell(self) -> None:
        if self.on_event is not None:
            callback, self.on_event = self.on_event, None
            callback()

    def attach(self, sink: Sink) -> None:
        """Send what is held, and all that comes from now on, to `sink`."""
        self.sink = sink
        sink.feeder = self
        for chunk in self.chunks:
            sink.write(chunk)
        if not self._keep:
            self.chunks.clear()
            self.size = 0
        if self.error is not None:
            sink.broken(self.error)
        elif self.ended:
            sink.end(self.trailers)
        elif sink.congested:
            self.hold()
        else:
            self.release()

    def detach(self) -> None:
        """Forget the sink; what comes is held again."""
        if self.sink is not None:
            self.sink.feeder = None
            self.sink = None

    def hold(self) -> None:
        """Pause the source. Called when the sink is congested."""
        if not self._paused and not self.ended:
            self._paused = True
            self._source.pause()

    def release(self) -> None:
        """Let the source go on. Called when the sink has room again."""
        if self._paused:
            self._paused = False
            if not self.ended and self.error is None:
                self._source.resume()

    def take(self) -> bytes:
        """Return what is held, as one, and forget it."""
        data = b"".join(self.chunks)
        self.chunks.clear()
        self.size = 0
        self.release()
        return data
