"""`cache`: keep answers and serve them again, by the rules of HTTP for shared caches (RFC 9111, 5861, 9211).

    plugins:
      - cache: {ttl: 60s}

A request's way here: `on_request` looks for an entry and answers what is fresh at once, without a Task. `around` has
the rest: it waits for who asks for the same already, asks the target with the entry's validators, stores what comes
while it goes on to the client, and serves a stale entry in place of a failure. `on_response` says what was done, in
Cache-Status, and takes out what an unsafe request has made invalid.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gatewright.core.errors import GatewayError, ResponseError, ServiceUnavailable, UpstreamError, status_for
from gatewright.core.exchange import Exchange
from gatewright.core.headers import FORWARDING
from gatewright.core.messages import Response
from gatewright.core.tasks import background
from gatewright.plugins.base import Call, Plugin
from gatewright.plugins.cache import answers, policy
from gatewright.plugins.cache.config import CacheConfig
from gatewright.plugins.cache.entry import Entry
from gatewright.plugins.cache.filling import Filling
from gatewright.plugins.cache.hit import Hit
from gatewright.plugins.cache.plan import Plan
from gatewright.plugins.cache.request import CONSUMER, Facts, facts_of
from gatewright.plugins.cache.store import PURGES, Fetch, MemoryStore, Slot, make_slot
from gatewright.plugins.services import GatewayServices

if TYPE_CHECKING:
    from gatewright.plugins.cache.redis_store import RedisStore, Token

_READS = ("GET", "HEAD")
_PLACES = ("x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix", "forwarded")
_HELD = 1.0  # seconds for which what came from Redis is served from memory
_STATE = "cache"  # of an exchange: what was done, for logs
_RESULTS = ("hit", "stale", "miss", "validated", "collapsed", "pass")


class CachePlugin(Plugin[CacheConfig], name="cache"):
    """Keeps answers in memory or in Redis, and serves them again.

    Out of the box the service decides, by `Cache-Control`; the settings are for services that say nothing.

    Put it behind plugins that say who calls (`jwt`, keys) and that refuse (`rate_limit`, if hits are to count), and
    before those that only change what the target sees. A hit is answered where the plugin stands: plugins before it
    have run, those behind it have not; the response phase runs for every answer.

    Refusals:
        504 not_cached: the request says `Cache-Control: only-if-cached`, and nothing is stored that answers it

    Metrics:
        gateway_cache_requests_total (result): requests by what was done: `hit`, `stale`, `validated`, `collapsed`,
            `miss`, or `pass` (nothing that could be stored)
    """

    gateway: GatewayServices

    def __init__(self, config: CacheConfig) -> None:
        super().__init__(config)
        if config.max_entry > config.memory:
            raise ValueError("max_entry must not be larger than memory")
        self._rules = policy.Rules(
            config.ttl, config.heuristic, config.stale_while_revalidate, config.stale_if_error, config.each_consumer,
            config.max_entry,
        )  # fmt: skip
        self._key = f"cache.{id(self)}"
        if config.store == "redis":
            self.needs_redis = "store"
        self._redis: RedisStore | None = None
        self.store: MemoryStore  # of the process; set at the start, as the two below
        self._now: Callable[[], float]
        self._counted: dict[str, Callable[[], None]]

    async def start(self) -> None:
        """Find the store of this process, or make it."""
        self.store = self.gateway.shared("cache.memory", self._make_store)
        self.store.reserve(id(self), self.config.memory)
        self._now = self.gateway.clock.now
        self._counted = {result: self.gateway.counter("cache_requests", result=result) for result in _RESULTS}
        if self.config.store == "redis":
            self._redis = self.gateway.shared(f"cache.redis {self.gateway.stores.redis_url}", self._connect)
            self._redis.bound = self.config.redis_timeout
            self._redis.open()

    def _connect(self) -> "RedisStore":
        from gatewright.plugins.cache.redis_store import RedisStore  # here: redis-py takes 0.1 s and 10 MB to load

        redis = RedisStore(self.gateway.stores.redis_url, self.gateway.clock, self.config.redis_timeout)
        self.gateway.subscribe(PURGES, lambda message: redis.purge(*message))
        return redis

    def _make_store(self) -> MemoryStore:
        store = MemoryStore()
        self.gateway.subscribe(PURGES, lambda message: _purge(store, message))
        return store

    async def stop(self) -> None:
        """Give up this plugin's part in the stores."""
        self.store.reserve(id(self), 0)
        if self._redis is not None:
            await self._redis.close()

    # The request

    def on_request(self, exchange: Exchange) -> Response | None:
        """Answer what is fresh; else note why it goes on."""
        request = exchange.request
        method = request.method
        if method not in _READS:
            return None
        facts = facts_of(request.headers)
        slot, personal = self._place(exchange, facts)
        entry = self.store.find(slot, facts, personal)
        now = self._now()
        held = self._redis is None or entry is None or now - entry.loaded <= _HELD or method == "HEAD"
        if facts.plain and entry is not None and now < entry.fresh_until and held and not request.content:
            if exchange.kept is None:  # the usual hit: 2.6 us with what is above, 3.5 by the way below
                exchange.kept = {_STATE: "hit"}
            else:
                exchange.kept[_STATE] = "hit"
            return answers.whole(entry, entry.head(now))
        if request.upgrade is not None or request.content or facts.theirs:
            forwarded, entry = "bypass", None
        elif facts.no_store:
            forwarded, entry = "request", None
        elif entry is None:
            forwarded = ("miss" if personal else "vary-miss") if self.store.has(slot) else "uri-miss"
        elif not held:
            forwarded = "uri-miss"  # unless Redis still has it
        else:
            forwarded = self._why_not(exchange, entry, facts, slot, personal)
            if not forwarded:
                exchange.state[_STATE] = "hit" if now < entry.fresh_until else "stale"
                return answers.answer(entry, facts, method, entry.head(now))
        if facts.only_if_cached and (self._redis is None or method == "HEAD"):
            return _not_cached(exchange)
        exchange.state[self._key] = Plan(slot, facts, personal, entry, forwarded)
        return None

    def repeat(self, exchange: Exchange) -> Hit | None:
        """A plain hit may be given again for as long as it is stored and fresh."""
        facts = facts_of(exchange.request.headers)
        kept = exchange.kept
        if not facts.plain or kept is None or kept.get(_STATE) != "hit":
            return None
        slot, personal = self._place(exchange, facts)
        entry = self.store.find(slot, facts, personal)
        held = _HELD if self._redis is not None else math.inf
        return Hit(self.store, slot, entry, held, self._counted["hit"]) if entry is not None else None

    def _place(self, exchange: Exchange, facts: Facts) -> tuple[Slot, int]:
        """Return where the answers to a request are kept, and the bits of whose it is."""
        consumer = exchange.consumer
        url = _url(exchange)
        route = exchange.route or ""
        if exchange.peer.trusted and exchange.request.headers.marks & FORWARDING:
            # A proxy in front tells the target where the client believes to be, and an answer may depend on it.
            route += "".join(f" {exchange.request.headers.get(name)}" for name in _PLACES)
        if self._rules.each_consumer:
            return make_slot(url, f"{route} {facts.identity(None if consumer is None else consumer.name)}"), 0
        return f"{url}\n{route}", facts.personal if consumer is None else facts.personal | CONSUMER

    def _why_not(self, exchange: Exchange, entry: Entry, facts: Facts, slot: Slot, personal: int) -> str:
        """Return "" if `entry` may be served now, else why the request is forwarded (RFC 9111 section 4.2)."""
        now = self._now()
        ttl = entry.fresh_until - now
        terms = entry.terms
        if not facts.plain:
            age = now - entry.born
            if facts.no_cache or (facts.min_fresh is not None and ttl < facts.min_fresh):
                return "request"
            if facts.max_age is not None and (age > facts.max_age or not facts.max_age):
                return "request"
            if 0 >= ttl >= -(facts.max_stale or 0) and not terms.never_stale and not terms.always_validate:
                return "" if facts.max_stale else "stale"
        if ttl > 0:
            return ""
        if -ttl > terms.while_revalidating or not terms.while_revalidating:
            return "stale"
        if self.store.leading(slot) is None:
            fetch = self.store.fetch(slot, leads=True)
            background(self._refresh(exchange, self._filling(fetch, facts, personal, entry, None)))
        return ""

    def _filling(
        self, fetch: Fetch, facts: Facts, personal: int, entry: Entry | None, token: "Token | None"
    ) -> Filling:
        clock = self.gateway.clock
        return Filling(self.store, self._rules, fetch, facts, personal, entry, clock, self._redis, token)

    # Beside the request

    async def _refresh(self, exchange: Exchange, filling: Filling) -> None:
        """Fetch anew what was served stale (RFC 5861 section 3)."""
        try:
            if self._redis is not None:
                _, filling.token = await self._redis.load(filling.fetch.slot)
            headers = filling.conditions(exchange.request.headers)
            response = await self.gateway.ask(self, exchange, headers, self.config.max_entry)
            filling.refresh(response)
        except GatewayError:
            pass  # it stays stale; the next request tries again
        finally:
            filling.fetch.end(failed=True)

    # The call

    def wants_around(self, exchange: Exchange) -> bool:
        """Only what may be stored, or waited for, goes the long way."""
        plan = self._plan(exchange)
        return plan is not None and plan.forwarded != "bypass" and exchange.request.method == "GET"

    def _plan(self, exchange: Exchange) -> Plan | None:
        kept = exchange.kept
        return None if kept is None else kept.get(self._key)

    async def around(self, exchange: Exchange, call: Call) -> Response:
        """Fetch what is not there, unless somebody else does."""
        plan = self._plan(exchange)
        if plan is None or not self.wants_around(exchange):
            return await call()
        facts = plan.facts
        if self._place(exchange, facts) != (plan.slot, plan.personal):
            plan.detail = "consumer-came-later"  # a plugin behind this one says who calls: too late to look for his own
            return await call()
        if self._redis is not None and (response := await self._from_redis(self._redis, exchange, plan)) is not None:
            return response
        asks_anew = facts.no_cache or facts.no_store
        if self.config.collapse and not asks_anew:
            response = await self._wait(exchange, plan)
            if response is not None:
                return response
        clock = self.gateway.clock
        entry = plan.entry
        validates = entry is not None and entry.can_validate
        alone = asks_anew or ((facts.conditional or facts.ranged) and not validates)
        leads = not alone and self.store.leading(plan.slot) is None and not self.store.refused(plan.slot, clock.now())
        fetch = self.store.fetch(plan.slot, leads)
        plan.filling = self._filling(fetch, facts, plan.personal, entry, plan.token)
        plan.filling.sent = facts_of(exchange.request.headers)
        try:
            return await self._fetch(exchange, plan, plan.filling, call)
        except BaseException:
            fetch.end(failed=True)
            raise

    async def _from_redis(self, redis: "RedisStore", exchange: Exchange, plan: Plan) -> Response | None:
        """Hold what Redis has, and answer with it if that may be. Without Redis, what is held must do."""
        facts, slot = plan.facts, plan.slot
        entries, plan.token = await redis.load(slot)
        if plan.token is not None:
            self.store.replace(slot, entries)
        if not facts.no_store:
            plan.entry = entry = self.store.find(slot, facts, plan.personal)
            if entry is not None:
                plan.forwarded = self._why_not(exchange, entry, facts, slot, plan.personal)
                if not plan.forwarded:
                    del exchange.state[self._key]
                    exchange.state[_STATE] = "hit"
                    return answers.answer(entry, facts, exchange.request.method, entry.head(self._now()))
        if facts.only_if_cached:
            del exchange.state[self._key]
            return _not_cached(exchange)
        return None

    async def _wait(self, exchange: Exchange, plan: Plan) -> Response | None:
        """Wait for who fetches the same; return what it brought if that answers this request too.

        One that failed is followed by one of those who waited, and the others wait for that one.
        """
        clock, store = self.gateway.clock, self.store
        deadline = clock.now() + self.config.collapse
        while (leading := store.leading(plan.slot)) is not None:
            left = deadline - clock.now()
            if left <= 0 or store.refused(plan.slot, clock.now()) or not await leading.wait(left):
                break
            plan.entry = entry = store.find(plan.slot, plan.facts, plan.personal)
            if entry is not None and not self._why_not(exchange, entry, plan.facts, plan.slot, plan.personal):
                plan.collapsed = True
                return self._served(exchange, plan, entry)
            if not leading.failed:
                break
        return None

    async def _fetch(self, exchange: Exchange, plan: Plan, filling: Filling, call: Call) -> Response:
        request = exchange.request
        original = request.headers
        if filling.validates:
            request.headers = filling.conditions(original)
        try:
            response = await call()
            if response.status == 304 and filling.validates and not filling.is_confirmed_by(response):
                filling.forget_entry()
                request.headers = filling.conditions(original)
                response = await call()
        except (UpstreamError, ResponseError, ServiceUnavailable) as error:
            status = status_for(error.reason)
            entry = filling.entry_despite_error()
            if entry is None or status not in policy.FAILURES:
                raise
            filling.fetch.end(failed=True)
            plan.stale, plan.detail = True, "stale-if-error"
            return self._served(exchange, plan, entry)
        finally:
            request.headers = original
        plan.status = response.status
        if response.status == 304 and filling.validates:
            entry, plan.stored = filling.freshen(response)
            plan.validated = True
            answer = self._served(exchange, plan, entry)
            for cookie in response.headers.get_all("set-cookie"):  # to who caused it, and to nobody else
                answer.headers.add("set-cookie", cookie)
            return answer
        if response.status in policy.FAILURES and (entry := filling.entry_despite_error()) is not None:
            filling.fetch.end(failed=True)
            plan.stale, plan.detail = True, "stale-if-error"
            return self._served(exchange, plan, entry)
        plan.detail = filling.take(response)
        plan.stored = not plan.detail
        return response

    def _served(self, exchange: Exchange, plan: Plan, entry: Entry) -> Response:
        """Return what a request gets of an entry that was fetched, or found to be good, for it."""
        headers = entry.head(self._now())
        headers.remove("cache-status")
        for value in (each[1] for each in entry.fields if each[0] == b"cache-status"):
            headers.add("Cache-Status", value)
        return answers.answer(entry, plan.facts, exchange.request.method, headers)

    # The answer

    def on_response(self, exchange: Exchange, response: Response) -> None:
        """Say what was done; take out what is not valid any more."""
        kept = exchange.kept
        method = exchange.request.method
        if kept is not None and _STATE in kept:
            self._counted[kept[_STATE]]()
            return
        plan: Plan | None = None if kept is None else kept.get(self._key)
        if kept is not None and plan is not None:
            kept[_STATE] = plan.result
            self._counted[plan.result]()
            if plan.status is None:
                plan.status = exchange.upstream_status
            if exchange.attempts or response.from_target:  # else a plugin behind this one has answered
                response.headers.add("Cache-Status", plan.told())
            if method == "HEAD" and response.from_target and plan.entry is not None:
                fetch = self.store.fetch(plan.slot, leads=False)
                filling = self._filling(fetch, plan.facts, plan.personal, plan.entry, None)
                filling.compare(response)
                filling.fetch.end()
        elif method not in _READS and response.from_target:
            response.headers.add("Cache-Status", f"gatewright; fwd=method; fwd-status={response.status}")
            if policy.invalidates(method, response.status):
                self._invalidate(exchange, response)

    def _invalidate(self, exchange: Exchange, response: Response) -> None:
        url = _url(exchange)
        for each in {url, *policy.related_urls(url, response)}:
            self.gateway.publish(PURGES, ["url", each])

    def on_done(self, exchange: Exchange) -> None:
        """Whatever was being fetched is here, or will never be."""
        kept: dict[str, Any] | None = exchange.kept
        if kept is not None:
            plan = kept.get(self._key)
            if plan is not None and plan.filling is not None:
                plan.filling.fetch.end(failed=True)


def _url(exchange: Exchange) -> str:
    request = exchange.request
    return f"{exchange.scheme}://{request.host.decode('latin-1').lower()}{request.url}"


def _purge(store: MemoryStore, message: Any) -> None:
    store.purge(*message)


def _not_cached(exchange: Exchange) -> Response:
    detail = "Nothing is stored that answers this request"
    return exchange.reject(504, "not_cached", detail, {"Cache-Status": "gatewright; detail=only-if-cached"})
