"""The store in Redis: limits counted exactly across machines, one atomic script a decision (`script`).

It owns the connection's life and what waits for it; `redis_url` knows where it is. Plugins call `decide`, `release`.

Calls of one turn of the loop, and those that come while all connections are busy, share a pipeline. No call waits
longer than `bound` seconds for all of it: then it raises StoreUnavailable and Redis counts as down. While it is down
every call fails at once; a task alone asks for it, soon at first, then every PROBE_MAX seconds, and the first good
answer brings it back.
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError, RedisError, ResponseError

from gatewright.core.clock import Clock
from gatewright.core.tasks import spawn
from gatewright.state.limits import Check, Concurrency, Gcra, Limit, SlidingWindow, StoreUnavailable, Verdict
from gatewright.state.redis_url import connect, disconnect, parse_redis_url
from gatewright.state.script import DECIDE, RENEW

_log = logging.getLogger("gatewright.state")

BOUND = 0.05
LEASE = 30.0  # what a worker that died held is free after this
CONNECTIONS = 4
PROBE_MIN, PROBE_MAX, PROBE_TIMEOUT = 0.02, 2.0, 1.0
START = 1.0
PREFIX = "gatewright:limit"
_MOST = 16_384  # entries of a dict that only saves work
_DECIDE = hashlib.sha1(DECIDE.encode(), usedforsecurity=False).hexdigest()  # how Redis names a script
_RENEW = hashlib.sha1(RENEW.encode(), usedforsecurity=False).hexdigest()
_FAILURES = (RedisError, OSError, TimeoutError)
Command = tuple[str | int, ...]


class _Call:
    """A command that waits, and who waits for its reply (None: nobody)."""

    __slots__ = ("command", "future", "lease")

    def __init__(self, command: Command, future: asyncio.Future[Any] | None, lease: str = "") -> None:
        self.command = command
        self.future = future
        self.lease = lease


class _Batch:
    """Calls that go together, and the time limit of the first."""

    __slots__ = ("calls", "task", "timer")

    def __init__(self, timer: asyncio.TimerHandle) -> None:
        self.calls: list[_Call] = []
        self.timer = timer
        self.task: asyncio.Task[None] | None = None


class RedisStore:
    """Counts limits in Redis. One for the life of a process, whatever configurations come and go."""

    def __init__(self, url: str, clock: Clock, *, bound: float = BOUND, lease: float = LEASE) -> None:
        """`bound`: seconds that a decision may wait; `lease`: see LEASE. Raises ValueError for a bad URL."""
        self._address = parse_redis_url(url)
        self._clock = clock
        self._bound = bound
        self._lease = lease
        self._client: Any = None
        self._waiting: _Batch | None = None
        self._sending = 0
        self._probing: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._leases: dict[str, list[tuple[str, int]]] = {}  # what this process holds: keys and how many of each
        self._keys: dict[tuple[str, str, str], str] = {}
        self._hopeless: dict[tuple[str, int], tuple[float, Verdict]] = {}
        self.available = False
        self.failures = 0

    async def start(self) -> None:
        """Connect, for at most START seconds. A Redis that is down is no error: it is asked for until it comes."""
        if self._probing is None and not self.available:
            self._probing = spawn(self._probe())
            await asyncio.wait([self._probing], timeout=START)
        if self._renewing is None:
            self._renewing = spawn(self._renew())

    async def stop(self) -> None:
        """Close the connections. What this process still holds is free when its lease ends."""
        self.available = False
        for task in (self._probing, self._renewing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._probing = self._renewing = None
        self._fail_waiting("the gateway is stopping")
        if self._client is not None:
            await _closed(self._client)

    # Decisions

    async def decide(self, checks: Sequence[Check], lease: str = "", together: str = "") -> list[Verdict]:
        """Charge all limits or none, and return the verdict of each. Raises StoreUnavailable.

        `lease` names what is held at the same time, for `release`. `together` is a name for limits whose keys differ
        within one decision: a Cluster keeps all of them on one node.
        """
        if not self.available:
            raise StoreUnavailable("Redis is not reachable")
        keys = [self._key(limit, key, together) for limit, key in checks]
        if len(checks) == 1 and self._hopeless:
            known = self._still_hopeless(keys[0], checks[0][0].cost)
            if known is not None:
                return [known]
        arguments: list[str | int] = []
        for limit, _ in checks:
            arguments += _arguments(limit)
        command = ("EVALSHA", _DECIDE, len(keys), *keys, *arguments, lease, int(self._lease * 1e6))
        call = _Call(command, asyncio.get_running_loop().create_future(), lease)
        self._enqueue(call)
        assert call.future is not None
        reply = await call.future
        verdicts = [
            (reply[at] == 1, int(reply[at + 1]), int(reply[at + 2]), int(reply[at + 3]))
            for at in range(0, len(reply), 4)
        ]
        if lease:
            self._note_leases(checks, keys, verdicts, lease)
        if len(checks) == 1 and not verdicts[0][0] and not isinstance(checks[0][0].algorithm, Concurrency):
            self._remember(keys[0], checks[0][0].cost, verdicts[0])
        return verdicts

    def _note_leases(self, checks: Sequence[Check], keys: list[str], verdicts: list[Verdict], lease: str) -> None:
        if any(not verdict[0] and not check[0].shadow for check, verdict in zip(checks, verdicts, strict=True)):
            return
        held = [
            (key, limit.cost)
            for key, (limit, _), verdict in zip(keys, checks, verdicts, strict=True)
            if verdict[0] and isinstance(limit.algorithm, Concurrency)
        ]
        if held:
            self._leases[lease] = held

    def release(self, lease: str) -> None:
        """Give back what `decide` let this process hold under `lease`. If Redis is down, its lease ends by itself."""
        for key, count in self._leases.pop(lease, ()):
            if self.available:
                members = [f"{lease}:{number}" for number in range(1, count + 1)]
                self._enqueue(_Call(("ZREM", key, *members), None))

    def _key(self, limit: Limit, key: str, together: str) -> str:
        """Return a key of bounded length that does not show whom it counts. One decision has one hash tag."""
        parts = (limit.scope, key, together)
        found = self._keys.get(parts)
        if found is None:
            if len(self._keys) >= _MOST:
                self._keys.clear()
            tag = _digest(together or key)
            found = self._keys[parts] = f"{PREFIX}:{{{tag}}}:{_digest(limit.scope + key)}"
        return found

    # Whoever was refused until a certain time is refused until then, without asking again. Others can only use up more.

    def _remember(self, key: str, cost: int, verdict: Verdict) -> None:
        if len(self._hopeless) >= _MOST:
            self._hopeless.clear()
        self._hopeless[key, cost] = (self._clock.now(), verdict)

    def _still_hopeless(self, key: str, cost: int) -> Verdict | None:
        known = self._hopeless.get((key, cost))
        if known is None:
            return None
        since, (_, left, reset, wait) = known
        passed = int((self._clock.now() - since) * 1e6)
        if passed >= min(wait, reset or wait):
            del self._hopeless[key, cost]
            return None
        return False, left, reset - passed, wait - passed

    # Batches

    def _enqueue(self, call: _Call) -> None:
        loop = asyncio.get_running_loop()
        batch = self._waiting
        if batch is None:
            batch = self._waiting = _Batch(loop.call_later(self._bound, self._expire))
            loop.call_soon(self._flush)
        batch.calls.append(call)

    def _flush(self) -> None:
        batch = self._waiting
        if batch is None or self._sending >= CONNECTIONS:
            return
        self._waiting = None
        self._sending += 1
        batch.timer.cancel()
        remaining = batch.timer.when() - asyncio.get_running_loop().time()
        batch.task = spawn(self._carry(batch, remaining))

    async def _carry(self, batch: _Batch, remaining: float) -> None:
        client = self._client
        try:
            async with asyncio.timeout(remaining):
                replies = await self._send(batch.calls)
        except _FAILURES as error:
            reason = f"no answer within {self._bound * 1000:g} ms" if isinstance(error, TimeoutError) else str(error)
            if client is self._client:  # else it is the old connection that has failed once more
                self._down(reason)
            for call in batch.calls:
                _fail(call, reason)
        else:
            for call, reply in zip(batch.calls, replies, strict=True):
                self._answer(call, reply)
        finally:
            self._sending -= 1
            for call in batch.calls:
                _fail(call, "the gateway is stopping")
            self._flush()

    async def _send(self, calls: Sequence[_Call]) -> list[Any]:
        replies = await self._pipeline([call.command for call in calls])
        missing = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:  # Redis was restarted, or its scripts were flushed: what it did not know it did not do
            await self._load()
            again = await self._pipeline([calls[place].command for place in missing])
            for place, reply in zip(missing, again, strict=True):
                replies[place] = reply
        return replies

    async def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    async def _load(self) -> None:
        for script in (DECIDE, RENEW):
            await self._client.script_load(script)

    def _answer(self, call: _Call, reply: Any) -> None:
        if isinstance(reply, Exception):
            if not _is_about_the_key(reply):
                self._down(str(reply))
            _fail(call, str(reply))
        elif call.future is not None and not call.future.done():
            call.future.set_result(reply)
        elif call.lease and call.future is not None and call.future.cancelled():
            self._drop(call)

    def _drop(self, call: _Call) -> None:
        """Give back at once what came for somebody who has gone."""
        count = int(call.command[2])
        for place in range(count):
            kind, cost = call.command[3 + count + place * 6], int(call.command[3 + count + place * 6 + 4])
            if kind == Concurrency.kind and self.available:
                members = [f"{call.lease}:{number}" for number in range(1, cost + 1)]
                self._enqueue(_Call(("ZREM", call.command[3 + place], *members), None))

    def _expire(self) -> None:
        """The calls that wait for a free connection have waited long enough."""
        self._down(f"no connection was free for {self._bound * 1000:g} ms")

    def _fail_waiting(self, reason: str) -> None:
        batch, self._waiting = self._waiting, None
        if batch is not None:
            batch.timer.cancel()
            for call in batch.calls:
                _fail(call, reason)

    # Down, and back

    def _down(self, reason: str) -> None:
        self.failures += 1
        if self.available:
            _log.warning("Redis at %s has failed: %s", self._address, reason)
            self.available = False
            self._probing = spawn(self._probe())
        self._fail_waiting(reason)

    async def _probe(self) -> None:
        """Ask for Redis until it answers, and can be written to."""
        pause = PROBE_MIN
        told = False
        while True:
            old, self._client = self._client, connect(self._address, PROBE_TIMEOUT, CONNECTIONS)
            try:
                async with asyncio.timeout(PROBE_TIMEOUT):
                    if old is not None:
                        await _closed(old)
                    await self._load()
                    await self._client.set(f"{PREFIX}:probe", 1, px=1000)
                break
            except (*_FAILURES, ValueError) as error:  # ValueError: files of TLS that are no good
                if not told:
                    _log.warning("Redis at %s does not answer: %s", self._address, str(error) or type(error).__name__)
                told = True
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, PROBE_MAX)
        _log.info("Redis at %s answers", self._address)
        self._hopeless.clear()
        self._probing = None
        self.available = True

    async def _renew(self) -> None:
        """Keep the leases of what is still held."""
        while True:
            await asyncio.sleep(self._lease / 3)
            members: dict[str, list[str]] = {}
            for lease, held in self._leases.items():
                for key, count in held:
                    members.setdefault(key, []).extend(f"{lease}:{number}" for number in range(1, count + 1))
            for key, names in members.items():
                if not self.available:
                    break
                keys = [key] * len(names)
                self._enqueue(_Call(("EVALSHA", _RENEW, len(keys), *keys, int(self._lease * 1e6), *names), None))


def _arguments(limit: Limit) -> tuple[str | int, ...]:
    algorithm = limit.algorithm
    kind, shadow = algorithm.kind, int(limit.shadow)
    if isinstance(algorithm, Concurrency):
        return kind, algorithm.quota, 0, 0, limit.cost, shadow
    if isinstance(algorithm, Gcra):
        return kind, algorithm.quota, algorithm.interval, algorithm.depth, limit.cost, shadow
    cell = algorithm.cell if isinstance(algorithm, SlidingWindow) else 0
    return kind, algorithm.quota, algorithm.window, cell, limit.cost, shadow


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _is_about_the_key(error: Exception) -> bool:
    return type(error) is ResponseError and str(error).startswith(("WRONGTYPE", "value is not"))


def _fail(call: _Call, reason: str) -> None:
    if call.future is not None and not call.future.done():
        call.future.set_exception(StoreUnavailable(reason))


async def _closed(client: Any) -> None:
    try:
        await disconnect(client)
    except _FAILURES as error:
        _log.debug("a connection to Redis did not close cleanly: %r", error)
