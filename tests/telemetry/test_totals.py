"""The sums over workers: exact over death and replacement, and never going back."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.telemetry import totals as totals_module
from gatewright.telemetry.counters import LENGTH, SECONDS, UPSTREAM_BUCKETS, Counters
from gatewright.telemetry.totals import Totals
from tests.telemetry.finished import finished


def sums(totals):
    return {(row.kind, *row.labels): row.numbers for row in totals.rows()}


def row(count):
    return ["reasons", ["r", "no_route"], [count]]


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("count"), st.integers(0, 2), st.sampled_from([200, 404, None]), st.floats(0, 30, allow_nan=False)
        ),
        st.tuples(st.just("report"), st.integers(0, 2)),
        st.tuples(st.just("report twice"), st.integers(0, 2)),
        st.tuples(st.just("die"), st.integers(0, 2)),
    ),
    max_size=60,
)


@given(STEPS)
def test_the_sums_are_what_all_workers_reported(steps):
    totals = Totals()
    keys = iter(range(1000))
    workers = {place: (str(next(keys)), Counters()) for place in range(3)}
    expected, unreported = Counter(), {place: Counter() for place in range(3)}
    nanoseconds_before = 0
    for name, place, *how in steps:
        key, counters = workers[place]
        if name == "count":
            status, seconds = how
            counters.record(finished(status=status), seconds)
            unreported[place][str(status or 499)] += 1
            continue
        if name == "die":
            totals.retire(key)
            workers[place] = (str(next(keys)), Counters())
        else:
            told = counters.changes()
            for _ in range(2 if name == "report twice" else 1):
                totals.update(key, told, {})
            expected.update(unreported[place])
        unreported[place].clear()
        rows = totals.rows()
        assert {row.labels[3]: sum(row.numbers[:UPSTREAM_BUCKETS]) for row in rows} == dict(expected)
        assert totals.exchanges == expected.total()
        nanoseconds = sum(row.numbers[SECONDS] for row in rows)
        assert nanoseconds >= nanoseconds_before
        nanoseconds_before = nanoseconds


def test_seconds_add_up_to_the_same_in_any_order():
    durations = [0.1, 0.2, 0.3, 1e-7, 1234.5]
    found = set()
    for order in (durations, durations[::-1]):
        totals = Totals()
        for number, seconds in enumerate(order):
            counters = Counters()
            counters.record(finished(), seconds)
            totals.update(str(number), counters.changes(), {})
            totals.retire(str(number))
        found.add(totals.rows()[0].numbers[SECONDS])
    assert found == {1_235_100_000_100}


def test_a_sum_does_not_go_back_when_a_worker_says_less():
    totals = Totals()
    for count, total in [(5, 5), (3, 5), (6, 6), (6, 6)]:
        totals.update("1", [row(count)], {})
        assert sums(totals) == {("reasons", "r", "no_route"): [total]}


def test_the_dead_are_forgotten_and_their_numbers_are_not():
    totals = Totals()
    for worker in range(100):
        totals.update(str(worker), [row(1)], {})
        totals.retire(str(worker))
        totals.retire(str(worker))
    totals.retire("never seen")
    assert sums(totals) == {("reasons", "r", "no_route"): [100]}
    assert totals._told == {}


def test_a_route_has_the_path_that_it_has_when_it_is_counted():
    totals = Totals()
    labels = ["r", "s", "GET", "200", "http"]
    for count, paths in [(3, {"r": "/old"}), (4, {"r": "/new"}), (6, {}), (6, {"r": "/newest"})]:
        totals.update("1", [["exchanges", labels, [count] * LENGTH]], paths)
    totals.update("2", [["exchanges", ["", *labels[1:]], [1] * LENGTH]], {"r": "/new"})
    assert {key[1:]: numbers[0] for key, numbers in sums(totals).items()} == {
        (*labels, "/old"): 3,
        (*labels, "/new"): 3,
        (*labels, "/newest"): 0,
        ("", *labels[1:], ""): 1,
    }


def test_rows_are_bounded_and_none_is_lost(monkeypatch):
    monkeypatch.setattr(totals_module, "MAX_ROWS", 5)
    totals = Totals()
    for worker in range(20):
        totals.update(str(worker), [["exchanges", [f"r{worker}", "s", "GET", "200", "http"], [1] * LENGTH]], {})
        totals.update(str(worker), [["exchanges", [f"r{worker}", "s", "GET", "200", "http"], [2] * LENGTH]], {})
    found = sums(totals)
    assert len(found) == 6
    assert found["exchanges", "_OTHER", "_OTHER", "_OTHER", "_OTHER", "_OTHER", "_OTHER"] == [30] * LENGTH


def test_rows_are_copies():
    totals = Totals()
    totals.update("1", [row(1)], {})
    before = totals.rows()
    totals.update("1", [row(2)], {})
    assert before[0].numbers == [1]


def test_rows_of_another_length_are_refused():
    totals = Totals()
    totals.update("1", [["reasons", ["r", "x"], [1, 2]]], {})
    with pytest.raises(ValueError):
        totals.update("1", [["reasons", ["r", "x"], [1]]], {})
