"""Small writes wait for the end of the event loop's turn, and go out together.

A write whose reader sleeps has to wake it: an interrupt for another core, which on virtual machines takes the writer
5 us. In a turn that serves one connection after the other each write finds its reader asleep again; at the end of the
turn the first one wakes it, and the others find it awake. At full load over 64 connections that saves a tenth of the
gateway's CPU time, and a fifth with all features on. Where turns serve one connection each there is nothing to save,
and being called at the end of a turn costs some microseconds: then writes go out at once, and now and then one waits,
to see whether it is still alone.

Connections wrap their transport at the start. All that is done with it keeps its order: whatever is called on it sends
first what waits.
"""

import asyncio
import logging
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

_log = logging.getLogger("gatewright.net")
LONGEST = 16 * 1024  # bytes; longer writes are worth a wake, and would have to be copied
_MOST = 32  # writes that wait; what is saved hardly grows from 16 on
_SECONDS = 0.001  # after which another sends the first along; what a turn does without writing is not looked at
_FEW, _MANY = 8, 256  # writes that go out at once when one has waited alone: as many, and twice as many each time again


class Outbox:
    """The transports of one event loop that have something to send."""

    __slots__ = ("_called", "_count", "_lonely", "_since", "_waiting", "at_once")

    def __init__(self) -> None:
        self._waiting: list[LateTransport] = []
        self._count = 0  # of those that have come in this turn
        self._since = 0.0
        self._called = False  # the loop will call at the end of this turn
        self._lonely = _FEW
        self.at_once = 0  # writes that need not wait

    def add(self, transport: "LateTransport") -> None:
        """Send what `transport` has at the end of this turn, or earlier."""
        waiting = self._waiting
        waiting.append(transport)
        self._count += 1
        if len(waiting) == 1:
            self._since = monotonic()
            if not self._called:
                self._called = True
                asyncio.get_running_loop().call_soon(self._turn_over)
        elif len(waiting) >= _MOST or monotonic() - self._since > _SECONDS:
            self._send()

    def _turn_over(self) -> None:
        self._called = False
        count, self._count = self._count, 0
        if count > 1:
            self._lonely = _FEW
        else:
            self.at_once = self._lonely
            self._lonely = min(2 * self._lonely, _MANY)
        self._send()

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for transport in waiting:
            try:
                transport.settle()
            except Exception:  # a defect: the others have done nothing
                _log.exception("what waited for a connection could not be sent")
                transport.discard()


_outboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Outbox] = WeakKeyDictionary()


def _outbox() -> Outbox:
    loop = asyncio.get_running_loop()
    outbox = _outboxes.get(loop)
    if outbox is None:
        outbox = _outboxes[loop] = Outbox()
    return outbox


class LateTransport:
    """A connection's transport, as asyncio has it, with `write_later`."""

    __slots__ = ("_late", "_outbox", "_transport")

    def __init__(self, transport: Any) -> None:
        """`transport` is an asyncio.Transport. Made on its loop."""
        self._transport = transport
        self._outbox = _outbox()
        self._late = b""

    def write_later(self, data: bytes) -> None:
        """Send `data` at the end of the turn; at once if it is long, something waits already or it would be alone."""
        outbox = self._outbox
        if outbox.at_once:
            outbox.at_once -= 1
            self.write(data)
        elif self._late or len(data) > LONGEST:
            self.write(data)
        else:
            self._late = data
            outbox.add(self)

    def write(self, data: bytes) -> None:
        """Send `data` now."""
        if self._late:
            late, self._late = self._late, b""
            data = late + data
        self._transport.write(data)

    def settle(self) -> None:
        """Send what waits now."""
        if self._late:
            late, self._late = self._late, b""
            if not self._transport.is_closing():
                self._transport.write(late)

    @property
    def waits(self) -> bool:
        """Whether the last write is still to be sent."""
        return bool(self._late)

    def close(self) -> None:
        """Close when all is sent."""
        self.settle()
        self._transport.close()

    def abort(self) -> None:
        """Close at once, with what waits."""
        self.settle()
        self._transport.abort()

    def discard(self) -> None:
        """Close at once, without what waits."""
        self._late = b""
        self._transport.abort()

    def write_eof(self) -> None:
        """Say that no more will be sent."""
        self.settle()
        self._transport.write_eof()

    def can_write_eof(self) -> bool:
        """Tell whether one direction can be closed alone."""
        return bool(self._transport.can_write_eof())

    def get_write_buffer_size(self) -> int:
        """Return how many bytes have not been sent."""
        return int(self._transport.get_write_buffer_size()) + len(self._late)

    def pause_reading(self) -> None:
        """Read no more for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str) -> Any:
        """Return what is known of the connection, or None."""
        return self._transport.get_extra_info(name)
