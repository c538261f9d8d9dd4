"""Which target an attempt goes to. The service asks once an attempt; hash and sticky also read the request.

A balancer asks first whether the target that its rule names is usable, which is the common case, and only in
trouble looks at `candidates`, where the one rule about unhealthy, ejected, open and already tried targets
stands.
"""

import math
import random
import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Protocol

from gatewright.core.errors import Reason, ServiceUnavailable
from gatewright.core.exchange import Exchange
from gatewright.core.headers import TOKEN, Headers
from gatewright.upstream.target import Target

PANIC_THRESHOLD = 0.5  # Envoy's healthy_panic_threshold
SET_COOKIE = "gatewright.set_cookie"  # key in exchange.state: the Set-Cookie value that the answer must carry

Rng = Callable[[], float]  # gives numbers from 0 up to, but not, 1


def candidates(targets: Sequence[Target], now: float, tried: Collection[Target] = ()) -> list[Target]:
    """Return the targets that an attempt may go to at `now` (seconds); empty: none, see `unavailable`.

    A target that is draining, has weight 0, fails its active checks or has an open breaker never gets an
    attempt. Ejection is a weaker word, because it judges by a few answers. The panic rule: it is ignored when
    active checks and ejections together leave less than PANIC_THRESHOLD of the targets in rotation, since the
    rest would drown in what all of them served before; and when nothing else is left, so that an ejection
    alone never makes a 503. Envoy in panic also sends to targets that fail active checks. Here those checks
    were configured to be believed: if all fail, the answer is an honest 503 at once and not a timeout. Tried
    targets are left out while others remain.
    """
    ready = [target for target in targets if target.usable(now)]
    if len(ready) < len(targets):
        rotation = [target for target in targets if target.weight > 0 and not target.draining]
        healthy = [target for target in rotation if target.healthy]
        calm = sum(target.ejected_until <= now for target in healthy)
        if not ready or calm < PANIC_THRESHOLD * len(rotation):
            ready = [target for target in healthy if target.breaker is None or target.breaker.allows(now)]
    if tried:
        return [target for target in ready if target not in tried] or ready
    return ready


def unavailable(targets: Sequence[Target], now: float) -> ServiceUnavailable:
    """Return why there is no candidate: open circuits, if only they are in the way, or no healthy target."""
    waits = [
        target.breaker.retry_after(now)
        for target in targets
        if target.breaker is not None and target.healthy and not target.draining and target.weight > 0
    ]
    if waits:
        return ServiceUnavailable(Reason.CIRCUIT_OPEN, "The service fails too often to be asked now", min(waits))
    return ServiceUnavailable(Reason.NO_HEALTHY_TARGET, "No target of the service is healthy", 1)


class Balancer(Protocol):
    """Picks a target. Synchronous and without I/O, so that picking and counting in flight are one step."""

    def pick(
        self, targets: Sequence[Target], exchange: Exchange | None, now: float, tried: Collection[Target] = ()
    ) -> Target | None:
        """Return one of the `candidates`, or None; `exchange` may be None where there is no request."""


class RoundRobin:
    """Each target in its turn, whatever its weight."""

    def __init__(self) -> None:
        self._turn = 0
        self._detour = 0

    def pick(
        self, targets: Sequence[Target], exchange: Exchange | None, now: float, tried: Collection[Target] = ()
    ) -> Target | None:
        """Return the next target, or the next candidate in its place."""
        if targets:
            target = targets[self._turn % len(targets)]
            self._turn += 1
            if target.usable(now) and target not in tried:
                return target
        ready = candidates(targets, now, tried)
        if not ready:
            return None
        # Turns of their own: stepping on to the neighbour would give it the whole share of the target that is
        # out.
        self._detour += 1
        return ready[self._detour % len(ready)]


class Weighted:
    """Smooth weighted round robin: exact over each full round, and without bursts (nginx's algorithm)."""

    def __init__(self) -> None:
        self._credit: dict[Target, int] = {}

    def pick(
        self, targets: Sequence[Target], exchange: Exchange | None, now: float, tried: Collection[Target] = ()
    ) -> Target | None:
        """Give each candidate its weight in credit, take the richest, and let it pay the sum."""
        ready = candidates(targets, now, tried)
        if not ready:
            return None
        credit = self._credit
        total = 0
        best = ready[0]
        for target in ready:
            total += target.weight
            credit[target] = credit.get(target, 0) + target.weight
            if credit[target] > credit[best]:
                best = target
        credit[best] -= total
        if len(credit) > len(targets):  # discovery took some away
            self._credit = {target: credit[target] for target in targets if target in credit}
        return best


class LeastRequests:
    """The target with the fewest requests in flight for its weight; equals are drawn by weight. O(n)."""

    def __init__(self, rng: Rng = random.random) -> None:
        self._rng = rng

    def pick(
        self, targets: Sequence[Target], exchange: Exchange | None, now: float, tried: Collection[Target] = ()
    ) -> Target | None:
        """Return the least loaded candidate."""
        ready = candidates(targets, now, tried)
        if len(ready) < 2:
            return ready[0] if ready else None
        loads = [target.in_flight / target.weight for target in ready]
        least = min(loads)
        idlest = [target for target, load in zip(ready, loads, strict=True) if load == least]
        if len(idlest) == 1:
            return idlest[0]
        mark = self._rng() * sum(target.weight for target in idlest)
        for target in idlest:
            mark -= target.weight
            if mark < 0:
                return target
        return idlest[-1]


class P2C:
    """Power of two choices, the default: of two random targets the one with fewer in flight for its weight.

    As even as looking at all of them, at a constant price, and workers that cannot see each other's counts do
    not all run to the same target. Equals with different weights are drawn by weight, so that weights also
    hold without load.
    """

    def __init__(self, rng: Rng = random.random) -> None:
        self._rng = rng

    def pick(
        self, targets: Sequence[Target], exchange: Exchange | None, now: float, tried: Collection[Target] = ()
    ) -> Target | None:
        """Return the better of two random targets; in trouble, of two random candidates."""
        count = len(targets)
        if count == 1:
            if (target := targets[0]).usable(now):
                return target
        elif count and not tried:
            # In panic this favours usable targets a little over ejected ones, which is the better mistake.
            # `_two` and `_lighter` written out: 0.51 us a pick instead of 0.64.
            rng = self._rng
            index = int(rng() * count)
            other = int(rng() * (count - 1))
            first = targets[index]
            second = targets[other if other < index else other + 1]
            if first.usable(now) and second.usable(now):
                if first.weight != second.weight:
                    return self._lighter(first, second)
                return first if first.in_flight <= second.in_flight else second
        ready = candidates(targets, now, tried)
        if len(ready) < 2:
            return ready[0] if ready else None
        return self._lighter(*self._two(ready))

    def _two(self, targets: Sequence[Target]) -> tuple[Target, Target]:
        """Return two different targets in random order."""
        count = len(targets)
        first = int(self._rng() * count)
        second = int(self._rng() * (count - 1))
        return targets[first], targets[second if second < first else second + 1]

    def _lighter(self, first: Target, second: Target) -> Target:
        # Without divisions; weights are above 0 here.
        mine = first.in_flight * second.weight
        other = second.in_flight * first.weight
        if mine == other and first.weight != second.weight:
            return first if self._rng() * (first.weight + second.weight) < first.weight else second
        return first if mine <= other else second


class Hash:
    """The same target for the same key, in every worker and after every restart: weighted rendezvous hashing.

    Each target gets a score from key and address, the highest wins; so a target that leaves or is out of
    order moves its own keys only, spread by weight over all others, and they return with it. Chosen over a
    ring because it keeps no state, is exact in its shares (with 160 points for each of five targets a ring
    strays by 6 % on average and 27 % at worst) and follows health for nothing. It is O(n), 1.5 us and 0.6 us
    for each target: fine below a hundred of them; a service with more should use p2c.
    """

    def __init__(self, by: str, rng: Rng = random.random) -> None:
        """`by`: header:<name>, cookie:<name>, client_ip or path (without query); ValueError for another."""
        self._key_of = _key_reader(by)
        self._without_key = P2C(rng)

    def pick(
        self, targets: Sequence[Target], exchange: Exchange | None, now: float, tried: Collection[Target] = ()
    ) -> Target | None:
        """Return the key's target or its next best candidate; p2c where the key is missing or empty."""
        key = self._key_of(exchange) if exchange is not None else None
        if not key:
            return self._without_key.pick(targets, exchange, now, tried)
        mark = int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest())
        target = _highest(mark, targets)
        if target is not None and target.usable(now) and target not in tried:
            return target
        return _highest(mark, candidates(targets, now, tried))


class Sticky:
    """Keeps a client on its target by a cookie; p2c chooses for a client without one, or whose target is out.

    When the answer must set the cookie, `pick` leaves the value of Set-Cookie in
    `exchange.state[SET_COOKIE]`; a later pick for the same exchange replaces or removes it. The cookie's
    value is a keyed digest of the target's address: it names no address, and without `key` a guessed address
    cannot be tested against it. All workers must share `key`.
    """

    def __init__(self, cookie: str, ttl: float = 0, key: bytes = b"", rng: Rng = random.random) -> None:
        """`cookie`: its name (ValueError for a bad one); `ttl`: seconds, 0 for a session cookie."""
        if not re.fullmatch(TOKEN, cookie.encode()):
            raise ValueError(f"{cookie!r} is not a cookie's name: letters, digits and !#$%&'*+-.^_`|~ only")
        self._cookie = cookie
        self._ttl = ttl
        self._key = blake2b(key, digest_size=32).digest()  # of any length to one that blake2b takes
        self._choice = P2C(rng)

    def pick(
        self, targets: Sequence[Target], exchange: Exchange | None, now: float, tried: Collection[Target] = ()
    ) -> Target | None:
        """Return the target that the client's cookie names while it is a candidate, else another."""
        if exchange is None:
            return self._choice.pick(targets, None, now, tried)
        home = self._home(targets, exchange)
        if home is not None and ((home.usable(now) and home not in tried) or home in candidates(targets, now, tried)):
            exchange.state.pop(SET_COOKIE, None)
            return home
        target = self._choice.pick(targets, exchange, now, tried)
        if target is not None:
            exchange.state[SET_COOKIE] = self.set_cookie_for(target, secure=exchange.scheme == "https")
        return target

    def set_cookie_for(self, target: Target, secure: bool = False) -> str:
        """Return the value of the Set-Cookie field (RFC 6265 section 4.1) that binds a client to `target`."""
        parts = [f"{self._cookie}={_token(target.url, self._key)}", "Path=/", "HttpOnly", "SameSite=Lax"]
        if self._ttl:
            parts.append(f"Max-Age={math.ceil(self._ttl)}")
        if secure:
            parts.append("Secure")
        return "; ".join(parts)

    def _home(self, targets: Sequence[Target], exchange: Exchange) -> Target | None:
        if value := _cookie_value(exchange.request.headers, self._cookie):
            for target in targets:
                if _token(target.url, self._key) == value:
                    return target
        return None


_KINDS: dict[str, Callable[..., Balancer]] = {
    "round_robin": RoundRobin,
    "weighted": Weighted,
    "least_requests": LeastRequests,
    "p2c": P2C,
    "hash": Hash,
    "sticky": Sticky,
}


def make_balancer(kind: str, **options: Any) -> Balancer:
    """Return a new balancer; `options` are those of its class. ValueError for what is not known."""
    if kind not in _KINDS:
        raise ValueError(f"{kind!r} is not a way to balance: use one of {', '.join(_KINDS)}")
    return _KINDS[kind](**options)


def _key_reader(by: str) -> Callable[[Exchange], str | None]:
    """Return the function that reads what `by` names from a request."""
    source, _, name = by.partition(":")
    if by == "client_ip":
        return lambda exchange: exchange.client_ip
    if by == "path":
        return lambda exchange: exchange.request.path
    if source == "header" and re.fullmatch(TOKEN, name.encode()):
        return lambda exchange: exchange.request.headers.get(name)
    if source == "cookie" and re.fullmatch(TOKEN, name.encode()):
        return lambda exchange: _cookie_value(exchange.request.headers, name)
    raise ValueError(f"{by!r} is nothing to hash by: use header:<name>, cookie:<name>, client_ip or path")


def _cookie_value(headers: Headers, name: str) -> str | None:
    """Return the first value of the cookie `name` (RFC 6265 section 4.2.1)."""
    for line in headers.get_all("cookie"):
        for pair in line.split(";"):
            key, equals, value = pair.partition("=")
            if equals and key.strip(" \t") == name:
                return value.strip(" \t")
    return None


_MASK = (1 << 64) - 1


def _highest(mark: int, targets: Sequence[Target]) -> Target | None:
    """Return the target in rotation with the highest score for `mark`, a key's 64 bits."""
    best = None
    best_score = -math.inf
    for target in targets:
        if target.weight > 0:
            # MurmurHash3's finaliser: 0.33 us; a digest of key and address for each target takes 0.56.
            bits = mark ^ _seed(target.url)
            bits = ((bits ^ (bits >> 33)) * 0xFF51AFD7ED558CCD) & _MASK
            bits = ((bits ^ (bits >> 33)) * 0xC4CEB9FE1A85EC53) & _MASK
            bits ^= bits >> 33
            # The logarithm of a uniform number between 0 and 1 over the weight makes shares exactly
            # proportional.
            score = math.log(((bits >> 11) + 0.5) * 2.0**-53) / target.weight
            if score > best_score:
                best, best_score = target, score
    return best


@lru_cache(maxsize=4096)
def _seed(url: str) -> int:
    return int.from_bytes(blake2b(url.encode(), digest_size=8).digest())


@lru_cache(maxsize=4096)
def _token(url: str, key: bytes) -> str:
    return blake2b(url.encode(), digest_size=8, key=key).hexdigest()
