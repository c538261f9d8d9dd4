"""Retries: only where they are safe, within the budget, after a pause that chance spreads."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.core.errors import (
    GatewayError,
    Reason,
    ResponseError,
    Retry,
    ServiceUnavailable,
    UpstreamError,
)
from gatewright.upstream.retry import RetryBudget, RetryPolicy, check_condition, may_replay

METHODS = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "POST", "PATCH", "get", "PROPFIND", "CONNECT"]
IDEMPOTENT = set(METHODS[:6])
EVERYTHING = ["connect_failure", "reset", "timeout", "502", "503", "504"]


def error(reason: Reason, retry: Retry) -> UpstreamError:
    return UpstreamError(reason, "the target", retry)


REFUSED = error(Reason.CONNECT_FAILED, Retry.SAFE)
RESET = error(Reason.UPSTREAM_RESET, Retry.IDEMPOTENT)
SLOW = error(Reason.RESPONSE_TIMEOUT, Retry.IDEMPOTENT)


@pytest.mark.parametrize(("method", "replayable"), list(product(METHODS, [True, False])))
def test_what_no_target_saw_is_retried_for_any_method(method: str, replayable: bool) -> None:
    assert RetryPolicy().may_retry(method, replayable, REFUSED, None, 1)
    assert not RetryPolicy(on=["reset", "502"]).may_retry(method, replayable, REFUSED, None, 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("replayable", [True, False])
@pytest.mark.parametrize(("failure", "status"), [(RESET, None), (SLOW, None), (None, 502)])
def test_what_a_target_may_have_acted_on_is_retried_only_where_that_is_safe(
    method: str, replayable: bool, failure: GatewayError | None, status: int | None
) -> None:
    policy = RetryPolicy(on=EVERYTHING)
    assert policy.may_retry(method, replayable, failure, status, 1) == (replayable and method in IDEMPOTENT)


@pytest.mark.parametrize(
    ("failure", "on", "allowed"),
    [
        (RESET, "reset", True),
        (RESET, "timeout", False),
        (error(Reason.UPSTREAM_TRUNCATED, Retry.IDEMPOTENT), "reset", True),
        (SLOW, "timeout", True),
        (SLOW, "reset", False),
        (error(Reason.IDLE_TIMEOUT, Retry.IDEMPOTENT), "timeout", True),
        (error(Reason.TOTAL_TIMEOUT, Retry.IDEMPOTENT), "timeout", False),
        (error(Reason.APP_FAILED, Retry.IDEMPOTENT), "reset", False),
        (error(Reason.UPSTREAM_RESET, Retry.NEVER), "reset", False),
        (error(Reason.CONNECT_TIMEOUT, Retry.SAFE), "connect_failure", True),
        (error(Reason.CONNECT_TIMEOUT, Retry.SAFE), "timeout", False),
        (error(Reason.DNS_FAILED, Retry.SAFE), "connect_failure", True),
        (error(Reason.UPSTREAM_RESET, Retry.SAFE), "connect_failure", True),  # it closed before anything was sent
        (error(Reason.UPSTREAM_RESET, Retry.SAFE), "reset", True),
        (error(Reason.UPSTREAM_RESET, Retry.SAFE), "timeout", False),
        (ResponseError(Reason.UPSTREAM_MALFORMED, "malformed"), "reset", False),
        (ServiceUnavailable(Reason.OVERLOADED, "full", 1), "503", False),
    ],
)
def test_each_error_answers_to_one_condition(failure: GatewayError, on: str, allowed: bool) -> None:
    assert RetryPolicy(on=[on]).may_retry("GET", True, failure, None, 1) is allowed


def test_an_error_outweighs_the_status_that_came_before_it() -> None:
    assert not RetryPolicy(on=["502"]).may_retry("GET", True, RESET, 502, 1)


@pytest.mark.parametrize(("status", "allowed"), [(502, True), (503, True), (504, True), (500, False), (200, False)])
def test_statuses_by_default(status: int, allowed: bool) -> None:
    assert RetryPolicy().may_retry("GET", True, None, status, 1) is allowed


def test_timeouts_are_not_retried_by_default() -> None:
    assert not RetryPolicy().may_retry("GET", True, SLOW, None, 1)


@pytest.mark.parametrize(
    ("attempts", "number", "allowed"),
    [(0, 1, False), (1, 1, True), (1, 2, False), (3, 3, True), (3, 4, False)],
)
def test_attempts_are_those_after_the_first(attempts: int, number: int, allowed: bool) -> None:
    assert RetryPolicy(attempts).may_retry("POST", False, REFUSED, None, number) is allowed


@pytest.mark.parametrize(("failure", "allowed"), [(REFUSED, True), (RESET, False), (SLOW, False)])
def test_what_no_target_saw_may_go_on_to_the_next(failure: GatewayError, allowed: bool) -> None:
    assert RetryPolicy().may_go_on(failure) is allowed
    assert not RetryPolicy(attempts=0).may_go_on(failure)
    assert not RetryPolicy(on=["reset", "timeout"]).may_go_on(failure)


@pytest.mark.parametrize("token", ["connect_failure", "reset", "timeout", "400", "429", "502", "599"])
def test_conditions_that_exist(token: str) -> None:
    assert check_condition(token) == token


@pytest.mark.parametrize("token", ["", "resets", "200", "600", "5xx", "50", "5020", "\uff15\uff10\uff12", "RESET"])
def test_conditions_that_do_not_exist_are_refused(token: str) -> None:
    with pytest.raises(ValueError, match="connect_failure, reset, timeout or a status"):
        RetryPolicy(on=[token])


@pytest.mark.parametrize(
    ("n", "ceiling"), [(1, 0.025), (2, 0.05), (3, 0.1), (4, 0.2), (5, 0.25), (6, 0.25), (10_000, 0.25)]
)
def test_backoff_doubles_up_to_its_cap(n: int, ceiling: float) -> None:
    assert RetryPolicy().backoff(n, lambda: 1.0) == pytest.approx(ceiling)
    assert RetryPolicy().backoff(n, lambda: 0.5) == pytest.approx(ceiling / 2)
    assert RetryPolicy().backoff(n, lambda: 0.0) == 0


@pytest.mark.parametrize(
    ("active", "allowed"), [(0, 3), (1, 3), (15, 3), (19, 3), (20, 4), (100, 20), (104, 20), (105, 21)]
)
def test_budget_is_a_fraction_but_never_under_its_minimum(active: int, allowed: int) -> None:
    budget = RetryBudget(0.2, 3)
    assert sum(budget.acquire(active) for _ in range(200)) == allowed


def test_a_policy_has_the_budget_it_was_given() -> None:
    policy = RetryPolicy(budget=0.5)
    assert sum(policy.budget.acquire(100) for _ in range(200)) == 50


@given(
    fraction=st.floats(0, 1),
    minimum=st.integers(0, 5),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 200)), max_size=100),
)
def test_budget_is_never_negative_and_never_exceeded(
    fraction: float, minimum: int, steps: list[tuple[bool, int]]
) -> None:
    budget = RetryBudget(fraction, minimum)
    held = 0
    for take, active in steps:
        if take:
            if budget.acquire(active):
                held += 1
                assert held <= max(minimum, fraction * active + 1e-6)
        elif held:
            budget.release()
            held -= 1
        assert budget.in_use == held >= 0


def test_releasing_what_was_never_acquired_is_noticed() -> None:
    with pytest.raises(AssertionError, match="never acquired"):
        RetryBudget().release()


@pytest.mark.parametrize(
    ("method", "replayable", "failure", "reused", "answered", "replayed", "allowed"),
    [
        ("GET", True, RESET, True, False, False, True),
        ("POST", True, RESET, True, False, False, False),
        ("GET", False, RESET, True, False, False, False),
        ("GET", True, RESET, False, False, False, False),
        ("GET", True, RESET, True, True, False, False),
        ("GET", True, RESET, True, False, True, False),
        ("GET", True, SLOW, True, False, False, False),
        ("GET", True, error(Reason.UPSTREAM_RESET, Retry.NEVER), True, False, False, False),
        ("POST", False, error(Reason.UPSTREAM_RESET, Retry.SAFE), True, False, False, True),
        ("POST", False, error(Reason.UPSTREAM_RESET, Retry.SAFE), True, False, True, False),
    ],
)
def test_a_stale_connection_is_replayed_once(
    method: str,
    replayable: bool,
    failure: GatewayError,
    reused: bool,
    answered: bool,
    replayed: bool,
    allowed: bool,
) -> None:
    assert may_replay(method, replayable, failure, reused, answered, replayed) is allowed
