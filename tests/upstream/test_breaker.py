"""The breaker follows its table, judges a sliding window, and lets one probe through."""

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.upstream.breaker import BUCKETS, TRANSITIONS, Breaker, Event, State

NOW = 100.0


def make(failure_rate: float = 0.5, minimum: int = 4, window: float = 10, open_seconds: float = 20) -> Breaker:
    return Breaker(failure_rate, minimum, window, open_seconds)


def closed() -> Breaker:
    return make(minimum=1)


def opened() -> Breaker:
    breaker = make(minimum=1)
    breaker.record(False, NOW - 20)
    return breaker


def half_open() -> Breaker:
    breaker = opened()
    assert breaker.acquire(NOW)
    return breaker


STATES: dict[State, Callable[[], Breaker]] = {
    State.CLOSED: closed,
    State.OPEN: opened,
    State.HALF_OPEN: half_open,
}
# What a service does to a breaker, and the event that it is in each state (None: nothing happens).
ACTIONS: dict[str, tuple[Callable[[Breaker], object], dict[State, Event | None]]] = {
    "success": (
        lambda breaker: breaker.record(True, NOW),
        {State.CLOSED: None, State.OPEN: None, State.HALF_OPEN: Event.SUCCEEDED},
    ),
    "failure": (
        lambda breaker: breaker.record(False, NOW),
        {State.CLOSED: Event.TRIPPED, State.OPEN: None, State.HALF_OPEN: Event.FAILED},
    ),
    "acquire": (
        lambda breaker: breaker.acquire(NOW),
        {State.CLOSED: None, State.OPEN: Event.PROBED, State.HALF_OPEN: None},
    ),
    "release": (lambda breaker: breaker.release(), dict.fromkeys(State)),
    "allows": (lambda breaker: breaker.allows(NOW), dict.fromkeys(State)),
    "retry_after": (lambda breaker: breaker.retry_after(NOW), dict.fromkeys(State)),
}


@pytest.mark.parametrize(("state", "action"), list(product(State, ACTIONS)))
def test_every_action_in_every_state_does_what_the_table_says(state: State, action: str) -> None:
    breaker = STATES[state]()
    assert breaker.state is state
    act, events = ACTIONS[action]
    act(breaker)
    event = events[state]
    assert breaker.state is (state if event is None else TRANSITIONS[state, event])


def test_the_actions_reach_every_transition() -> None:
    used = {(state, event) for _, events in ACTIONS.values() for state, event in events.items() if event is not None}
    assert used == set(TRANSITIONS)


@pytest.mark.parametrize(
    ("verdicts", "state"),
    [
        ("fff", State.CLOSED),  # below the minimum
        ("ffff", State.OPEN),
        ("ssff", State.OPEN),  # exactly the rate
        ("sssff", State.CLOSED),
        ("ffffs", State.OPEN),
        ("fffs", State.CLOSED),  # judged at failures
        ("fffsf", State.OPEN),
    ],
)
def test_opens_at_rate_and_minimum(verdicts: str, state: State) -> None:
    breaker = make()
    for verdict in verdicts:
        breaker.record(verdict == "s", NOW)
    assert breaker.state is state


def test_failures_that_left_the_window_do_not_count() -> None:
    breaker = make()
    for _ in range(3):
        breaker.record(False, NOW)
    breaker.record(False, NOW + 10)
    assert breaker.state is State.CLOSED
    for _ in range(3):
        breaker.record(False, NOW + 19.9)
    assert breaker.state is State.OPEN


def test_a_long_silence_forgets_everything() -> None:
    breaker = make()
    for step in range(3):
        breaker.record(False, NOW + step)
    breaker.record(True, NOW + 1000)
    breaker.record(False, NOW + 1000)
    breaker.record(False, NOW + 1001)
    assert breaker.state is State.CLOSED


@given(
    calls=st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=60),
    minimum=st.integers(1, 8),
    rate=st.sampled_from([0.1, 0.25, 0.5, 1.0]),
)
def test_opens_exactly_when_a_naive_window_would(calls: list[tuple[bool, float]], minimum: int, rate: float) -> None:
    window = 10.0
    breaker = make(rate, minimum, window)
    width = window / BUCKETS
    now, seen = NOW, []
    for success, pause in calls:
        now += pause
        seen.append((int(now / width), success))
        recent = [ok for bucket, ok in seen if bucket > int(now / width) - BUCKETS]
        trips = not success and len(recent) >= minimum and recent.count(False) >= rate * len(recent)
        breaker.record(success, now)
        assert (breaker.state is State.OPEN) == trips
        if trips:
            break


def test_open_refuses_until_its_time_is_up_then_lets_one_probe_through() -> None:
    breaker = make(minimum=1)
    breaker.record(False, NOW)
    assert not breaker.allows(NOW + 19.9)
    assert not breaker.acquire(NOW + 19.9)
    assert breaker.state is State.OPEN
    assert breaker.allows(NOW + 20)
    assert breaker.acquire(NOW + 20)
    assert not breaker.allows(NOW + 20)
    assert not breaker.acquire(NOW + 1000)


def test_a_failed_probe_opens_for_the_whole_time_again() -> None:
    breaker = half_open()
    breaker.record(False, NOW + 3)
    assert not breaker.allows(NOW + 22.9)
    assert breaker.acquire(NOW + 23)


def test_a_good_probe_closes_with_a_clean_window() -> None:
    breaker = make()
    for _ in range(4):
        breaker.record(False, NOW)
    assert breaker.acquire(NOW + 20)
    breaker.record(True, NOW + 20)
    for _ in range(3):
        breaker.record(False, NOW + 20)
    assert breaker.state is State.CLOSED


def test_a_breaker_that_opens_for_less_than_a_bucket_keeps_nothing_either() -> None:
    breaker = make(minimum=4, open_seconds=0.25)
    for _ in range(4):
        breaker.record(False, NOW)
    breaker.record(True, NOW)  # ends late, while the breaker is open
    assert breaker.acquire(NOW + 0.25)
    breaker.record(True, NOW + 0.25)
    for _ in range(3):
        breaker.record(False, NOW + 0.25)
    assert breaker.state is State.CLOSED
    breaker.record(False, NOW + 0.25)
    assert breaker.state is State.OPEN


def test_an_abandoned_probe_gives_its_place_to_another() -> None:
    breaker = half_open()
    breaker.release(started=NOW)
    assert breaker.state is State.HALF_OPEN
    assert breaker.acquire(NOW + 1)
    assert not breaker.acquire(NOW + 1)


@pytest.mark.parametrize("success", [True, False])
def test_a_verdict_from_before_the_probe_decides_nothing(success: bool) -> None:
    breaker = half_open()
    breaker.record(success, NOW + 1, started=NOW - 30)
    assert breaker.state is State.HALF_OPEN
    assert not breaker.allows(NOW + 1)
    breaker.record(True, NOW + 2, started=NOW)
    assert breaker.state is State.CLOSED


def test_an_attempt_from_before_the_probe_cannot_give_its_place_away() -> None:
    breaker = half_open()
    breaker.release(started=NOW - 30)
    assert not breaker.allows(NOW)


def test_late_failures_of_an_outage_do_not_reopen() -> None:
    breaker = half_open()
    breaker.record(True, NOW + 1, started=NOW)
    breaker.record(False, NOW + 2, started=NOW - 30)
    assert breaker.state is State.CLOSED
    breaker.record(False, NOW + 2, started=NOW + 1)
    assert breaker.state is State.OPEN


@pytest.mark.parametrize(("after", "seconds"), [(0, 20), (0.5, 20), (19, 1), (19.9, 1), (25, 1)])
def test_retry_after_is_whole_seconds_and_at_least_one(after: float, seconds: int) -> None:
    breaker = make(minimum=1)
    breaker.record(False, NOW)
    answer = breaker.retry_after(NOW + after)
    assert answer == seconds
    assert isinstance(answer, int)


@given(
    st.lists(
        st.tuples(st.sampled_from(["acquire", "success", "failure", "release"]), st.floats(0, 30)),
        max_size=60,
    )
)
def test_never_more_than_one_probe_at_a_time(steps: list[tuple[str, float]]) -> None:
    breaker = make(minimum=1)
    now, probes = NOW, 0
    for step, pause in steps:
        now += pause
        if step == "acquire":
            asked = breaker.allows(now)
            was_closed = breaker.state is State.CLOSED
            assert breaker.acquire(now) == asked
            probes += asked and not was_closed
        elif probes and step == "release":
            breaker.release(now)
            probes = 0
        elif step in ("success", "failure") and (probes or breaker.state is State.CLOSED):
            breaker.record(step == "success", now)
            probes = 0
        assert probes <= 1
        assert probes == 0 or breaker.state is State.HALF_OPEN
