"""Whether a failed attempt may be repeated, after which pause, and how many repeats a service bears at once.

Called by the proxy between two attempts. It decides; it neither waits nor sends. The rule that stands above
all configuration: a request that a target may have acted on is sent again only if its method is idempotent
(RFC 9110 section 9.2.2) and its body can be sent again. One that no target has seen goes on to the next.
"""

import math
import random
from collections.abc import Callable, Iterable

from gatewright.core.errors import GatewayError, Reason, Retry

# RFC 9110 section 9.2.2: the safe methods, PUT and DELETE.
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})

# What `retry.on` may name for failures of a target that may have seen the request. A total timeout is absent:
# no time is left. So are malformed answers: the target answered, and would again.
CONDITIONS: dict[Reason, str] = {
    Reason.UPSTREAM_RESET: "reset",
    Reason.UPSTREAM_TRUNCATED: "reset",
    Reason.RESPONSE_TIMEOUT: "timeout",
    Reason.IDLE_TIMEOUT: "timeout",
}
CONNECT_FAILURE = "connect_failure"
DEFAULT_ON = frozenset({CONNECT_FAILURE, "reset", "502", "503", "504"})


def check_condition(token: str) -> str:
    """Return `token` if `retry.on` may name it: connect_failure, reset, timeout or a status from 400 to 599.

    Raises ValueError otherwise.
    """
    if token == CONNECT_FAILURE or token in CONDITIONS.values():
        return token
    if len(token) == 3 and token.isascii() and token.isdigit() and token[0] in "45":
        return token
    raise ValueError(f"{token!r} is nothing to retry on: use connect_failure, reset, timeout or a status, 400 to 599")


class RetryBudget:
    """Bounds the retries that are on their way at the same time, so that retries never multiply an outage.

    Envoy's rule: at most `fraction` of the service's active requests, but `minimum` in any case.
    """

    __slots__ = ("fraction", "in_use", "minimum")

    def __init__(self, fraction: float = 0.2, minimum: int = 3) -> None:
        """`fraction` from 0 to 1."""
        self.fraction = fraction
        self.minimum = minimum
        self.in_use = 0

    def acquire(self, active: int) -> bool:
        """Take a retry's place while the service has `active` requests; after True, `release` it."""
        if self.in_use >= self.minimum and self.in_use >= int(self.fraction * active + 1e-9):
            return False
        self.in_use += 1
        return True

    def release(self) -> None:
        """Give back what `acquire` gave."""
        assert self.in_use > 0, "a retry was released that was never acquired"
        self.in_use -= 1


class RetryPolicy:
    """A service's rules for retries. Its `budget` is for all exchanges; the proxy takes and returns it."""

    __slots__ = ("attempts", "base", "budget", "cap", "on")

    def __init__(
        self,
        attempts: int = 1,
        on: Iterable[str] = DEFAULT_ON,
        budget: float = 0.2,
        base: float = 0.025,
        cap: float = 0.25,
    ) -> None:
        """`attempts` after the first, 0: none; `budget`: fraction of active requests; `base`, `cap`: seconds.

        Raises ValueError for an `on` that `check_condition` refuses.
        """
        self.attempts = attempts
        self.on = frozenset(check_condition(token) for token in on)
        self.budget = RetryBudget(budget)
        self.base = base
        self.cap = cap

    def may_go_on(self, error: GatewayError) -> bool:
        """Tell whether a request may go on at once to a target that it has not met: nothing of it was sent.

        That takes nothing of `attempts` or of the budget. They keep a service from being asked more often than
        its clients ask, and a request that goes on is received by one target in the end. Each is met once, so
        their number bounds it, and the time that is left; nginx does the same.
        """
        return error.retry is Retry.SAFE and self.attempts > 0 and CONNECT_FAILURE in self.on

    def may_retry(
        self,
        request_method: str,
        replayable: bool,
        error: GatewayError | None,
        status: int | None,
        attempt_number: int,
    ) -> bool:
        """Tell whether another attempt may follow the `attempt_number`-th (1 is the first).

        `error` is what ended the attempt, or None when it brought an answer with `status`; `replayable`: the
        whole request body is at hand. `Retry.SAFE` promises that neither target nor gateway has touched the
        body, so there it need not be. The budget and the time that is left are asked by the caller, after
        this.
        """
        if attempt_number > self.attempts:
            return False
        if error is not None:
            if error.retry is Retry.SAFE and CONNECT_FAILURE in self.on:
                return True
            if error.retry is Retry.NEVER or CONDITIONS.get(error.reason) not in self.on:
                return False
        elif status is None or str(status) not in self.on:
            return False
        return replayable and request_method in IDEMPOTENT_METHODS

    def backoff(self, n: int, rng: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait before the `n`-th retry (1 is the first): up to base * 2^(n-1), capped.

        `rng` returns numbers from 0 to 1: full jitter, which spreads the retries of many exchanges best.
        """
        return rng() * min(self.cap, math.ldexp(self.base, min(n - 1, 30)))


def may_replay(
    request_method: str, replayable: bool, error: GatewayError, reused: bool, answered: bool, replayed: bool
) -> bool:
    """Tell whether an attempt that met a stale connection may be made again at once, on a new connection.

    A target may close a kept-alive connection in the moment in which a request is sent on it (RFC 9112
    section 9.3.1). That is nobody's fault, so such a replay is no retry: it needs no `retry` configuration,
    takes nothing of `attempts` or of the budget, waits for nothing, and neither breaker nor outlier hears of
    it. It is bounded by being made once an attempt (`replayed`: it was), on a connection that is new: that
    one cannot be stale. `reused`: the connection had served before; `answered`: a byte of an answer came, so
    it was not stale. The method must be idempotent and the body replayable, unless nothing at all was sent
    (`Retry.SAFE`).
    """
    if not reused or answered or replayed:
        return False
    if error.retry is Retry.SAFE:
        return True
    if error.retry is Retry.NEVER or error.reason is not Reason.UPSTREAM_RESET:
        return False
    return replayable and request_method in IDEMPOTENT_METHODS
