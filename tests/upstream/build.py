"""Targets, exchanges and random sources for the tests of upstream decisions."""

from collections.abc import Callable, Iterable
from itertools import cycle
from typing import Any, cast

from gatewright.core.exchange import Exchange
from gatewright.core.headers import Headers
from gatewright.core.messages import Request
from gatewright.core.peer import Peer
from gatewright.upstream.breaker import Breaker
from gatewright.upstream.target import Target


def make_targets(*weights: int) -> list[Target]:
    """Return a target for each weight, on ports from 8001 on."""
    return [Target.from_url(f"http://127.0.0.1:{8001 + n}", weight) for n, weight in enumerate(weights)]


def open_breaker(seconds: float = 10, now: float = 0) -> Breaker:
    """Return a breaker that opened at `now` for `seconds`."""
    breaker = Breaker(failure_rate=1, minimum=1, window=10, open_seconds=seconds)
    breaker.record(False, now)
    return breaker


def make_exchange(path: str = "/", address: str = "192.0.2.1", scheme: str = "http", **headers: str) -> Exchange:
    """Return an exchange for GET `path`; in header names `_` stands for `-`."""
    fields = Headers.of((name.replace("_", "-"), value) for name, value in headers.items())
    request = Request("GET", path, None, 1, b"gateway", fields)
    return Exchange(request, Peer(address, 50000, 8080, scheme), cast(Any, None), 0.0)


def numbers(values: Iterable[float]) -> Callable[[], float]:
    """Return a random source that gives `values` over and over."""
    return cycle(values).__next__
