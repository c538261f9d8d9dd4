"""The settings of `rate_limit`: rates as people write them, whom a limit counts, and the models.

`rate_limit` uses it; it knows no store.
"""

import hashlib
import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema, model_validator

from gatewright.core.exchange import Exchange
from gatewright.core.headers import make_field
from gatewright.core.units import parse_positive_duration
from gatewright.plugins.base import PluginConfig
from gatewright.plugins.template import parse_template
from gatewright.state.limits import SECOND, Concurrency, FixedWindow, Gcra, SlidingWindow

Key = Callable[[Exchange], str]

_RATE = re.compile(r"([0-9]{1,9})\s*(?:/|\bper\b)\s*(?:([0-9]{1,6})\s*)?([a-z]+)", re.ASCII | re.IGNORECASE)
_PERIODS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86400}
_PERIODS |= {"day": 86400, "week": 604800, "ms": 0}
_HINT = 'must be a rate such as "100/minute", "5 per second" or "20/10s"'
_FASTEST = 1_000_000  # a second: time is counted in microseconds
_LONGEST_KEY = 128


class Rate(NamedTuple):
    """`number` in each `period` microseconds; a period of 0 means at the same time."""

    number: int
    period: int


def parse_rate(value: object) -> Rate:
    """Return the rate that `value` writes; a whole number alone is one without a period. Raises ValueError."""
    if isinstance(value, Rate):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(_HINT)
    text = value.strip()
    if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        rate = Rate(int(text), 0)
    else:
        match = _RATE.fullmatch(text)
        if match is None:
            raise ValueError(_HINT)
        rate = Rate(int(match[1]), _period(match[2], match[3].lower()))
        if rate.number * SECOND > _FASTEST * rate.period:
            raise ValueError("must be at most a million a second")
    if not rate.number:
        raise ValueError("must be at least 1: a route that nobody may use is better left out")
    return rate


def _period(number: str | None, word: str) -> int:
    unit = word if word in _PERIODS else word.removesuffix("s")
    if unit not in _PERIODS:
        raise ValueError(f"{_HINT}: {word!r} is no period")
    if unit == "ms":
        return round(parse_positive_duration(f"{number or 1}ms") * SECOND)
    seconds = int(number or 1) * _PERIODS[unit]
    if not 0 < seconds <= 366 * 86400:
        raise ValueError("the period must be longer than zero and at most a year")
    return seconds * SECOND


# Whom a limit counts


@lru_cache(maxsize=8192)
def client_key(address: str) -> str:
    """Return what an address is counted under: an IPv6 address by its /64, which is what one customer has."""
    if ":" in address:
        try:
            ip = ipaddress.IPv6Address(address.partition("%")[0])
        except ValueError:
            return "client:" + _short(address)
        if ip.ipv4_mapped is not None:
            return f"client:{ip.ipv4_mapped}"
        return "client:" + ip.packed[:8].hex()
    return "client:" + address


def _short(text: str) -> str:
    """Return a text that tells this one from others and is never long: the client may choose it."""
    if len(text) <= _LONGEST_KEY:
        return text
    return "#" + hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _by_client(exchange: Exchange) -> str:
    return client_key(exchange.client_ip)


def _by_consumer(exchange: Exchange) -> str:
    consumer = exchange.consumer
    return client_key(exchange.client_ip) if consumer is None else "consumer:" + _short(consumer.name)


def _by_route(exchange: Exchange) -> str:
    return f"route:{exchange.route}"


def _by_service(exchange: Exchange) -> str:
    return f"service:{exchange.service}" if exchange.service is not None else f"route:{exchange.route}"


_BY: dict[str, Key] = {"client": _by_client, "consumer": _by_consumer, "route": _by_route, "service": _by_service}


def parse_by(text: str) -> Key:
    """Return what tells whom an exchange counts for. Raises ValueError."""
    if text in _BY:
        return _BY[text]
    kind, colon, name = text.partition(":")
    if kind == "header" and colon and "{" not in text:
        make_field(name, "")

        def by_header(exchange: Exchange) -> str:
            value = exchange.request.headers.get(name)
            return client_key(exchange.client_ip) if value is None else "header:" + _short(value)

        return by_header
    if "{" not in text:
        raise ValueError('must be client, consumer, route, service, "header:NAME" or variables such as "{param.id}"')
    template = parse_template(text)
    if isinstance(template, str):
        return lambda exchange: "text:" + template
    return lambda exchange: "text:" + _short(template(exchange))


def _checked_by(text: str) -> str:
    parse_by(text)
    return text


# Models

_RATE_SCHEMA = {
    "anyOf": [
        {"type": "string", "examples": ["100/minute", "5 per second", "20/10s"]},
        {"type": "integer", "minimum": 1, "description": "With algorithm: concurrency"},
    ]
}
LimitRate = Annotated[Rate, PlainValidator(parse_rate), WithJsonSchema(_RATE_SCHEMA)]
By = Annotated[str, AfterValidator(_checked_by)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
AlgorithmName = Literal["gcra", "sliding_window", "fixed_window", "concurrency"]


class LimitConfig(PluginConfig):
    """One limit."""

    limit: LimitRate | None = Field(None, description='How many: "100/minute", or a number with algorithm: concurrency')
    by: By = Field("client", description="Who is counted: client, consumer, route, service, header:NAME, or variables")
    algorithm: AlgorithmName = Field("gcra", description="How requests are counted")
    burst: int | None = Field(None, ge=1, le=1_000_000_000, description="gcra: how many at once; the limit if absent")
    cost: int = Field(1, ge=1, le=1_000_000, description="What a request takes of the limit")
    name: Name | None = Field(
        None,
        description="For headers and metrics, of letters, digits, `_`, `.` and `-`; limits of one name count together",
    )
    shadow: bool = Field(False, description="Count and log, never refuse")

    @model_validator(mode="after")
    def _fits(self) -> "LimitConfig":
        rate = self.limit
        if rate is None:
            return self
        concurrent = self.algorithm == "concurrency"
        if concurrent and rate.period:
            raise ValueError("limit must be a number with algorithm: concurrency, such as 10")
        if not concurrent and not rate.period:
            raise ValueError(f"limit {_HINT}; a number alone goes with algorithm: concurrency")
        if self.burst is not None and self.algorithm != "gcra":
            raise ValueError("burst goes with algorithm: gcra only")
        if self.cost > (self.burst or rate.number):
            raise ValueError("cost is more than the limit ever allows at once: no request could pass")
        if concurrent and self.cost > 1000:
            raise ValueError("cost must be at most 1000 with algorithm: concurrency")
        self.make()
        return self

    def make(self) -> Gcra | FixedWindow | SlidingWindow | Concurrency:
        """Return the algorithm. Raises ValueError when its numbers are too large."""
        assert self.limit is not None
        count, period = self.limit
        if self.algorithm == "concurrency":
            return Concurrency(count)
        if self.algorithm == "gcra":
            return Gcra(count, period, self.burst)
        return (FixedWindow if self.algorithm == "fixed_window" else SlidingWindow)(count, period)


class RateLimitConfig(LimitConfig):
    """Limit how often, or how many at once: one limit, or several under `limits`."""

    enabled: bool = Field(True, description="false frees a route of a farther `rate_limit`")
    limits: tuple[LimitConfig, ...] = Field((), max_length=16, description="Several limits; all must allow a request")
    on_failure: Literal["local", "open", "closed"] = Field(
        "local", description="While the store fails: count locally, let pass, or answer 503"
    )
    headers: bool = Field(True, description="Send RateLimit and RateLimit-Policy")
    legacy_headers: bool = Field(False, description="Send X-RateLimit-Limit, -Remaining and -Reset (seconds to wait)")

    @model_validator(mode="after")
    def _one_or_several(self) -> "RateLimitConfig":
        if not self.limits and self.limit is None and self.enabled:
            raise ValueError("needs `limit`, or several under `limits`")
        if self.limits:
            doubled = sorted(self.model_fields_set & set(LimitConfig.model_fields))
            if doubled:
                raise ValueError(f"{', '.join(doubled)} must be inside `limits` when there are several")
            if any(limit.limit is None for limit in self.limits):
                raise ValueError("each of `limits` needs a `limit`")
            names = [limit.name for limit in self.limits if limit.name is not None]
            if len(set(names)) < len(names):
                raise ValueError("two of `limits` have the same name")
        return self
