"""What a worker counts of each exchange, what of it is told, and that clients cannot make it grow without end."""

import msgspec
import pytest

from gatewright.core.errors import Reason
from gatewright.telemetry import counters as counters_module
from gatewright.telemetry.counters import (
    BOUNDS,
    BYTES_IN,
    BYTES_OUT,
    LENGTH,
    MAX_REASONS,
    NANO,
    RETRIES,
    SECONDS,
    UPSTREAM_BUCKETS,
    UPSTREAM_SECONDS,
    Counters,
)
from tests.telemetry.finished import finished


def rows(counters):
    """All that is told now: {(kind, labels...): numbers}."""
    found = {}
    while told := counters.changes():
        for kind, labels, numbers in told:
            assert (kind, *labels) not in found
            found[kind, *labels] = numbers
    return found


def test_an_exchange_is_counted_once_in_each_place():
    counters = Counters()
    counters.record(finished(bytes_in=7, bytes_out=100, attempts=3, upstream_seconds=0.3), 0.5)
    ((key, numbers),) = rows(counters).items()
    assert key == ("exchanges", "r", "s", "GET", "200", "http")
    expected = [0] * LENGTH
    expected[BOUNDS.index(0.5)] = 1  # a bound is of its own bucket
    expected[UPSTREAM_BUCKETS + BOUNDS.index(0.5)] = 1
    expected[SECONDS], expected[UPSTREAM_SECONDS] = NANO // 2, 3 * NANO // 10
    expected[BYTES_IN], expected[BYTES_OUT], expected[RETRIES] = 7, 100, 2
    assert numbers == expected


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (0.005, 0), (0.0051, 1), (0.3, 7), (10.0, 13), (10.1, 14), (3600.0, 14)]
)
def test_buckets(seconds, bucket):
    counters = Counters()
    counters.record(finished(upstream_seconds=seconds), seconds)
    (numbers,) = rows(counters).values()
    assert numbers[:UPSTREAM_BUCKETS] == [int(place == bucket) for place in range(15)]
    upstream = [int(place == bucket) for place in range(15)] if seconds else [0] * 15
    assert numbers[UPSTREAM_BUCKETS:SECONDS] == upstream


def test_what_no_target_was_asked_for_has_no_service():
    counters = Counters()
    counters.record(finished("", route=None, service=None, status=400, attempts=0, upstream_seconds=0.0), 0.1)
    counters.record(finished(status=None, reason=Reason.CLIENT_GONE), 0.1)
    told = rows(counters)
    assert set(told) == {
        ("exchanges", "", "", "_OTHER", "400", "http"),
        ("exchanges", "r", "s", "GET", "499", "http"),
        ("reasons", "r", "client_gone"),
    }
    assert sum(told["exchanges", "", "", "_OTHER", "400", "http"][UPSTREAM_BUCKETS:SECONDS]) == 0


def test_only_what_has_changed_is_told_and_with_all_that_it_has_counted():
    counters = Counters()
    counters.record(finished(), 0.1)
    counters.record(finished(status=503, reason=Reason.OVERLOADED), 0.1)
    assert len(rows(counters)) == 3
    assert counters.changes() == []
    counters.record(finished(), 0.2)
    ((key, numbers),) = rows(counters).items()
    assert key == ("exchanges", "r", "s", "GET", "200", "http")
    assert (sum(numbers[:UPSTREAM_BUCKETS]), numbers[SECONDS]) == (2, round(0.3 * NANO))
    counters.record(finished(status=503, reason=Reason.OVERLOADED), 0.1)
    assert rows(counters)["reasons", "r", "overloaded"] == [2]
    counters.lines_dropped = 4
    assert rows(counters) == {("lines_dropped",): [4]}
    assert counters.changes() == []


def test_what_is_told_stays_as_it_was():
    counters = Counters()
    counters.record(finished(), 0.1)
    told = counters.changes()
    before = msgspec.msgpack.encode(told)
    counters.record(finished(), 0.1)
    assert msgspec.msgpack.encode(told) == before


def test_rows_travel_as_plain_lists():
    counters = Counters()
    counters.record(finished(reason=Reason.NO_ROUTE), 0.1)
    counters.lines_dropped = 1
    told = counters.changes()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told)) == told
    assert {type(label) for _, labels, _ in told for label in labels} == {str}
    assert {type(number) for _, _, numbers in told for number in numbers} == {int}


def test_not_more_than_a_message_holds_is_told_at_once(monkeypatch):
    monkeypatch.setattr(counters_module, "CHANGES", 3)
    counters = Counters()
    for status in range(200, 207):
        counters.record(finished(status=status, reason=f"r{status}"), 0.1)
    sizes = []
    while told := counters.changes():
        sizes.append(len(told))
    assert sizes == [3, 3, 3, 3, 2]


def test_methods_that_clients_make_up_are_one():
    counters = Counters()
    for number in range(1000):
        counters.record(finished(f"M{number}"), 0.1)
        counters.record(finished("get"), 0.1)
    ((key, numbers),) = rows(counters).items()
    assert key[3] == "_OTHER"
    assert sum(numbers[:UPSTREAM_BUCKETS]) == 2000
    assert len(counters._rows) == 1


def test_rows_are_bounded_and_none_is_lost(monkeypatch):
    monkeypatch.setattr(counters_module, "MAX_ROWS", 10)
    counters = Counters()
    for status in range(100, 200):
        counters.record(finished(status=status), 0.1)
    told = rows(counters)
    assert sum(sum(numbers[:UPSTREAM_BUCKETS]) for numbers in told.values()) == 100
    assert len(told) == 11
    assert sum(told["exchanges", "_OTHER", "_OTHER", "_OTHER", "_OTHER", "_OTHER"][:UPSTREAM_BUCKETS]) == 90
    for number in range(30):
        counters.record(finished(route=f"route-{number}", reason=Reason.NO_ROUTE), 0.1)
    told = rows(counters)
    assert told["reasons", "_OTHER", "_OTHER"] == [20]


def test_reasons_that_plugins_make_up_are_bounded():
    counters = Counters()
    for number in range(MAX_REASONS + 50):
        counters.record(finished(reason=f"no_{number}"), 0.1)
    for reason in ("x" * 65, "user 7 is unknown", "ungültig", "\ud800", "", Reason.DRAINING, "no_0"):
        counters.record(finished(reason=reason), 0.1)
    told = {key[2]: numbers[0] for key, numbers in rows(counters).items() if key[0] == "reasons"}
    assert len(told) == MAX_REASONS + 2
    assert (told["no_0"], told["no_1"], told["draining"]) == (2, 1, 1)
    assert told["_OTHER"] == 50 + 5


def test_counters_of_plugins():
    counters = Counters()
    add = counters.cell("seen", {"kind": "new", "by": "me"}).add
    key = ("plugins", "seen", "by", "me", "kind", "new")
    assert rows(counters) == {key: [0]}  # so that a scraper sees it grow from nothing
    assert counters.changes() == []
    add()
    counters.cell("seen", {"by": "me", "kind": "new"}).add()
    assert rows(counters) == {key: [2]}
    for number in range(counters_module.MAX_PLUGIN_ROWS + 5):
        counters.cell("made", {"up": f"{number}"}).add()
    told = rows(counters)
    assert told["plugins", "made", "up", "_OTHER"] == [6]
    assert len(told) == counters_module.MAX_PLUGIN_ROWS


def test_the_scheme_is_part_of_a_row():
    counters = Counters()
    exchange = finished()
    exchange.peer.scheme = "https"
    counters.record(exchange, 0.1)
    counters.record(finished(), 0.1)
    assert set(rows(counters)) == {("exchanges", "r", "s", "GET", "200", scheme) for scheme in ("http", "https")}
