"""The channel between supervisor and worker: order, descriptors, bounds, and what a broken other side does to it."""

import asyncio
import os
import socket
import struct
from typing import Any

import msgspec
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.supervisor import channel
from gatewright.supervisor.channel import Channel, ChannelError


class Note(msgspec.Struct, tag="note"):
    text: str
    number: int = 0


class Other(msgspec.Struct, tag="other"):
    pass


class Anything(msgspec.Struct, tag="anything"):
    content: Any


NO_TEXT = msgspec.msgpack.encode(Note("abcd")).replace(b"abcd", b"ab\xffd")
DEEP = msgspec.msgpack.encode(Anything(None)).removesuffix(b"\xc0") + b"\x91" * 100_000 + b"\xc0"


class End:
    """One end of a channel that keeps what comes."""

    def __init__(self, sock, types=Note | Anything):
        self.messages = []
        self.sockets = []
        self.error = "not lost"
        self.changed = asyncio.Event()
        self.channel = Channel(sock, types, self.received, self.lost)

    def received(self, message, sockets):
        self.messages.append(message)
        self.sockets += sockets
        self.changed.set()

    def lost(self, error):
        self.error = error
        self.changed.set()

    async def until(self, done):
        async with asyncio.timeout(10):
            while not done():
                self.changed.clear()
                await self.changed.wait()


def run(test):
    async def inner():
        left, right = socket.socketpair()
        async with asyncio.timeout(20):
            await test(left, right)

    uvloop.run(inner())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=30))
def test_messages_arrive_whole_and_in_order(lengths):
    async def test(left, right):
        one, two = End(left), End(right)
        for number, length in enumerate(lengths):
            one.channel.send(Note("x" * length, number))
            two.channel.send(Note("y", number))
        await two.until(lambda: len(two.messages) == len(lengths))
        await one.until(lambda: len(one.messages) == len(lengths))
        assert [(len(note.text), note.number) for note in two.messages] == [
            (length, number) for number, length in enumerate(lengths)
        ]
        one.channel.close()
        await two.until(lambda: two.error is None)

    run(test)


def test_a_large_message_does_not_block_and_is_whole():
    async def test(left, right):
        one, two = End(left), End(right)
        text = "x" * (8 * 1024 * 1024)
        one.channel.send(Note(text, 1))
        one.channel.send(Note("after", 2))
        assert one.channel.congested
        await two.until(lambda: len(two.messages) == 2)
        assert two.messages[0].text == text
        await one.channel.flushed(5)
        assert one.channel.pending == 0
        assert not one.channel.congested
        one.channel.close()
        two.channel.close()

    run(test)


def test_sockets_go_with_the_message_that_they_belong_to():
    async def test(left, right):
        one, two = End(left), End(right)
        servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
        one.channel.send(Note("none"))
        one.channel.send(Note("x" * 2_000_000), servers[:2])
        one.channel.send(Note("three"), servers[2:])
        ports = [server.getsockname()[1] for server in servers]
        for server in servers:  # the channel has its own
            server.close()
        await two.until(lambda: len(two.sockets) == 5)
        assert [sock.getsockname()[1] for sock in two.sockets] == ports
        assert not any(os.get_inheritable(sock.fileno()) for sock in two.sockets)
        for sock, port in zip(two.sockets, ports, strict=True):
            socket.create_connection(("127.0.0.1", port), 5).close()
            sock.close()
        one.channel.close()
        two.channel.close()

    run(test)


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack("!IH", channel.MAX_MESSAGE + 1, 0),
        struct.pack("!IH", 3, 0) + b"\xc1\xc1\xc1",
        struct.pack("!IH", 7, 0) + msgspec.msgpack.encode(Other()),
        struct.pack("!IH", len(msgspec.msgpack.encode(Note("a"))), 2) + msgspec.msgpack.encode(Note("a")),
        struct.pack("!IH", len(NO_TEXT), 0) + NO_TEXT,
        struct.pack("!IH", len(DEEP), 0) + DEEP,
    ],
    ids=["too long", "no msgpack", "another type", "descriptors that did not come", "no UTF-8", "too deep"],
)
def test_what_cannot_be_understood_ends_it(sent):
    async def test(left, right):
        one = End(left)
        right.sendall(sent)
        await one.until(lambda: one.error != "not lost")
        assert isinstance(one.error, Exception)
        assert one.channel.closed
        assert right.recv(1) == b""
        one.channel.send(Note("to nobody"))  # no error: the end was told already
        right.close()

    run(test)


def test_what_comes_behind_a_message_that_cannot_be_handled_is_heard():
    async def test(left, right):
        one, two = End(left), End(right)

        def received(message, sockets):
            two.received(message, sockets)
            raise LookupError(message.number)

        two.channel._received = received
        for number in range(3):
            one.channel.send(Note("a", number))
        await two.until(lambda: len(two.messages) == 3)
        one.channel.close()
        two.channel.close()

    run(test)


def test_a_message_that_is_broken_off_is_no_message():
    async def test(left, right):
        one = End(left)
        body = msgspec.msgpack.encode(Note("abc"))
        right.sendall(struct.pack("!IH", len(body), 0) + body[:-1])
        right.close()
        await one.until(lambda: one.error is None)
        assert one.messages == []

    run(test)


@pytest.mark.parametrize(("length", "messages"), [(100_000, 40), (0, 5000)])
def test_one_that_does_not_read_is_given_up_before_memory_is(monkeypatch, length, messages):
    monkeypatch.setattr(channel, "MAX_PENDING", 1_000_000)

    async def test(left, right):
        one = End(left)
        for _ in range(messages):
            one.channel.send(Note("x" * length))
            if one.channel.closed:
                break
        assert isinstance(one.error, ChannelError)
        assert one.channel.pending == 0
        right.close()

    run(test)


def test_what_may_be_refused_leaves_room_for_what_may_not(monkeypatch):
    monkeypatch.setattr(channel, "MAX_PENDING", 3_000_000)
    monkeypatch.setattr(channel, "MAX_MESSAGE", 1_500_000)

    async def test(left, right):
        one, two = End(left), End(right)
        one.channel.offer(Note("x" * 1_400_000))  # where nothing waits, any message has room
        with pytest.raises(ValueError, match="has no room"):
            one.channel.offer(Note("x" * 700_000))
        one.channel.send(Note("x" * 1_000_000))
        await two.until(lambda: len(two.messages) == 2)
        one.channel.offer(Note("x" * 700_000))
        await two.until(lambda: len(two.messages) == 3)
        one.channel.close()
        one.channel.offer(Note("to nobody"))
        two.channel.close()

    run(test)
