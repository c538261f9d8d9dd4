"""One instance of a service, and what the gateway knows about its condition.

A Target is written by several hands: the service counts `in_flight`, health probes set `healthy`, discovery
sets `draining`, `outlier` ejects. It is read by the balancers on each attempt. It knows no transport; `pool`
is whatever the service keeps there for it.
"""

from typing import Any
from urllib.parse import urlsplit

from gatewright.upstream.breaker import Breaker, State

_CLOSED = State.CLOSED
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Target:
    """An address that attempts can go to. Two targets are equal only if they are the same object."""

    __slots__ = (
        "_draining",
        "_healthy",
        "_in_rotation",
        "_weight",
        "breaker",
        "consecutive_failures",
        "ejected_until",
        "ejections",
        "host",
        "in_flight",
        "name",
        "pool",
        "port",
        "scheme",
        "url",
    )

    def __init__(self, url: str, scheme: str, host: str, port: int, weight: int = 1) -> None:
        """`url` as configured, `scheme` http or https, `host` without brackets; `weight` 0: no traffic."""
        self.url = url
        self.scheme = scheme
        self.host = host
        self.port = port
        self._weight = weight
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.in_flight = 0  # attempts now on their way
        self._healthy = True
        self._draining = False
        self._in_rotation = weight > 0
        self.ejected_until = 0.0  # seconds of the gateway's clock; in the past: not ejected
        self.ejections = 0  # how often in a row, see outlier.py
        self.consecutive_failures = 0
        self.breaker: Breaker | None = None
        self.pool: Any = None

    @classmethod
    def from_url(cls, url: str, weight: int = 1) -> "Target":
        """Read `http://host:port` or `https://host:port`; the port may be left out (80 and 443).

        Raises ValueError, with what to do, for any other form and for a weight below 0.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise ValueError(f"{url!r} is not a target's address: {exc}") from exc
        if parts.username is not None:
            raise ValueError("a target's address holds no user or password: use the headers plugin")
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError(f"{url!r} is not a target's address: write http://host:port or https://host:port")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(f"{url!r}: a target is a host and a port; use a route's rewrite to change paths")
        if any(char.isspace() or not char.isprintable() for char in url):
            raise ValueError(f"{url!r} holds a space or a control character")
        if port == 0:
            raise ValueError(f"{url!r}: nothing can be reached at port 0")
        if weight < 0:
            raise ValueError(f"{url!r}: weight {weight} is below 0; 0 takes a target out of rotation")
        return cls(url, parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme], weight)

    # What balancers ask of a target on each attempt is settled when one of these three changes, which is rare.

    @property
    def healthy(self) -> bool:
        """What active checks say; True until told."""
        return self._healthy

    @healthy.setter
    def healthy(self, healthy: bool) -> None:
        self._healthy = healthy
        self._settle()

    @property
    def draining(self) -> bool:
        """It finishes what it has and gets nothing new."""
        return self._draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._draining = draining
        self._settle()

    @property
    def weight(self) -> int:
        """Its share of the traffic beside the others' weights; 0 takes none."""
        return self._weight

    @weight.setter
    def weight(self, weight: int) -> None:
        self._weight = weight
        self._settle()

    def _settle(self) -> None:
        self._in_rotation = self._healthy and not self._draining and self._weight > 0

    def usable(self, now: float) -> bool:
        """Tell whether an attempt may go here at `now` (seconds). Takes no half-open probe from the breaker."""
        if not self._in_rotation or self.ejected_until > now:
            return False
        breaker = self.breaker
        return breaker is None or breaker.state is _CLOSED or breaker.allows(now)

    def __repr__(self) -> str:
        words = [self.name, f"in_flight={self.in_flight}"]
        if not self.healthy:
            words.append("unhealthy")
        if self.draining:
            words.append("draining")
        if self.breaker is not None:
            words.append(self.breaker.state.value)
        return f"<Target {' '.join(words)}>"
