"""`rate_limit`: limit how often, or how many at once; by client, consumer, header, route, service or variables.

    plugins:
      - rate_limit: {limit: 100/minute, by: consumer}
      - rate_limit:
          limits:
            - {limit: 10/second, burst: 20}
            - {limit: 1000/day, algorithm: sliding_window, by: "header:X-API-Key"}
            - {limit: 5, algorithm: concurrency}
          on_failure: local

Counts are kept in the machine's memory, exact across its workers, or in Redis when the configuration has one. Without
Redis nothing waits and `on_request` is a plain call; with it, it is `async`.
"""

import logging
import os
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from gatewright.core.exchange import Exchange
from gatewright.core.headers import Field, make_field
from gatewright.core.messages import Response
from gatewright.plugins.base import Plugin
from gatewright.plugins.rate_limit_config import Key, LimitConfig, RateLimitConfig, parse_by
from gatewright.plugins.services import GatewayServices
from gatewright.state.limits import SECOND, Check, Concurrency, Limit, StoreUnavailable, Verdict
from gatewright.state.shared import SharedStore
from gatewright.state.stores import LimitStores

if TYPE_CHECKING:
    from gatewright.state.redis import RedisStore  # else a gateway without Redis would load all of redis-py

_log = logging.getLogger("gatewright.plugins")

_PERIOD_NAMES = {1: "second", 60: "minute", 3600: "hour", 86400: "day", 604800: "week"}
_LOG_EVERY = 1.0  # seconds between two lines about the same thing
_PROCESS = os.urandom(8).hex()
_numbers = count(1)


class Held(NamedTuple):
    """What an exchange must give back at its end."""

    checks: list[Check]
    store: "SharedStore | RedisStore"
    lease: str


class Rule:
    """One limit of the plugin, ready to be asked."""

    __slots__ = ("allowed", "concurrent", "config", "key", "limit", "limited", "name", "quota", "told")

    def __init__(self, config: LimitConfig, name: str) -> None:
        assert config.limit is not None
        self.config = config
        self.name = name
        self.key: Key = parse_by(config.by)
        self.quota = config.burst or config.limit.number if config.algorithm == "gcra" else config.limit.number
        self.concurrent = config.algorithm == "concurrency"
        self.told = not config.shadow  # clients learn nothing of what does not bind them
        self.limit: Limit  # set at the start, as what counts the decisions
        self.allowed: Callable[[], None]
        self.limited: Callable[[], None]

    def start(self, gateway: GatewayServices, place: str) -> None:
        """Count requests apart from those in other places, unless the limit has a name; and decisions in metrics."""
        config = self.config
        assert config.limit is not None
        scope = f"name {config.name}" if config.name is not None else f"place {place} {self.name} {config.by}"
        scope = f"{scope} {config.limit.period}"
        self.limit = Limit(config.make(), name=self.name, scope=scope, cost=config.cost, shadow=config.shadow)
        mode = "enforced" if self.told else "shadow"
        self.allowed = gateway.counter("ratelimit_allowed", limit=self.name)
        self.limited = gateway.counter("ratelimit_limited", limit=self.name, mode=mode)

    def policy(self) -> str:
        """Return the member of `RateLimit-Policy`: the quota, and the window in whole seconds if it is that."""
        assert self.config.limit is not None
        count, period = self.config.limit
        if self.concurrent:
            return f'"{self.name}";q={count};qu="concurrent-requests"'
        window = "" if period % SECOND else f";w={period // SECOND}"
        return f'"{self.name}";q={count}{window}'


class RateLimit(Plugin[RateLimitConfig], name="rate_limit"):
    """Refuses what is too much with 429, and says in headers how much is left.

    Counts are kept in the machine's memory, exact across its workers, or in the Redis of `state.redis`, exact across
    machines. A request that one of several limits refuses takes nothing of the others.

    Refusals:
        429 rate_limited: a limit is used up, or as many requests as it allows are under way; with `Retry-After`
        503 rate_limit_unavailable: the limits' store fails, and `on_failure` is `closed`; with `Retry-After`

    Metrics:
        gateway_ratelimit_allowed_total (limit): requests that a limit, by its name, let pass; of a list of limits the
            first is named
        gateway_ratelimit_limited_total (limit, mode): requests over a limit: refused (`enforced`), or not (`shadow`)
        gateway_ratelimit_store_errors_total (limit): decisions that had to be made without the limits' store
    """

    gateway: GatewayServices

    def __init__(self, config: RateLimitConfig) -> None:
        super().__init__(config)
        self._rules = _rules(config)
        self._together = ""
        self._mark = f"rate_limit {id(self)}"  # under which an exchange keeps its verdicts
        self._held_mark = f"{self._mark} held"
        self._stores: LimitStores  # both set at the start
        self._shared: SharedStore
        self._concurrent = any(rule.concurrent for rule in self._rules)
        self._simple = len(self._rules) == 1 and not self._concurrent
        told = [rule for rule in self._rules if rule.told]
        self._policy = make_field("RateLimit-Policy", ", ".join(rule.policy() for rule in told)) if told else None
        self._prefixes = [f'"{rule.name}";r=' for rule in self._rules]
        self._quiet_until = 0.0

    async def start(self) -> None:
        """Open the stores. A Redis that is down is no error."""
        if not self._rules:
            return
        self._stores = self.gateway.stores
        for rule in self._rules:
            rule.start(self.gateway, self.place)
        if len({rule.config.by for rule in self._rules}) > 1:
            self._together = f"together {self.place}"
        self._shared = self._stores.shared
        if self._stores.redis is not None:
            await self._stores.redis.start()

    # The request

    @property
    def on_request(self) -> Callable[[Exchange], Any]:
        """The hook: a plain one unless there is a Redis to wait for. The chain asks once, when it is compiled."""
        if not self._rules:
            return super().on_request
        # Without a gateway it is compiled to be checked only.
        waits = hasattr(self, "gateway") and self.gateway.stores.redis is not None
        return self._ask_redis if waits else self._ask_embedded

    def _ask_embedded(self, exchange: Exchange) -> Response | None:
        """Decide in the embedded store."""
        if self._simple:
            rule = self._rules[0]
            limit, key = rule.limit, rule.key(exchange)
            try:
                verdict = self._shared.decide_one(limit, key)
            except StoreUnavailable as error:
                return self._without_store(exchange, [(limit, key)], error)
            if verdict[0]:  # nothing else is to be found out: 1 us less than `_judge`
                rule.allowed()
                exchange.state[self._mark] = (verdict,)
                return None
            return self._judge(exchange, [(limit, key)], [verdict], self._shared, "")
        checks = [(rule.limit, rule.key(exchange)) for rule in self._rules]
        try:
            verdicts = self._shared.decide(checks)
        except StoreUnavailable as error:
            return self._without_store(exchange, checks, error)
        return self._judge(exchange, checks, verdicts, self._shared, "")

    async def _ask_redis(self, exchange: Exchange) -> Response | None:
        """Decide in Redis."""
        redis = self._stores.redis
        assert redis is not None
        checks = [(rule.limit, rule.key(exchange)) for rule in self._rules]
        lease = f"{_PROCESS}-{next(_numbers)}" if self._concurrent else ""
        try:
            verdicts = await redis.decide(checks, lease, self._together)
        except StoreUnavailable as error:
            return self._without_store(exchange, checks, error)
        return self._judge(exchange, checks, verdicts, redis, lease)

    def _without_store(self, exchange: Exchange, checks: list[Check], error: StoreUnavailable) -> Response | None:
        """Decide by `on_failure`. Counting locally means: on this machine if Redis fails, else in this process."""
        self.gateway.count("ratelimit_store_errors", limit=self._rules[0].name)
        self._say("the limits' store fails (on_failure: %s): %s", self.config.on_failure, error)
        if self.config.on_failure == "local":
            candidates = [self._stores.private] if self._stores.redis is None else [self._shared, self._stores.private]
            for store in candidates:
                try:
                    verdicts = store.decide(checks)
                except StoreUnavailable:
                    continue
                return self._judge(exchange, checks, verdicts, store, "")
        if self.config.on_failure == "open":
            return None
        exchange.cause = str(error)
        detail = "Limits cannot be checked at the moment"
        return exchange.reject(503, "rate_limit_unavailable", detail, {"Retry-After": "1"})

    def _judge(
        self,
        exchange: Exchange,
        checks: list[Check],
        verdicts: list[Verdict],
        store: "SharedStore | RedisStore",
        lease: str,
    ) -> Response | None:
        refusing: Rule | None = None
        wait = 0
        for rule, verdict in zip(self._rules, verdicts, strict=True):
            if verdict[0]:
                continue
            if not rule.told:
                rule.limited()
                self._say("limit %s (shadow) would have refused request %s", rule.name, exchange.id)
            elif refusing is None or verdict[3] > wait:
                refusing, wait = rule, verdict[3]
        exchange.state[self._mark] = verdicts
        if refusing is None:
            self._rules[0].allowed()
            if self._concurrent:
                held = [
                    check
                    for check, verdict in zip(checks, verdicts, strict=True)
                    if verdict[0] and isinstance(check[0].algorithm, Concurrency)
                ]
                exchange.state[self._held_mark] = Held(held, store, lease)
            return None
        refusing.limited()
        exchange.cause = f"limit {refusing.name}"
        seconds = _seconds(wait)
        what = "Too many requests at the same time" if refusing.concurrent else "Rate limit exceeded"
        unit = "second" if seconds == 1 else "seconds"
        detail = f"{what}: try again in {seconds} {unit}"
        return exchange.reject(429, "rate_limited", detail, {"Retry-After": str(seconds)})

    # The answer, and the end

    def on_response(self, exchange: Exchange, response: Response) -> None:
        """Say how much is left."""
        verdicts: Sequence[Verdict] | None = exchange.kept.get(self._mark) if exchange.kept is not None else None
        if verdicts is None or self._policy is None:
            return
        fields: list[Field] = []
        if self.config.headers:
            fields += [self._policy, self._state_field(verdicts)]
        if self.config.legacy_headers:
            fields += self._legacy_fields(verdicts)
        response.headers.append(*fields)

    def _state_field(self, verdicts: Sequence[Verdict]) -> Field:
        """Return `RateLimit`. Built by hand: digits need none of the checks of `make_field`, which take 1.3 us."""
        if self._simple:
            _, left, reset, _ = verdicts[0]
            value = f"{self._prefixes[0]}{left};t={-(-reset // SECOND) or 1}".encode()
            return b"ratelimit", value, b"RateLimit: " + value + b"\r\n", 0
        parts = []
        for rule, prefix, (_, left, reset, _) in zip(self._rules, self._prefixes, verdicts, strict=True):
            if rule.told:
                parts.append(f"{prefix}{left};t={_seconds(reset)}" if reset else f"{prefix}{left}")
        value = ", ".join(parts).encode()
        return b"ratelimit", value, b"RateLimit: " + value + b"\r\n", 0

    def _legacy_fields(self, verdicts: Sequence[Verdict]) -> list[Field]:
        told = [(verdict, rule) for rule, verdict in zip(self._rules, verdicts, strict=True) if rule.told]
        (_, left, reset, wait), rule = min(told, key=lambda pair: (pair[0][1], -pair[0][3]))
        return [
            make_field("X-RateLimit-Limit", str(rule.quota)),
            make_field("X-RateLimit-Remaining", str(left)),
            make_field("X-RateLimit-Reset", str(_seconds(wait or reset))),
        ]

    @property
    def on_done(self) -> Callable[[Exchange], None]:
        """The hook, if there is anything to give back."""
        return self._give_back if self._concurrent else super().on_done

    def _give_back(self, exchange: Exchange) -> None:
        """Give back what was held at the same time, however the exchange ended."""
        if exchange.kept is None:
            return
        held: Held | None = exchange.kept.pop(self._held_mark, None)
        if held is None or not held.checks:
            return
        if isinstance(held.store, SharedStore):
            held.store.release(held.checks)
        else:
            held.store.release(held.lease)

    # Words

    def _say(self, message: str, *args: Any) -> None:
        now = self.gateway.clock.now()
        if now >= self._quiet_until:
            self._quiet_until = now + _LOG_EVERY
            _log.warning(message, *args)


def _seconds(micro: int) -> int:
    """Whole seconds to wait, never too few and never 0: a client that came back at once would be refused again."""
    return max(1, -(-micro // SECOND))


def _period_name(period: int) -> str:
    if not period:
        return "concurrent"
    if period % SECOND:
        return f"{period // 1000}ms"
    return _PERIOD_NAMES.get(period // SECOND, f"{period // SECOND}s")


def _rules(config: RateLimitConfig) -> list[Rule]:
    if not config.enabled:
        return []
    if not config.limits:
        return [Rule(config, config.name or "default")]
    rules: list[Rule] = []
    taken = {limit.name for limit in config.limits if limit.name is not None}
    for limit in config.limits:
        assert limit.limit is not None
        base = limit.name or _period_name(limit.limit.period)
        name, number = base, 1
        while limit.name is None and name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        rules.append(Rule(limit, name))
    return rules
