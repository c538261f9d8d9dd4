"""A service at run time: its targets, and what holds for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from gatewright.core.errors import GatewayError, Reason, ResponseError, ServiceUnavailable, UpstreamError
from gatewright.core.exchange import Exchange
from gatewright.upstream.balancers import Balancer, candidates, unavailable
from gatewright.upstream.outlier import Outlier
from gatewright.upstream.retry import RetryPolicy
from gatewright.upstream.target import Target


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: `connect` for a connection; `response` from the request's last byte to the answer's head; `idle` between
    two pieces of an answer's body; `total` from the request's head to the answer's, all tries included; `tunnel` that a
    tunnel may carry nothing."""

    connect: float = 3.0
    response: float = 30.0
    idle: float = 60.0
    total: float = 60.0
    tunnel: float = 3600.0


class Service:
    """A logical backend."""

    def __init__(
        self,
        name: str,
        targets: Sequence[Target],
        balancer: Balancer,
        *,
        timeouts: Timeouts,
        retry: RetryPolicy,
        outlier: Outlier | None,
        max_in_flight: int,
        host: str = "preserve",
    ) -> None:
        """`host`: which Host targets see: "preserve" the client's, "target" their own, else this very text."""
        self.name = name
        self.targets = list(targets)
        self.balancer = balancer
        self.timeouts = timeouts
        self.retry = retry
        self.outlier = outlier
        self.max_in_flight = max_in_flight
        self.host = host
        self.in_flight = 0

    def pick(self, exchange: Exchange, now: float, tried: Sequence[Target]) -> Target:
        """Return the target of the next attempt. Raises ServiceUnavailable when there is none."""
        target = self.balancer.pick(self.targets, exchange, now, tried)
        if target is None:
            raise unavailable(self.targets, now)
        return target

    def has_another(self, now: float, tried: Sequence[Target]) -> bool:
        """Tell whether `pick` has a target that is not among those that were tried."""
        return any(target not in tried for target in candidates(self.targets, now, tried))

    def judge(self, target: Target, failed: bool, now: float, started: float) -> None:
        """Take the verdict on an attempt that began at `started`: it moves breaker and outlier ejection."""
        if target.breaker is not None:
            target.breaker.record(not failed, now, started)
        if self.outlier is not None and (failed or target.consecutive_failures):
            self.outlier.record(target, not failed, now, self.targets)

    def host_for(self, target: Target, client_host: bytes) -> bytes:
        """Return the Host field for a request to `target`; `client_host` is empty with HTTP/1.0 clients."""
        if self.host == "preserve" and client_host:
            return client_host
        return own_host(self.host, target).encode("latin-1")


def own_host(host: str, target: Target) -> str:
    """Return the Host field for a request to `target` that no client's Host is preserved in; `host` as configured."""
    if host not in ("target", "preserve"):
        return host
    default = 443 if target.scheme == "https" else 80
    return target.name if target.port != default else target.name.rpartition(":")[0]


def overloaded() -> ServiceUnavailable:
    """Return the refusal of an exchange past a service's `max_in_flight`."""
    return ServiceUnavailable(Reason.OVERLOADED, "The service has as many requests in flight as it may have", 1)


# They say nothing of the target: it is the gateway that has set a bound, or has reached one.
_OWN_LIMITS = frozenset({Reason.POOL_EXHAUSTED, Reason.SOCKETS_EXHAUSTED, Reason.RESPONSE_TOO_LARGE})


def is_failure(error: GatewayError | None) -> bool:
    """Tell whether what ended an attempt speaks against its target, and not against the client or the gateway."""
    return isinstance(error, UpstreamError | ResponseError) and error.reason not in _OWN_LIMITS
