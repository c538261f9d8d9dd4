"""What both ends of the gateway have in common: a transport with backpressure in both directions, and raw tunnels.

A subclass is the Sink of the body that flows to its peer and the Source of the one that comes from it.
"""

import asyncio
from collections.abc import Callable

from gatewright.core.streams import Pipe
from gatewright.net.late import LateTransport
from gatewright.net.timers import NEVER


class Endpoint(asyncio.Protocol):
    """One connection: pausing, congestion, and what a tunnel needs."""

    __slots__ = (
        "_closed",
        "_eof",
        "_other",
        "_reading",
        "_tunnel_done",
        "congested",
        "deadline",
        "feeder",
        "filed",
        "transport",
        "tunnelled",
    )

    transport: LateTransport

    def __init__(self) -> None:
        self.congested = False
        self.feeder: Pipe | None = None
        self.deadline = NEVER
        self.filed = NEVER
        self._reading = True
        self._closed = False
        self._other: Endpoint | None = None  # the far end of a tunnel
        self._eof = False  # in a tunnel: the peer sends no more
        self._tunnel_done: Callable[[], None] | None = None
        self.tunnelled = 0  # bytes that came from this side

    def pause(self) -> None:
        """Stop reading from the peer."""
        if self._reading and not self._closed:
            self._reading = False
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read from the peer again."""
        if not self._reading and not self._closed:
            self._reading = True
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        """The transport's buffer is full: whoever feeds this side must wait."""
        self.congested = True
        if self.feeder is not None:
            self.feeder.hold()
        elif self._other is not None:
            self._other.pause()
        self.congestion_changed()

    def resume_writing(self) -> None:
        """The transport's buffer has room again."""
        self.congested = False
        if self.feeder is not None:
            self.feeder.release()
        elif self._other is not None:
            self._other.resume()
        self.congestion_changed()

    def congestion_changed(self) -> None:
        """Set or lift the deadline for a peer that does not read."""

    def join(self, other: "Endpoint", done: Callable[[], None]) -> None:
        """Carry bytes between this side and `other` until either ends; `done` is called once, then."""
        self._other, other._other = other, self
        self._tunnel_done = done
        if other._closed:
            other.tunnel_lost()
            return
        for side, far in ((self, other), (other, self)):
            if early := side.take_early():
                side.carry(early)
            if far.congested:
                side.pause()
            else:
                side.resume()

    def take_early(self) -> bytes:
        """Return what the peer has sent for the tunnel before it stood, once."""
        return b""

    def carry(self, data: bytes) -> None:
        """Pass bytes of this side's peer to the other side."""
        self.tunnelled += len(data)
        if self._other is not None and not self._other._closed:
            self._other.transport.write(data)

    def tunnel_eof(self) -> None:
        """This side's peer will send no more: tell the other side's peer, and keep carrying its bytes."""
        other = self._other
        self._eof = True
        if other is None or other._closed:
            return
        if other._eof:  # neither side will send any more
            self.transport.close()
            other.transport.close()
        elif other.transport.can_write_eof():
            other.transport.write_eof()
        else:
            other.transport.close()

    def tunnel_lost(self) -> None:
        """This side is gone: end the other as well."""
        other, self._other = self._other, None
        if other is not None:
            other._other = None
            if not other._closed:
                other.transport.close()
            done = self._tunnel_done or other._tunnel_done
            self._tunnel_done = other._tunnel_done = None
            if done is not None:
                done()
