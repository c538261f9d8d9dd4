"""Every balancer keeps its promise about shares, and all of them the same rule about who may be picked."""

import random
import sys
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.core.errors import Reason
from gatewright.upstream.balancers import (
    P2C,
    Balancer,
    LeastRequests,
    RoundRobin,
    Weighted,
    candidates,
    make_balancer,
    unavailable,
)
from gatewright.upstream.target import Target
from tests.upstream.build import make_exchange, make_targets, numbers, open_breaker

KINDS = {
    "round_robin": {},
    "weighted": {},
    "least_requests": {},
    "p2c": {},
    "hash": {"by": "header:x-user"},
    "sticky": {"cookie": "route"},
}
ANY_KIND = pytest.mark.parametrize("kind", KINDS)


def balancer(kind: str) -> Balancer:
    return make_balancer(kind, **KINDS[kind])


def picks(by: Balancer, targets: Sequence[Target], count: int, now: float = 0) -> Counter[int]:
    """Count by index who gets `count` attempts of different users."""
    index = {target: n for n, target in enumerate(targets)}
    picked = [by.pick(targets, make_exchange(x_user=f"user-{n}"), now) for n in range(count)]
    return Counter(index[target] for target in picked if target is not None)


def put(target: Target, trouble: str) -> None:
    """Bring `target` into `trouble` until the time 10."""
    match trouble:
        case "unhealthy":
            target.healthy = False
        case "draining":
            target.draining = True
        case "weightless":
            target.weight = 0
        case "ejected":
            target.ejected_until = 10
        case "open":
            target.breaker = open_breaker(10)


@ANY_KIND
@pytest.mark.parametrize("trouble", ["unhealthy", "draining", "weightless", "ejected", "open"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_targets_in_trouble_are_left_out(kind: str, trouble: str, count: int) -> None:
    targets = make_targets(*[1] * count)
    put(targets[0], trouble)
    assert set(picks(balancer(kind), targets, 200)) == set(range(1, count))


@ANY_KIND
@pytest.mark.parametrize("trouble", ["unhealthy", "draining", "weightless", "open"])
@pytest.mark.parametrize("count", [1, 3])
def test_nothing_is_picked_when_all_are_in_such_trouble(kind: str, trouble: str, count: int) -> None:
    targets = make_targets(*[1] * count)
    for target in targets:
        put(target, trouble)
    assert not picks(balancer(kind), targets, 20)


@ANY_KIND
def test_without_targets_nothing_is_picked(kind: str) -> None:
    assert balancer(kind).pick([], make_exchange(x_user="u"), 0) is None


@ANY_KIND
@pytest.mark.parametrize("count", [1, 3])
def test_ejection_of_all_is_ignored(kind: str, count: int) -> None:
    targets = make_targets(*[1] * count)
    for target in targets:
        put(target, "ejected")
    assert set(picks(balancer(kind), targets, 200)) == set(range(count))


@ANY_KIND
def test_works_without_a_request(kind: str) -> None:
    targets = make_targets(1, 1)
    assert balancer(kind).pick(targets, None, 0) in targets


@ANY_KIND
def test_tried_targets_are_left_out_while_others_remain(kind: str) -> None:
    by, targets = balancer(kind), make_targets(1, 1, 1)
    for n in range(50):
        exchange = make_exchange(x_user=f"user-{n}")
        tried: list[Target] = []
        for _ in targets:
            picked = by.pick(targets, exchange, 0, tried)
            assert picked is not None
            tried.append(picked)
        assert set(tried) == set(targets)
        assert by.pick(targets, exchange, 0, tried) in targets
        put(targets[0], "unhealthy")
        assert by.pick(targets, exchange, 0, targets[1:]) in targets[1:]
        targets[0].healthy = True


@ANY_KIND
def test_picking_takes_no_probe(kind: str) -> None:
    targets = make_targets(1)
    put(targets[0], "open")
    by = balancer(kind)
    for _ in range(5):
        assert by.pick(targets, make_exchange(x_user="u"), 10) is targets[0]


@pytest.mark.parametrize(
    ("troubles", "expected"),
    [
        ("....", "0123"),
        ("e...", "123"),
        ("ee..", "23"),  # half are left: no panic
        ("eee.", "0123"),  # less than half: ejections are ignored
        ("ue..", "23"),
        ("uee.", "123"),  # checks and ejections together: panic, but the unhealthy one stays out
        ("uue.", "23"),
        ("uuu.", "3"),
        ("uuue", "3"),
        ("uuuu", ""),
        ("de..", "23"),  # draining ones are not in rotation: two of three are left
        ("dde.", "3"),
        ("we..", "23"),
        ("oo..", "23"),  # an open circuit is no reason for panic
        ("oooo", ""),
        ("oooe", "3"),  # an ejection alone never makes a 503
        ("eeeo", "012"),  # nor does panic ask whom a breaker protects
        ("oe", "1"),
        (".e", "0"),
        ("e", "0"),
        ("d", ""),
        ("", ""),
    ],
)
def test_panic_rule(troubles: str, expected: str) -> None:
    words = {"e": "ejected", "u": "unhealthy", "d": "draining", "w": "weightless", "o": "open"}
    targets = make_targets(*[1] * len(troubles))
    for target, letter in zip(targets, troubles, strict=True):
        if letter != ".":
            put(target, words[letter])
    assert candidates(targets, 0) == [targets[int(n)] for n in expected]


def test_trouble_ends_when_its_time_is_over() -> None:
    targets = make_targets(1, 1)
    put(targets[0], "ejected")
    put(targets[1], "open")
    assert candidates(targets, 9.9) == targets[:1]
    assert candidates(targets, 10) == targets


@pytest.mark.parametrize(
    ("troubles", "reason", "retry_after"),
    [
        (["unhealthy", "unhealthy"], Reason.NO_HEALTHY_TARGET, 1),
        (["open", "open"], Reason.CIRCUIT_OPEN, 6),
        (["unhealthy", "open"], Reason.CIRCUIT_OPEN, 6),
        ([], Reason.NO_HEALTHY_TARGET, 1),
    ],
)
def test_unavailable_says_why_and_for_how_long(troubles: list[str], reason: Reason, retry_after: int) -> None:
    targets = make_targets(*[1] * len(troubles))
    for target, trouble in zip(targets, troubles, strict=True):
        put(target, trouble)
    error = unavailable(targets, 4.5)
    assert (error.reason, error.retry_after) == (reason, retry_after)


def test_unavailable_tells_the_shortest_wait() -> None:
    targets = make_targets(1, 1)
    targets[0].breaker, targets[1].breaker = open_breaker(40), open_breaker(20)
    assert unavailable(targets, 0).retry_after == 20


def test_an_unhealthy_target_with_an_open_circuit_counts_as_unhealthy() -> None:
    targets = make_targets(1)
    put(targets[0], "open")
    put(targets[0], "unhealthy")
    assert unavailable(targets, 0).reason is Reason.NO_HEALTHY_TARGET


def test_round_robin_goes_in_turn() -> None:
    targets, by = make_targets(1, 5, 1), RoundRobin()
    assert [by.pick(targets, None, 0) for _ in range(6)] == targets * 2


@pytest.mark.parametrize("out", [(0,), (1,), (0, 1), (1, 3), (0, 2)])
def test_round_robin_spreads_the_share_of_who_is_out_evenly(out: tuple[int, ...]) -> None:
    targets = make_targets(1, 1, 1, 1, 1, 1)
    for n in out:
        put(targets[n], "ejected")
    shares = picks(RoundRobin(), targets, 600)
    assert set(shares) == set(range(6)) - set(out)
    assert max(shares.values()) - min(shares.values()) <= 1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any))
def test_weighted_is_exact_over_each_full_round(weights: list[int]) -> None:
    targets, by = make_targets(*weights), Weighted()
    expected = Counter({n: weight for n, weight in enumerate(weights) if weight})
    for _ in range(3):
        assert picks(by, targets, sum(weights)) == expected


def test_weighted_is_smooth() -> None:
    targets, by = make_targets(5, 1, 1), Weighted()
    order = [targets.index(picked) for _ in range(7) if (picked := by.pick(targets, None, 0)) is not None]
    assert order == [0, 0, 1, 0, 2, 0, 0]  # the sequence of nginx's documentation, not 0000012


def test_weighted_forgets_targets_that_left() -> None:
    targets, by = make_targets(3, 1), Weighted()
    references = sys.getrefcount(targets[0])
    picks(by, targets, 5)
    assert picks(by, make_targets(3, 1), 400) == Counter({0: 300, 1: 100})
    after = sys.getrefcount(targets[0])  # outside of the assert, which holds one itself
    assert after == references


@pytest.mark.parametrize("kind", ["least_requests", "p2c"])
def test_the_less_loaded_of_two_gets_it(kind: str) -> None:
    targets = make_targets(1, 3)
    targets[0].in_flight, targets[1].in_flight = 2, 5  # 2 against 1.67 for its weight
    assert picks(make_balancer(kind), targets, 50) == Counter({1: 50})
    targets[1].in_flight = 7
    assert picks(make_balancer(kind), targets, 50) == Counter({0: 50})


def test_least_requests_finds_the_minimum_of_all() -> None:
    targets = make_targets(1, 1, 1, 1)
    for target, load in zip(targets, [4, 2, 9, 3], strict=True):
        target.in_flight = load
    assert LeastRequests().pick(targets, None, 0) is targets[1]


@pytest.mark.parametrize(("number", "index"), [(0.0, 0), (0.24, 0), (0.26, 1), (0.99, 1), (1 - 2**-53, 1)])
def test_least_requests_draws_equals_by_weight(number: float, index: int) -> None:
    targets = make_targets(1, 3, 1)
    targets[2].in_flight = 1
    assert LeastRequests(numbers([number])).pick(targets, None, 0) is targets[index]


@pytest.mark.parametrize("draws", [(0.0, 0.0), (0.5, 0.9), (1 - 2**-53, 1 - 2**-53), (0.0, 1 - 2**-53)])
def test_p2c_compares_two_different_targets(draws: tuple[float, float]) -> None:
    targets = make_targets(1, 1, 1)
    first = P2C(numbers(draws)).pick(targets, None, 0)
    assert first is not None
    first.in_flight = 1
    assert P2C(numbers(draws)).pick(targets, None, 0) is not first


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (3, 1)])
def test_p2c_without_load_shares_by_weight(weights: tuple[int, ...]) -> None:
    targets = make_targets(*weights)
    shares = picks(P2C(random.Random(7).random), targets, 4000)
    for n, weight in enumerate(weights):
        assert shares[n] == pytest.approx(4000 * weight / sum(weights), rel=0.1)


def test_p2c_keeps_targets_even_under_load() -> None:
    targets, by = make_targets(1, 1, 1, 1, 2), P2C(random.Random(7).random)
    for _ in range(600):
        picked = by.pick(targets, None, 0)
        assert picked is not None
        picked.in_flight += 1
    loads = [target.in_flight / target.weight for target in targets]
    assert max(loads) - min(loads) <= 8  # drawing one at random strays by about 25


def test_p2c_in_trouble_still_compares_two() -> None:
    targets = make_targets(1, 1, 1)
    put(targets[0], "unhealthy")
    targets[1].in_flight = 1
    assert picks(P2C(), targets, 100) == Counter({2: 100})
    targets[0].healthy = True
    assert {P2C().pick(targets, None, 0, targets[:1]) for _ in range(100)} == {targets[2]}


def test_p2c_with_one_target_draws_nothing() -> None:
    targets = make_targets(1)
    assert P2C(numbers([])).pick(targets, None, 0) is targets[0]


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("random", {}, "p2c"),
        ("hash", {"by": "header"}, "header:<name>"),
        ("hash", {"by": "header:"}, "header:<name>"),
        ("hash", {"by": "header:a b"}, "header:<name>"),
        ("hash", {"by": "body"}, "client_ip"),
        ("sticky", {"cookie": "a b"}, "cookie's name"),
        ("sticky", {"cookie": ""}, "cookie's name"),
        ("sticky", {"cookie": "a=b;c"}, "cookie's name"),
    ],
)
def test_what_is_not_known_is_refused(kind: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_balancer(kind, **options)
