"""The connection between the supervisor and one worker: messages and file descriptors over a Unix socket.

Never blocks: what the other side does not take yet waits here, up to a bound, past which the connection is broken.
Messages arrive in the order in which they were sent. Knows no message's meaning.
"""

import array
import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

_log = logging.getLogger("gatewright.supervisor")
M = TypeVar("M")
Bound = TypeVar("Bound")

_HEAD = struct.Struct("!IH")  # length of the body, number of descriptors
_CHUNK = 256 * 1024
_MAX_FDS = 250  # SCM_MAX_FD is 253
MAX_MESSAGE = 64 * 1024 * 1024
MAX_PENDING = 128 * 1024 * 1024
_EACH = 512  # bytes that a waiting message takes beside its own
CONGESTED = 1024 * 1024


class ChannelError(Exception):
    """The other side sent what cannot be understood, or does not take what it is sent."""


class Channel(Generic[M]):
    """One end. `received(message, sockets)` is called for each message, `lost(error or None)` once at the end."""

    def __init__(
        self,
        sock: socket.socket,
        types: Any,
        received: Callable[[M, list[socket.socket]], None],
        lost: Callable[[Exception | None], None],
    ) -> None:
        """`types` is the union of the messages that may come. Takes `sock` over; call in a running loop."""
        sock.setblocking(False)
        self._sock = sock
        self._decode = msgspec.msgpack.Decoder(types).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._received = received
        self._lost = lost
        self._buffer = bytearray()
        self._fds: deque[int] = deque()
        self._out: deque[tuple[memoryview, list[socket.socket]]] = deque()
        self.pending = 0  # bytes that wait to be sent, and what it takes to keep them
        self.closed = False
        self._flushed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._read)

    @property
    def congested(self) -> bool:
        """Tell whether the other side is behind: what can wait, or be left out, should be."""
        return self.pending > CONGESTED

    # Sending

    def send(self, message: Any, sockets: Sequence[socket.socket] = ()) -> None:
        """Send a message; the `sockets` that go with it are duplicated and stay the caller's.

        Raises TypeError and ValueError for one that cannot be encoded, or is too large.
        """
        if not self.closed:
            self._put(self._encoded(message), sockets)

    def offer(self, message: Any) -> None:
        """Send a message that may as well be refused: it leaves room for any that may not.

        Raises what `send` does, and ValueError when too much waits.
        """
        if self.closed:
            return
        body = self._encoded(message)
        if self.pending and self.pending + len(body) > MAX_PENDING - MAX_MESSAGE:
            raise ValueError(f"{self.pending} bytes wait to be sent, a message of {len(body)} more has no room")
        self._put(body, ())

    def _encoded(self, message: Any) -> bytes:
        body = self._encode(message)
        if len(body) > MAX_MESSAGE:
            raise ValueError(f"a message of {len(body)} bytes is too large for the channel")
        return body

    def _put(self, body: bytes, sockets: Sequence[socket.socket]) -> None:
        waiting = bool(self._out)
        view, rest = memoryview(_HEAD.pack(len(body), len(sockets)) + body), [sock.dup() for sock in sockets]
        while len(rest) > _MAX_FDS:  # more than one call of the system takes: some with each byte of the head
            self._append(view[:1], rest[:_MAX_FDS])
            view, rest = view[1:], rest[_MAX_FDS:]
        self._append(view, rest)
        if self.pending > MAX_PENDING:
            self._end(ChannelError("the other side does not read"))
        elif not waiting:
            self._write()
            if self._out and not self.closed:
                self._loop.add_writer(self._sock.fileno(), self._write)

    def _append(self, data: memoryview, sockets: list[socket.socket]) -> None:
        self._out.append((data, sockets))
        self.pending += len(data) + _EACH

    def _write(self) -> None:
        try:
            while self._out:
                data, sockets = self._out[0]
                if sockets:  # descriptors travel with the first byte
                    fds = array.array("i", [sock.fileno() for sock in sockets])
                    count = self._sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
                    for sock in sockets:
                        sock.close()
                    sockets.clear()
                else:
                    count = self._sock.send(data)
                self.pending -= count
                if count < len(data):
                    self._out[0] = (data[count:], sockets)
                else:
                    self._out.popleft()
                    self.pending -= _EACH
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        self._loop.remove_writer(self._sock.fileno())
        self._flushed.set()

    async def flushed(self, seconds: float) -> None:
        """Return when all is sent, after `seconds` at the latest."""
        self._flushed = asyncio.Event()
        if self._out and not self.closed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._flushed.wait(), seconds)

    # Receiving

    def _read(self) -> None:
        try:
            data, ancillary, _flags, _address = self._sock.recvmsg(_CHUNK, socket.CMSG_SPACE(_MAX_FDS * 4))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                for fd in fds:
                    os.set_inheritable(fd, False)
                self._fds.extend(fds)
        if not data:
            self._end(None)
            return
        self._buffer += data
        while not self.closed:
            try:
                taken = self._take()
            except (ChannelError, ValueError, RecursionError, OSError) as error:  # ValueError: also of what is no UTF-8
                self._end(error)
                return
            if taken is None:
                return
            try:
                self._received(*taken)
            except Exception:  # a defect; what came behind this message must be heard all the same
                _log.exception("a message could not be handled")

    def _take(self) -> tuple[M, list[socket.socket]] | None:
        """Return the next message and its sockets, if it is complete."""
        if len(self._buffer) < _HEAD.size:
            return None
        length, count = _HEAD.unpack_from(self._buffer)
        if length > MAX_MESSAGE:
            raise ChannelError(f"a message of {length} bytes is announced")
        end = _HEAD.size + length
        if len(self._buffer) < end:
            return None
        message = self._decode(bytes(self._buffer[_HEAD.size : end]))
        del self._buffer[:end]
        if count > len(self._fds):
            raise ChannelError("file descriptors were lost on the way")
        return message, [socket.socket(fileno=self._fds.popleft()) for _ in range(count)]

    # The end

    def close(self) -> None:
        """End the connection; `lost` is not called."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for fd in self._fds:
            os.close(fd)
        for _, sockets in self._out:
            for sock in sockets:
                sock.close()
        self._fds.clear()
        self._out.clear()
        self.pending = 0
        self._flushed.set()

    def _end(self, error: Exception | None) -> None:
        if not self.closed:
            self.close()
            self._lost(error)
