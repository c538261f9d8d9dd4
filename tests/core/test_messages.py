"""Watching a body as it passes: every piece is seen once, nothing is changed, and a watcher that fails hurts nobody."""

import pytest

from gatewright.core.messages import Response
from gatewright.core.streams import Pipe


class Source:
    def pause(self):
        pass

    def resume(self):
        pass


class Sink:
    congested = False
    feeder = None

    def __init__(self):
        self.data = b""
        self.ended = False

    def write(self, data):
        self.data += data

    def end(self, trailers):
        self.ended = True


@pytest.mark.parametrize(("body", "seen"), [(b"abc", [b"abc", b""]), (b"", [b""])])
def test_a_body_that_is_here(body, seen):
    found = []
    response = Response(200, body=body)
    response.watch(found.append)
    assert (found, response.content) == (seen, body)


@pytest.mark.parametrize("fails", [None, ValueError, SystemExit])
def test_a_body_on_its_way(fails, caplog):
    found, sink = [], Sink()

    def see(data):
        found.append(data)
        if fails:
            raise fails("I cannot see")

    response = Response(200)
    pipe = response.content = Pipe(Source())
    pipe.feed(b"a")
    response.watch(see)
    pipe.attach(sink)
    pipe.feed(b"b")
    pipe.end([])
    assert (sink.data, sink.ended, pipe.reshaped) == (b"ab", True, False)
    assert found == ([b"a"] if fails else [b"a", b"b", b""])
    assert caplog.text.count("a body's watcher failed") == bool(fails)


def test_a_filter_says_whether_it_keeps_the_length():
    pipe = Pipe(Source())
    pipe.add_filter(bytes.upper, keeps_length=True)
    assert not pipe.reshaped
    pipe.add_filter(lambda data: data * 2)
    pipe.add_filter(bytes.lower, keeps_length=True)
    assert pipe.reshaped
