"""Pipe: order, backpressure, replay and failure of a body on its way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.core.errors import GatewayError, Reason
from gatewright.core.streams import HIGH_WATER, REPLAY_LIMIT, Pipe


class Source:
    def __init__(self):
        self.paused = False

    def pause(self):
        assert not self.paused
        self.paused = True

    def resume(self):
        assert self.paused
        self.paused = False


class Sink:
    def __init__(self):
        self.congested = False
        self.feeder = None
        self.data = b""
        self.trailers = None
        self.error = None

    def write(self, data):
        assert self.trailers is None
        self.data += data

    def end(self, trailers):
        assert self.trailers is None
        self.trailers = trailers

    def broken(self, error):
        assert self.error is None
        self.error = error


FAILURE = GatewayError(Reason.CLIENT_GONE, "gone")


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def sink():
    return Sink()


@given(st.lists(st.binary(max_size=40)), st.integers(0, 20), st.booleans())
def test_bytes_arrive_in_order_whenever_the_sink_comes(pieces, moment, keep):
    pipe, sink = Pipe(Source(), keep=keep), Sink()
    for number, piece in enumerate(pieces):
        if number == moment:
            pipe.attach(sink)
        pipe.feed(piece)
    pipe.end([])
    if moment >= len(pieces):
        pipe.attach(sink)
    assert (sink.data, sink.trailers, pipe.total) == (b"".join(pieces), [], sum(map(len, pieces)))


def test_without_a_sink_it_holds_little_and_pauses_the_source(source, sink):
    pipe = Pipe(source)
    pipe.feed(b"x" * (HIGH_WATER - 1))
    assert not source.paused
    pipe.feed(b"x")
    assert source.paused
    pipe.attach(sink)
    assert not source.paused
    assert len(sink.data) == HIGH_WATER


def test_a_congested_sink_pauses_the_source_until_it_has_room(source, sink):
    pipe = Pipe(source)
    pipe.attach(sink)
    sink.congested = True
    pipe.feed(b"x")
    assert source.paused
    sink.congested = False
    pipe.release()
    pipe.release()
    assert not source.paused


@pytest.mark.parametrize("attached", [True, False])
def test_a_source_that_has_given_all_is_not_left_paused(source, sink, attached):
    """It has other things to hear: that its peer goes away, or the next message on the same connection."""
    pipe = Pipe(source)
    if attached:
        pipe.attach(sink)
        sink.congested = True
    pipe.feed(b"x" * HIGH_WATER)
    assert source.paused
    pipe.end([])
    assert not source.paused
    pipe.hold()
    assert not source.paused


def test_a_small_body_can_be_sent_again(source):
    pipe = Pipe(source, keep=True)
    first, second = Sink(), Sink()
    pipe.feed(b"a")
    pipe.attach(first)
    pipe.feed(b"b")
    pipe.detach()
    pipe.feed(b"c")
    pipe.attach(second)
    pipe.feed(b"d")
    pipe.end([])
    assert (first.data, first.trailers) == (b"ab", None)
    assert (second.data, second.trailers) == (b"abcd", [])
    assert pipe.replayable


def test_past_the_limit_it_cannot(source, sink):
    pipe = Pipe(source, keep=True)
    pipe.attach(sink)
    pipe.feed(b"x" * REPLAY_LIMIT)
    assert pipe.replayable
    pipe.feed(b"y")
    assert not pipe.replayable
    assert (pipe.size, pipe.chunks) == (0, [])
    assert len(sink.data) == REPLAY_LIMIT + 1


def test_a_failure_is_told_once_and_nothing_comes_behind_it(source, sink):
    told = []
    pipe = Pipe(source)
    pipe.on_event = lambda: told.append(1)
    pipe.attach(sink)
    pipe.fail(FAILURE)
    pipe.fail(FAILURE)
    pipe.feed(b"late")
    pipe.end([])
    assert (sink.error, sink.data, sink.trailers, told) == (FAILURE, b"", None, [1])
    late = Sink()
    pipe.detach()
    pipe.attach(late)
    assert late.error is FAILURE


def test_after_its_end_it_cannot_fail(source, sink):
    pipe = Pipe(source)
    pipe.attach(sink)
    pipe.end([])
    pipe.fail(FAILURE)
    assert (sink.error, pipe.error) == (None, None)


def test_the_limit_counts_all_that_came(source, sink):
    pipe = Pipe(source)
    pipe.limit = 5
    pipe.attach(sink)
    pipe.feed(b"12345")
    assert sink.error is None
    pipe.feed(b"6")
    assert sink.error.reason is Reason.BODY_TOO_LARGE
    assert sink.data == b"12345"


def test_filters_see_every_piece_and_the_end_in_order(source, sink):
    held = []

    def batch(data):  # holds back until the end
        held.append(data)
        return b"" if data else b"".join(held)

    pipe = Pipe(source)
    pipe.feed(b"a")
    pipe.add_filter(bytes.upper)
    pipe.add_filter(batch)
    pipe.add_filter(lambda data: data + b"." if data else b"!")
    pipe.attach(sink)
    pipe.feed(b"b")
    assert sink.data == b""
    pipe.end([])
    assert sink.data == b"AB.!"


def test_a_filter_that_fails_fails_the_body(source, sink):
    def fail(data):
        raise FAILURE

    pipe = Pipe(source)
    pipe.attach(sink)
    pipe.filters.append(fail)
    pipe.feed(b"a")
    assert sink.error is FAILURE


def test_take_gives_what_is_held_and_lets_the_source_go_on(source):
    pipe = Pipe(source)
    pipe.feed(b"x" * HIGH_WATER)
    assert len(pipe.take()) == HIGH_WATER
    assert not source.paused
    assert pipe.take() == b""
