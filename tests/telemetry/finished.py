"""Exchanges that are over, as tests of what is told of them need them."""

from typing import Any

from gatewright.core.exchange import Exchange
from gatewright.core.headers import Headers
from gatewright.core.messages import Request
from gatewright.core.peer import Peer


def finished(method: str = "GET", **fields: Any) -> Exchange:
    """An exchange with what the proxy would have set, by default a 200 of service "s" on route "r"."""
    exchange = Exchange(Request(method, "/", None, 1, b"test", Headers()), Peer("127.0.0.1", 1, 2), None, 0.0)  # type: ignore[arg-type]
    given = {"route": "r", "service": "s", "status": 200, "attempts": 1, "upstream_seconds": 0.004} | fields
    for name, value in given.items():
        setattr(exchange, name, value)
    return exchange
