"""hash and sticky: the same client finds the same target, and loses it only when it must."""

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.core.exchange import Exchange
from gatewright.upstream.balancers import SET_COOKIE, Hash, Sticky
from gatewright.upstream.target import Target
from tests.upstream.build import make_exchange, make_targets, numbers

KEYS = [f"user-{n}" for n in range(3000)]


def owners(targets: list[Target], now: float = 0) -> dict[str, Target | None]:
    by = Hash("header:x-user")
    return {key: by.pick(targets, make_exchange(x_user=key), now) for key in KEYS}


@pytest.mark.parametrize("weights", [(1, 1, 1, 1, 1), (1, 2, 3), (1, 9), (10, 10, 0)])
def test_hash_spreads_by_weight(weights: tuple[int, ...]) -> None:
    targets = make_targets(*weights)
    counts = Counter(owners(targets).values())
    for target in targets:
        share = len(KEYS) * target.weight / sum(weights)
        assert abs(counts[target] - share) <= 4 * share**0.5  # four standard deviations


@given(count=st.integers(2, 7), gone=st.integers(0, 6), data=st.data())
def test_removing_a_target_moves_its_keys_only(count: int, gone: int, data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
    targets = make_targets(*weights)
    left = targets[gone % count]
    rest = [target for target in targets if target is not left]
    by = Hash("header:x-user")
    for key in data.draw(st.lists(st.text("abcdefgh-0123", min_size=1), min_size=20, max_size=40)):
        exchange = make_exchange(x_user=key)
        before, after = by.pick(targets, exchange, 0), by.pick(rest, exchange, 0)
        assert after is before or before is left


@pytest.mark.parametrize("trouble", [("healthy", False), ("draining", True), ("ejected_until", 5), ("weight", 0)])
def test_a_target_out_of_order_spreads_its_keys_and_gets_them_back(trouble: tuple[str, object]) -> None:
    targets = make_targets(1, 1, 1, 1)
    before = owners(targets)
    good = getattr(targets[0], trouble[0])
    setattr(targets[0], *trouble)
    during = owners(targets)
    assert all(during[key] is before[key] for key in KEYS if before[key] is not targets[0])
    heirs = Counter(during[key] for key in KEYS if before[key] is targets[0])
    assert set(heirs) == set(targets[1:])
    assert max(heirs.values()) < 2 * min(heirs.values())
    setattr(targets[0], trouble[0], good)
    assert owners(targets) == before


def test_hash_does_not_depend_on_the_order_of_targets() -> None:
    targets = make_targets(1, 2, 3)
    assert owners(targets) == owners(targets[::-1])


def test_hash_is_the_same_in_every_process() -> None:
    script = (
        "from tests.upstream.build import make_exchange, make_targets\n"
        "from gatewright.upstream.balancers import Hash\n"
        "targets, by = make_targets(1, 1, 2), Hash('path')\n"
        "for n in range(40):\n"
        "    print(targets.index(by.pick(targets, make_exchange(f'/{n}'), 0)), end='')"
    )
    targets, by = make_targets(1, 1, 2), Hash("path")
    picked = [by.pick(targets, make_exchange(f"/{n}"), 0) for n in range(40)]
    ours = "".join(str(targets.index(target)) for target in picked if target is not None)
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        assert run.stdout == ours


@pytest.mark.parametrize(
    ("by", "same", "different"),
    [
        ("header:X-User", [{"x_user": "a"}, {"x_user": "a", "address": "192.0.2.9"}], "x_user"),
        (
            "cookie:sid",
            [{"cookie": "sid=a"}, {"cookie": "x=1; sid=a ; y=sid=2"}, {"cookie": " sid = a"}],
            "cookie",
        ),
        ("client_ip", [{"x_user": "a"}, {"x_user": "b", "path": "/b"}], "address"),
        ("path", [{"path": "/a"}, {"path": "/a", "address": "192.0.2.9"}], "path"),
    ],
)
def test_hash_reads_the_key_it_was_told(by: str, same: list[dict[str, str]], different: str) -> None:
    targets, balancer = make_targets(*[1] * 8), Hash(by)
    assert len({balancer.pick(targets, make_exchange(**told), 0) for told in same}) == 1
    prefix = {"x_user": "u", "cookie": "sid=", "address": "192.0.2.", "path": "/"}[different]
    others = {balancer.pick(targets, make_exchange(**{different: f"{prefix}{n}"}), 0) for n in range(60)}
    assert others == set(targets)


@pytest.mark.parametrize(
    ("by", "request_fields"),
    [
        ("header:x-user", {}),
        ("header:x-user", {"x_user": ""}),
        ("cookie:sid", {}),
        ("cookie:sid", {"cookie": "sidx=1; xsid=2; sid"}),
        ("client_ip", {"address": ""}),
    ],
)
def test_without_a_key_the_load_decides(by: str, request_fields: dict[str, str]) -> None:
    targets, balancer = make_targets(1, 1), Hash(by)
    for idle, busy in [targets, targets[::-1]]:
        idle.in_flight, busy.in_flight = 0, 1
        assert balancer.pick(targets, make_exchange(**request_fields), 0) is idle


def test_a_key_of_any_bytes_has_a_target() -> None:
    targets = make_targets(1, 1)
    assert Hash("header:x-user").pick(targets, make_exchange(x_user="\xff\x80 é"), 0) in targets


def sticky(ttl: float = 0, key: bytes = b"secret", *draws: float) -> Sticky:
    return Sticky("route", ttl, key, numbers(draws or (0.0,)))


def returning(by: Sticky, target: Target, scheme: str = "http") -> Exchange:
    """Return the next request of a client that was bound to `target`."""
    return make_exchange(cookie="theme=dark; " + by.set_cookie_for(target).partition(";")[0], scheme=scheme)


def test_a_new_client_is_told_where_it_belongs_and_stays_there() -> None:
    targets, by = make_targets(1, 1, 1), sticky()
    first = make_exchange()
    target = by.pick(targets, first, 0)
    assert target is not None
    assert first.state[SET_COOKIE] == by.set_cookie_for(target)
    target.in_flight = 100
    second = make_exchange(cookie=first.state[SET_COOKIE].partition(";")[0])
    assert by.pick(targets, second, 0) is target
    assert SET_COOKIE not in second.state


@pytest.mark.parametrize("cookie", ["route=", "route=nonsense", "route", "routed=1", "route=127.0.0.1:8001"])
def test_a_cookie_that_names_no_target_is_replaced(cookie: str) -> None:
    targets, by = make_targets(1, 1), sticky()
    exchange = make_exchange(cookie=cookie)
    assert by.pick(targets, exchange, 0) in targets
    assert SET_COOKIE in exchange.state


def test_a_client_whose_target_is_out_moves() -> None:
    targets, by = make_targets(1, 1), sticky()
    exchange = returning(by, targets[0])
    targets[0].healthy = False
    assert by.pick(targets, exchange, 0) is targets[1]
    assert exchange.state[SET_COOKIE] == by.set_cookie_for(targets[1])


def test_a_retry_moves_the_client_and_a_return_does_not() -> None:
    targets, by = make_targets(1, 1), sticky()
    exchange = returning(by, targets[0])
    assert by.pick(targets, exchange, 0) is targets[0]
    assert by.pick(targets, exchange, 0, [targets[0]]) is targets[1]
    assert exchange.state[SET_COOKIE] == by.set_cookie_for(targets[1])
    assert by.pick(targets, exchange, 0, targets) is targets[0]
    assert SET_COOKIE not in exchange.state


def test_in_panic_a_client_keeps_its_ejected_target() -> None:
    targets, by = make_targets(1, 1, 1), sticky()
    for target in targets[:2]:
        target.ejected_until = 10
    exchange = returning(by, targets[0])
    assert by.pick(targets, exchange, 0) is targets[0]
    assert SET_COOKIE not in exchange.state


def test_nothing_to_pick_sets_no_cookie() -> None:
    targets, by = make_targets(1), sticky()
    targets[0].healthy = False
    exchange = returning(by, targets[0])
    assert by.pick(targets, exchange, 0) is None
    assert SET_COOKIE not in exchange.state


@pytest.mark.parametrize(
    ("ttl", "secure", "rest"),
    [
        (0, False, ""),
        (3600, False, "; Max-Age=3600"),
        (0.5, False, "; Max-Age=1"),
        (60, True, "; Max-Age=60; Secure"),
    ],
)
def test_the_cookie(ttl: float, secure: bool, rest: str) -> None:
    (target,) = make_targets(1)
    value, _, attributes = sticky(ttl).set_cookie_for(target, secure).partition("; ")
    assert attributes == "Path=/; HttpOnly; SameSite=Lax" + rest
    name, _, token = value.partition("=")
    assert name == "route"
    assert len(token) == 16
    assert set(token) <= set("0123456789abcdef")


def test_the_cookie_is_secure_where_the_client_is() -> None:
    exchange = make_exchange(scheme="https")
    sticky().pick(make_targets(1, 1), exchange, 0)
    assert exchange.state[SET_COOKIE].endswith("; Secure")


def test_the_value_depends_on_the_key_and_on_nothing_else() -> None:
    (target,) = make_targets(1)
    (again,) = make_targets(1)
    assert sticky().set_cookie_for(target) == sticky().set_cookie_for(again)
    others = {sticky(key=key).set_cookie_for(target) for key in (b"", b"a", b"a" * 64, b"a" * 1000)}
    assert len(others | {sticky().set_cookie_for(target)}) == 5
