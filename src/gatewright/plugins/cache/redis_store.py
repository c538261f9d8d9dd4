"""Entries in Redis, for all workers and gateways that use it. What comes out of it is held in memory for a second.

Never in a request's way for longer than a bound: a Redis that fails or is slow is a miss, and is left alone for a
while. Counters of purges keep what was asked for before a purge from being stored after it, wherever that happens.

    gatewright:{cache}:e:URL\\nSCOPE  hash: what selects a variant -> the entry     ...:g, ...:g:URL  purges so far
    gatewright:{cache}:u:URL         set: the scopes that have entries             ...:t:TAG         set: URL\\nSCOPE

The braces keep all of it on one node of a Cluster: what is stored, and whether it was purged, is one decision.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable
from typing import Any

import msgspec
from redis.exceptions import RedisError

from gatewright.core.clock import Clock
from gatewright.core.headers import make_field
from gatewright.core.tasks import spawn
from gatewright.plugins.cache.entry import Entry, Terms
from gatewright.plugins.cache.store import PurgeKind, Slot, make_slot, parts
from gatewright.state.redis_url import connect, disconnect, parse_redis_url

_log = logging.getLogger("gatewright.plugins.cache")
_PREFIX = "gatewright:{cache}:"
_SKEW = 60.0  # seconds that the clocks of machines may differ
_FORM = 1  # of what is stored; entries of another are not read
_CONNECTIONS = 8
_STEP = 1.0  # seconds for what no request waits for
_REST = 1.0  # seconds for which a Redis that failed is left alone
_VALIDATABLE = 86400.0  # seconds for which a stale entry is kept, because the target may confirm it
_LONGEST = 30 * 86400.0
_FAILURES = (RedisError, OSError, TimeoutError)
Token = tuple[bytes, bytes]  # how many purges there had been when a fetch began

# KEYS: entries, scopes, purges of all, purges of the URL, sets of tags. ARGV: both counts, variant, entry,
# milliseconds, scope, slot. A hash of too many variants begins anew: somebody varies by what never comes twice.
_SAVE = """
if (redis.call('GET', KEYS[3]) or '0') ~= ARGV[1] or (redis.call('GET', KEYS[4]) or '0') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
if redis.call('HLEN', KEYS[1]) > 64 then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
end
redis.call('SADD', KEYS[2], ARGV[6])
for i = 5, #KEYS do redis.call('SADD', KEYS[i], ARGV[7]) end
for i = 1, #KEYS do
  if i ~= 3 and i ~= 4 and redis.call('PTTL', KEYS[i]) < tonumber(ARGV[5]) then
    redis.call('PEXPIRE', KEYS[i], ARGV[5])
  end
end
return 1
"""
_PURGES_KEPT = 3600  # seconds; a fetch that takes longer is not stored if its URL was purged


class RedisStore:
    """One Redis. Made once for each address in a process."""

    def __init__(self, url: str, clock: Clock, bound: float) -> None:
        """`bound` in seconds is what a request waits at most. Raises ValueError for a URL that is none."""
        address = parse_redis_url(url)
        self.bound = bound
        self._name = str(address)
        self._client: Any = connect(address, _STEP, _CONNECTIONS)
        self._save: Any = self._client.register_script(_SAVE)
        self._clock = clock
        self._down_until = 0.0
        self._failing = False
        self._users = 0
        self._beside: set[asyncio.Task[None]] = set()  # what goes on beside the requests
        self._purging: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """One more plugin uses it."""
        self._users += 1

    async def close(self) -> None:
        """One plugin less uses it: with the last, what is under way is finished and the connections go."""
        self._users -= 1
        if self._users <= 0:
            if self._beside:
                await asyncio.wait(tuple(self._beside), timeout=_STEP)
            try:
                await disconnect(self._client)
            except _FAILURES as error:
                self._failed(error)

    async def load(self, slot: Slot) -> tuple[list[Entry], Token | None]:
        """Return the entries of a slot, and the token to `save` with; nothing and None when Redis fails."""
        if self._clock.now() < self._down_until:
            return [], None
        try:
            async with asyncio.timeout(self.bound):
                if self._purging:  # what was purged here a moment ago must not come back from there
                    await asyncio.wait(tuple(self._purging))
                url, _ = parts(slot)
                pipeline = self._client.pipeline(transaction=False)
                pipeline.hvals(f"{_PREFIX}e:{slot}").get(f"{_PREFIX}g").get(f"{_PREFIX}g:{url}")
                found, everything, this = await pipeline.execute()
        except _FAILURES as error:
            self._failed(error)
            return [], None
        self._works()
        now = self._clock.now()
        entries = [entry for data in found if (entry := self._read(slot, data, now)) is not None]
        entries.sort(key=lambda entry: -entry.born)
        return entries, (everything or b"0", this or b"0")

    def save(self, entry: Entry, token: Token) -> None:
        """Store `entry`, beside the requests, unless it was purged since `token`."""
        _ = self._begin(self._store(entry, token))

    def drop(self, entry: Entry) -> None:
        """Remove `entry`, beside the requests."""
        slot = make_slot(entry.url, entry.scope)
        _ = self._begin(self._client.hdel(f"{_PREFIX}e:{slot}", _variant(entry)))

    def purge(self, kind: PurgeKind, value: str) -> None:
        """Remove entries as `MemoryStore.purge` does, beside the requests; those that come now wait for it.

        Not while no plugin uses it: what is there is not this gateway's to look after then.
        """
        if self._users <= 0:
            return
        task = self._begin(self._purge(kind, value))
        self._purging.add(task)
        task.add_done_callback(self._purging.discard)

    def _begin(self, call: Awaitable[Any]) -> "asyncio.Task[None]":
        task = spawn(self._tried(call), self._beside.discard)
        self._beside.add(task)
        return task

    async def _tried(self, call: Awaitable[Any]) -> None:
        try:
            async with asyncio.timeout(10 * _STEP):
                await call
        except _FAILURES as error:
            self._failed(error)

    async def _store(self, entry: Entry, token: Token) -> None:
        now = self._clock.now()
        terms = entry.terms
        kept = terms.lifetime + max(terms.while_revalidating, terms.if_error) - (now - entry.born)
        kept = min(max(kept, 0.0) + (_VALIDATABLE if entry.can_validate else 0.0), _LONGEST)
        if kept < 1.0:
            return
        slot = make_slot(entry.url, entry.scope)
        keys = [f"e:{slot}", f"u:{entry.url}", "g", f"g:{entry.url}", *(f"t:{tag}" for tag in sorted(entry.tags))]
        await self._save(
            [_PREFIX + key for key in keys],
            [*token, _variant(entry), self._written(entry, now), int(kept * 1000), entry.scope, slot],
        )

    async def _purge(self, kind: PurgeKind, value: str) -> None:
        client = self._client
        if kind == "url":
            await client.pipeline().incr(f"{_PREFIX}g:{value}").expire(f"{_PREFIX}g:{value}", _PURGES_KEPT).execute()
            scopes = await client.smembers(f"{_PREFIX}u:{value}")
            keys = [f"{_PREFIX}e:{make_slot(value, scope.decode())}" for scope in scopes]
            await client.unlink(f"{_PREFIX}u:{value}", *keys)
            return
        await client.incr(f"{_PREFIX}g")
        if kind == "tag":
            slots = await client.smembers(f"{_PREFIX}t:{value}")
            await client.unlink(f"{_PREFIX}t:{value}", *(f"{_PREFIX}e:{slot.decode()}" for slot in slots))
            return
        prefix = "".join(f"\\{char}" if char in "\\*?[]" else char for char in value if kind == "prefix")
        batch: list[bytes] = []
        async for key in client.scan_iter(match=f"{_PREFIX}e:{prefix}*", count=500):
            batch.append(key)
            if len(batch) >= 500:
                await client.unlink(*batch)
                batch.clear()
        if batch:
            await client.unlink(*batch)

    # The form of an entry there. Times are by the wall clock, which several machines share.

    def _written(self, entry: Entry, now: float) -> bytes:
        terms = entry.terms
        born = self._clock.wall() - (now - entry.born)
        rules = (terms.lifetime, terms.while_revalidating, terms.if_error, terms.always_validate, terms.never_stale)
        fields = [(each[2][: len(each[0])], each[1]) for each in entry.fields]
        head = (entry.status, entry.phrase, fields, entry.etag, entry.modified, sorted(entry.tags))
        return msgspec.msgpack.encode((_FORM, born, (*rules, terms.audience), entry.vary, head, entry.body))

    def _read(self, slot: Slot, data: bytes, now: float) -> Entry | None:
        url, scope = parts(slot)
        try:
            form, born, rules, vary, head, body = msgspec.msgpack.decode(data)
            if form != _FORM:
                return None
            status, phrase, fields, etag, modified, tags = head
            made = [make_field(name, value) for name, value in fields]
            age = self._clock.wall() - born
            if age < -_SKEW:
                return None  # a clock was set back since: nobody knows how old it is
            birth = now - max(0.0, age)
            chosen = tuple((name, value) for name, value in vary)
            terms = Terms(*rules)
        except (msgspec.DecodeError, ValueError, TypeError):
            return None  # not ours
        return Entry(
            url, scope, chosen, status, phrase, made, body, birth, terms, etag, modified, frozenset(tags), loaded=now
        )

    def _failed(self, error: BaseException) -> None:
        self._down_until = self._clock.now() + _REST
        if not self._failing:
            self._failing = True
            _log.warning("the cache goes on without the Redis at %s: %s", self._name, repr(error))

    def _works(self) -> None:
        if self._failing:
            self._failing = False
            _log.warning("the Redis at %s is back", self._name)


def _variant(entry: Entry) -> bytes:
    """Return what tells an entry from others of its slot."""
    return hashlib.sha256(msgspec.msgpack.encode(entry.vary)).digest()[:16]
