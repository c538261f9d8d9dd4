"""Ejection: after failures in a row, for longer each time, and never of too many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.upstream.outlier import Outlier
from gatewright.upstream.target import Target
from tests.upstream.build import make_targets


def fail(outlier: Outlier, target: Target, now: float, targets: list[Target], times: int = 1) -> bool:
    return sum(outlier.record(target, False, now, targets) for _ in range(times)) > 0


def test_ejects_after_failures_in_a_row() -> None:
    targets = make_targets(1, 1)
    outlier = Outlier(3, 30, 0.5)
    assert not fail(outlier, targets[0], 1, targets, 2)
    assert fail(outlier, targets[0], 1, targets)
    assert targets[0].ejected_until == 31
    assert not targets[0].usable(30.9)
    assert targets[0].usable(31)


def test_a_success_starts_the_count_again() -> None:
    targets = make_targets(1, 1)
    outlier = Outlier(3, 30, 0.5)
    fail(outlier, targets[0], 1, targets, 2)
    assert not outlier.record(targets[0], True, 1, targets)
    assert not fail(outlier, targets[0], 1, targets, 2)
    assert fail(outlier, targets[0], 1, targets)


def test_after_its_return_a_target_needs_as_many_failures_again() -> None:
    targets = make_targets(1, 1)
    outlier = Outlier(3, 30, 0.5)
    fail(outlier, targets[0], 0, targets, 3)
    assert not fail(outlier, targets[0], 30, targets, 2)
    assert fail(outlier, targets[0], 30, targets)


def test_failures_of_an_ejected_target_neither_count_nor_prolong() -> None:
    targets = make_targets(1, 1)
    outlier = Outlier(3, 30, 0.5)
    fail(outlier, targets[0], 0, targets, 3)
    assert not fail(outlier, targets[0], 10, targets, 20)
    assert targets[0].ejected_until == 30
    assert targets[0].consecutive_failures == 0


def test_each_time_is_longer_up_to_300_seconds() -> None:
    targets = make_targets(1, 1)
    outlier = Outlier(1, 70, 0.5)
    now, lengths = 0.0, []
    for _ in range(6):
        assert fail(outlier, targets[0], now, targets)
        lengths.append(targets[0].ejected_until - now)
        now = targets[0].ejected_until
    assert lengths == [70, 140, 210, 280, 300, 300]


def test_a_base_above_the_ceiling_is_obeyed() -> None:
    targets = make_targets(1, 1)
    fail(Outlier(1, 900, 0.5), targets[0], 0, targets)
    assert targets[0].ejected_until == 900


@pytest.mark.parametrize(("calm", "length"), [(0, 120), (29, 120), (30, 90), (60, 60), (90, 30), (10_000, 30)])
def test_good_behaviour_shortens_the_next_ejection(calm: float, length: float) -> None:
    targets = make_targets(1, 1)
    outlier = Outlier(1, 30, 0.5)
    now = 0.0
    for _ in range(3):
        fail(outlier, targets[0], now, targets)
        now = targets[0].ejected_until
    fail(outlier, targets[0], now + calm, targets)
    assert targets[0].ejected_until - (now + calm) == length


@pytest.mark.parametrize(
    ("count", "max_ejected", "ejected"),
    [
        (1, 1.0, 0),
        (2, 0.5, 1),
        (3, 0.5, 1),
        (4, 0.5, 2),
        (3, 0.1, 1),  # one may always be
        (2, 1.0, 1),  # one always stays
        (4, 1.0, 3),
        (100, 0.29, 29),
        (4, 0.0, 0),
    ],
)
def test_ceiling(count: int, max_ejected: float, ejected: int) -> None:
    targets = make_targets(*[1] * count)
    outlier = Outlier(1, 30, max_ejected)
    assert sum(fail(outlier, target, 0, targets) for target in targets) == ejected


def test_a_target_past_the_ceiling_is_ejected_at_its_next_failure_once_there_is_room() -> None:
    targets = make_targets(1, 1)
    outlier = Outlier(3, 30, 0.5)
    fail(outlier, targets[0], 0, targets, 3)
    assert not fail(outlier, targets[1], 0, targets, 5)
    assert fail(outlier, targets[1], 30, targets)


@pytest.mark.parametrize(("attribute", "value"), [("healthy", False), ("draining", True), ("weight", 0)])
def test_the_last_target_that_others_cannot_stand_in_for_stays(attribute: str, value: object) -> None:
    targets = make_targets(1, 1)
    setattr(targets[1], attribute, value)
    assert not fail(Outlier(1, 30, 0.5), targets[0], 0, targets)


def test_targets_out_of_rotation_do_not_raise_the_ceiling() -> None:
    targets = make_targets(1, 1, 1, 0, 0, 0)
    outlier = Outlier(1, 30, 0.5)
    assert [fail(outlier, target, 0, targets) for target in targets[:3]] == [True, False, False]


@given(
    count=st.integers(1, 8),
    max_ejected=st.floats(0, 1),
    events=st.lists(st.tuples(st.integers(0, 7), st.booleans(), st.floats(0, 40)), max_size=80),
)
def test_the_ceiling_holds_whatever_happens(
    count: int, max_ejected: float, events: list[tuple[int, bool, float]]
) -> None:
    targets = make_targets(*[1] * count)
    outlier = Outlier(2, 30, max_ejected)
    now = 0.0
    for index, success, pause in events:
        now += pause
        target = targets[index % count]
        was_out = target.ejected_until > now
        told = outlier.record(target, success, now, targets)
        assert told == (not was_out and target.ejected_until > now)
        out = sum(other.ejected_until > now for other in targets)
        assert out <= max(1, max_ejected * count + 1e-9)
        assert out < count
