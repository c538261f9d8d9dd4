"""Small writes that wait for the end of a turn: their order, what does not wait, and what happens to what waits."""

import asyncio
from types import SimpleNamespace

import pytest

from gatewright.core.clock import SystemClock
from gatewright.core.errors import Retry
from gatewright.core.limits import Limits
from gatewright.core.messages import Response
from gatewright.net import late
from gatewright.net.downstream import ClientConnection
from gatewright.net.late import LONGEST, LateTransport
from gatewright.net.timers import Timers
from gatewright.net.upstream import TargetConnection


async def turn_over():
    """Wait until what the present turn has left for its end is done."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_soon(over.set)
    await over.wait()


class Wire:
    """An asyncio transport that notes what is done with it."""

    def __init__(self, said, name=""):
        self.said = said
        self.name = name
        self.closing = False

    def write(self, data):
        self.said.append(self.name + data.decode())

    def _end(self, how):
        self.closing = True
        self.said.append(self.name + how)

    def close(self):
        self._end("closed")

    def abort(self):
        self._end("aborted")

    def write_eof(self):
        self.said.append("eof")

    def can_write_eof(self):
        return True

    def is_closing(self):
        return self.closing

    def get_write_buffer_size(self):
        return 0


class Broken(Wire):
    def write(self, data):
        raise RuntimeError("no")


class Time:
    now = 5.0


@pytest.fixture(autouse=True)
def time(monkeypatch):
    """The time by which what waits is sent along, moved by hand."""
    moved = Time()
    monkeypatch.setattr(late, "monotonic", lambda: moved.now)
    return moved


@pytest.fixture
def said():
    return []


@pytest.fixture
def turns(said):
    """Run functions, each in a turn of a loop; a turn's end is noted."""

    def run(*functions):
        async def main():
            for function in functions:
                function()
                said.append(".")
                await turn_over()

        asyncio.run(main())

    return run


@pytest.fixture
def wires(said):
    """Make connections by names, once their loop runs."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = LateTransport(Wire(said, name))
        return made[name]

    return get


def test_what_a_turn_brings_goes_out_at_its_end_in_order(said, turns, wires):
    def turn():
        wires("a").write_later(b"1")
        wires("b").write_later(b"2")

    turns(turn, turn)
    assert said == [".", "a1", "b2", ".", "a1", "b2"]


@pytest.mark.parametrize(
    ("call", "after"),
    [
        (lambda wire: wire.write(b"2"), ["12"]),
        (lambda wire: wire.write_later(b"2"), ["12"]),
        (lambda wire: wire.close(), ["1", "closed"]),
        (lambda wire: wire.abort(), ["1", "aborted"]),
        (lambda wire: wire.write_eof(), ["1", "eof"]),
        (lambda wire: wire.settle(), ["1"]),
        (lambda wire: wire.discard(), ["aborted"]),
    ],
)
def test_whatever_is_done_next_comes_next(said, turns, wires, call, after):
    def turn():
        wires("").write_later(b"1")
        assert (wires("").waits, wires("").get_write_buffer_size()) == (True, 1)
        call(wires(""))
        assert (wires("").waits, wires("").get_write_buffer_size()) == (False, 0)

    turns(turn)
    assert said == [*after, "."]


def test_what_is_long_does_not_wait(said, turns, wires):
    def turn():
        wires("").write_later(b"x" * LONGEST)
        wires("b").write_later(b"x" * (LONGEST + 1))

    turns(turn)
    assert [len(each) for each in said] == [LONGEST + 2, 1, LONGEST]


def test_no_more_than_some_wait(said, turns, wires):
    def turn():
        for number in range(40):
            wires(str(number)).write_later(b"!")

    turns(turn)
    assert said.index(".") == 32
    assert said[:32] + said[33:] == [f"{number}!" for number in range(40)]


def test_nothing_waits_long_in_a_turn_that_takes_long(said, turns, wires, time):
    def turn():
        wires("a").write_later(b"1")
        time.now += 0.0005
        wires("b").write_later(b"2")
        time.now += 0.0006  # a slow plugin
        wires("c").write_later(b"3")
        wires("d").write_later(b"4")

    turns(turn)
    assert said == ["a1", "b2", "c3", ".", "d4"]


def test_who_is_alone_does_not_wait_for_others(said, turns, wires):
    def alone():
        wires("a").write_later(b"1")

    def two():
        wires("b").write_later(b"2")
        wires("c").write_later(b"3")

    turns(*[alone] * 31, *[two] * 20)
    text = "".join(said)
    # One waits, eight go at once, one waits, sixteen go at once; then one in a turn with another finds company.
    assert text.startswith(".a1" + "a1." * 8 + ".a1" + "a1." * 16 + ".a1")
    assert text.endswith(".b2c3" * 2)


def test_one_that_is_closed_meanwhile_is_not_written_to(said, turns, wires):
    def turn():
        wires("a").write_later(b"1")
        wires("a")._transport.closing = True

    turns(turn)
    assert said == ["."]


def test_one_that_fails_costs_no_other(said, turns, wires, caplog):
    def turn():
        LateTransport(Broken(said, "bad ")).write_later(b"1")
        wires("a").write_later(b"1")

    turns(turn, turn)
    assert said == [".", "bad aborted", "a1"] * 2
    assert "could not be sent" in caplog.text


class User:
    client_ip = "192.0.2.1"

    def on_failure(self, error):
        self.error = error


class Owner:
    def lost(self, connection):
        pass


def asked(said):
    """A connection to a target on which a request is on its way, and who made it."""
    user, clock = User(), SystemClock()
    connection = TargetConnection(Owner(), clock, Timers(clock))
    connection.connection_made(Wire(said))
    connection.request(user, "POST", b"head", b"", False, clock.now(), 9.0, 9.0)
    return connection, user


@pytest.mark.parametrize(("turn_is_over", "retry"), [(False, Retry.SAFE), (True, Retry.IDEMPOTENT)])
def test_a_target_that_closes_before_the_turns_end_has_seen_nothing(said, turn_is_over, retry):
    async def main():
        connection, user = asked(said)
        if turn_is_over:
            await turn_over()
        connection.eof_received()
        assert user.error.retry is retry

    asyncio.run(main())
    assert said == ["head"] * turn_is_over + ["aborted"]


def test_what_a_target_says_before_it_was_asked_is_no_answer(said):
    async def main():
        connection, user = asked(said)
        connection.data_received(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        assert user.error.retry is Retry.SAFE

    asyncio.run(main())
    assert said == ["aborted"]


# A client that does not read


class Clogged(Wire):
    """Takes what is written, and says that it will be long until it is read."""

    def write(self, data):
        super().write(data)
        self.connection.pause_writing()

    def get_extra_info(self, name):
        return None

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


class Answers:
    """The proxy: answers GET at once, and POST never."""

    repeats = dict.fromkeys(["http"])

    def handle(self, exchange):
        if exchange.request.method == "GET":
            exchange.downstream.respond(exchange, Response(200, {}, exchange.request.path.encode()), lambda: None)


def client_that_does_not_read(said):
    clock = SystemClock()
    listening = SimpleNamespace(
        clock=clock,
        timers=Timers(clock),
        handler=Answers(),
        limits=Limits(keepalive_timeout=7.0, write_timeout=70.0),
        trusted=(),
        draining=False,
        arrived=lambda connection: None,
        forget=lambda connection: None,
    )
    connection = ClientConnection(listening)
    wire = Clogged(said)
    wire.connection = connection
    connection.connection_made(wire)
    return connection, clock


GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"


def answered(said):
    return "".join(said).count("200 OK")


def test_a_client_that_reads_late_gets_the_answers_to_all_it_has_asked(said):
    async def main():
        connection, _ = client_that_does_not_read(said)
        connection.data_received(GET % 1 + (GET % 2)[:10])
        await turn_over()
        connection.data_received((GET % 2)[10:])
        assert (connection.congested, answered(said)) == (True, 1)
        connection.resume_writing()
        await turn_over()
        assert answered(said) == 2

    asyncio.run(main())


def test_the_time_for_an_answer_runs_when_the_request_is_complete(said):
    async def main():
        connection, clock = client_that_does_not_read(said)
        connection.data_received(GET % 1 + b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nz")
        await turn_over()
        connection.data_received(b"z")
        assert (connection.congested, answered(said)) == (True, 1)
        assert 60 < connection.deadline - clock.now() <= 70

    asyncio.run(main())
