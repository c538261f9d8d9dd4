"""The algorithms against models that are too simple to be wrong: a list of everything that passed, and injected time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.state.limits import ENTRIES, SECOND, Concurrency, FixedWindow, Gcra, SlidingWindow

WINDOW = 60 * SECOND

# Steps of time that meet the borders: nothing, one microsecond, about a request's interval, about a window.
STEPS = st.one_of(
    st.sampled_from([0, 1, SECOND, WINDOW // 12, WINDOW - 1, WINDOW, WINDOW + 1]),
    st.integers(0, 2 * WINDOW),
    st.integers(0, 5 * SECOND),
)
ARRIVALS = st.lists(st.tuples(STEPS, st.integers(1, 3)), max_size=120)


def play(algorithm, arrivals, start=10**12):
    """Run arrivals through the algorithm: (time, cost, verdict) of each."""
    now, state, told = start, (0,) * algorithm.words, []
    for step, cost in arrivals:
        now += step
        verdict, after = algorithm.decide(state, now, cost)
        if after is not None:
            assert len(after) == algorithm.words
            state = after
        told.append((now, cost, verdict))
    return told


def passed(told):
    return [(time, cost) for time, cost, verdict in told if verdict[0]]


@given(st.integers(1, 200), ARRIVALS)
def test_a_sliding_window_never_lets_more_pass_in_any_window(quota, arrivals):
    log = passed(play(SlidingWindow(quota, WINDOW), arrivals))
    for time, _ in log:
        assert sum(cost for other, cost in log if time - WINDOW < other <= time) <= quota


@given(st.integers(1, ENTRIES), ARRIVALS)
def test_a_small_sliding_window_is_exact(quota, arrivals):
    log = []
    for time, cost, verdict in play(SlidingWindow(quota, WINDOW), arrivals):
        used = sum(count for other, count in log if other > time - WINDOW)
        assert verdict[0] == (used + cost <= quota)
        assert verdict[1] == max(0, quota - used - (cost if verdict[0] else 0))
        if verdict[0]:
            log.append((time, cost))


@given(st.integers(ENTRIES + 1, 60), ARRIVALS)
def test_a_large_sliding_window_is_late_by_a_twelfth_at_most(quota, arrivals):
    algorithm = SlidingWindow(quota, WINDOW)
    log = []
    for time, cost, verdict in play(algorithm, arrivals):
        used = sum(count for other, count in log if other > time - WINDOW - algorithm.cell)
        if used + cost <= quota:
            assert verdict[0]
        if verdict[0]:
            log.append((time, cost))


@given(st.integers(1, 50), ARRIVALS)
def test_a_fixed_window_lets_its_quota_pass_once(quota, arrivals):
    end, used = 0, 0
    for time, cost, verdict in play(FixedWindow(quota, WINDOW), arrivals):
        if time >= end:
            end, used = time + WINDOW, 0
        assert verdict[0] == (used + cost <= quota)
        used += cost if verdict[0] else 0
        if cost <= quota:  # what begins a window and cannot pass leaves no state behind
            assert verdict[1:3] == (quota - used, end - time)
        if not used:
            end = 0


@given(st.integers(1, 50), st.integers(3, 50), ARRIVALS)
def test_gcra_is_a_bucket_that_fills_steadily(quota, burst, arrivals):
    """The model: tokens as fractions of a microsecond's worth, in whole numbers."""
    algorithm = Gcra(quota, WINDOW, burst)
    interval = algorithm.interval
    assert 0 <= interval * quota - WINDOW < quota  # what rounding up costs
    full = burst * interval
    tokens, last = full, None
    for time, cost, verdict in play(algorithm, arrivals):
        if last is not None:
            tokens = min(full, tokens + time - last)
        last = time
        assert verdict[0] == (tokens >= cost * interval)
        if verdict[0]:
            tokens -= cost * interval
        assert verdict[1] == tokens // interval


@given(st.integers(1, 50), st.integers(3, 50), ARRIVALS)
def test_gcra_never_lets_more_pass_than_burst_and_rate(quota, burst, arrivals):
    log = passed(play(Gcra(quota, WINDOW, burst), arrivals))
    for place, (start, _) in enumerate(log):
        total = 0
        for time, cost in log[place:]:
            total += cost
            assert total <= burst + (time - start) * quota // WINDOW


ALGORITHMS = st.one_of(
    st.builds(Gcra, st.integers(3, 50), st.just(WINDOW)),
    st.builds(FixedWindow, st.integers(3, 50), st.just(WINDOW)),
    st.builds(SlidingWindow, st.integers(3, 50), st.just(WINDOW)),
)


@given(ALGORITHMS, ARRIVALS, st.integers(1, 3))
def test_the_wait_that_is_told_is_enough_and_the_shortest(algorithm, arrivals, cost):
    now, state = 10**12, (0,) * algorithm.words
    for step, _ in arrivals:
        now += step
        verdict, after = algorithm.decide(state, now, cost)
        if not verdict[0]:
            wait = verdict[3]
            assert wait > 0
            assert algorithm.decide(state, now + wait, cost)[0][0]
            assert not algorithm.decide(state, now + wait - 1, cost)[0][0]
        state = after if after is not None else state


@given(ALGORITHMS, st.data())
def test_whatever_stands_in_a_state_counts_as_used_up_for_one_window_at_most(algorithm, data):
    now = 10**12
    number = st.one_of(st.sampled_from([0, 1, -1, now, now + WINDOW, 2**62, -(2**62)]), st.integers(-(2**62), 2**62))
    state = data.draw(st.tuples(*[number] * algorithm.words))
    allowed = 0
    for _ in range(200):
        verdict, after = algorithm.decide(state, now, 1)
        allowed += verdict[0]
        assert 0 <= verdict[1] <= algorithm.quota
        state = after if after is not None else state
    assert allowed <= algorithm.quota
    assert algorithm.decide(state, now + WINDOW + algorithm.quota, 1)[0][0]  # rounding up may add a microsecond each


@given(ALGORITHMS, ARRIVALS, st.integers(1, 400 * WINDOW))
def test_a_clock_that_is_set_back_locks_nobody_out_and_lets_no_more_pass(algorithm, arrivals, back):
    now, state = 10**12, (0,) * algorithm.words
    for step, cost in arrivals:
        now += step
        _, after = algorithm.decide(state, now, cost)
        state = after if after is not None else state
    left = algorithm.decide(state, now, 1)[0][1] + algorithm.decide(state, now, 1)[0][0]
    now -= back
    verdict, after = algorithm.decide(state, now, 1)
    assert verdict[0] <= (left > 0)
    if isinstance(algorithm, FixedWindow | SlidingWindow) and state[0] > now + back:
        assert verdict[:2] == ((True, left - 1) if left else (False, 0))
    if not verdict[0]:
        assert verdict[3] <= algorithm.window
        assert algorithm.decide(after or state, now + verdict[3], 1)[0][0]


@given(ALGORITHMS)
def test_a_spent_state_lets_nothing_pass(algorithm):
    assert not algorithm.decide(algorithm.spent(10**12), 10**12, 1)[0][0]


@given(ALGORITHMS, ARRIVALS)
def test_a_state_that_can_be_forgotten_makes_no_difference(algorithm, arrivals):
    now, state = 10**12, (0,) * algorithm.words
    for step, cost in arrivals:
        now += step
        verdict, after = algorithm.decide(state, now, cost)
        if state[0] <= now:
            assert verdict == algorithm.decide((0,) * algorithm.words, now, cost)[0]
        state = after if after is not None else state


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_count_below_nothing_counts_as_all_of_the_window(place):
    window, now = SlidingWindow(100, WINDOW), 10**12
    cells = [[now - 2 * window.cell, 1], [now - window.cell, 1], [now, 1]]
    cells[place][1] = -5
    state = (now + WINDOW, *(number for cell in cells for number in cell), *(0,) * (2 * (ENTRIES - 3)))
    assert not window.decide(state, now, 1)[0][0]


def test_concurrency():
    assert Concurrency(3).verdict(2, 1) == (True, 0, 0, 0)
    assert Concurrency(3).verdict(2, 2) == (False, 1, 0, SECOND)
    assert Concurrency(3).verdict(9, 1) == (False, 0, 0, SECOND)


def test_a_burst_beyond_all_measure_is_refused():
    with pytest.raises(ValueError, match="100 years"):
        Gcra(1, 366 * 86400 * SECOND, 1000)
