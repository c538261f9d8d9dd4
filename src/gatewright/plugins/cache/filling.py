"""One fetch's way into the store: judged by its head, collected while it streams to the client, stored when complete.

An answer that breaks off, turns out too large or was purged meanwhile is never stored. Used by the plugin, for requests
and beside them; it knows the store and the policy, and no exchange.
"""

from typing import TYPE_CHECKING

from gatewright.core.clock import Clock
from gatewright.core.headers import Headers
from gatewright.core.messages import Response
from gatewright.core.streams import Pipe
from gatewright.plugins.cache import policy
from gatewright.plugins.cache.entry import Entry, Terms
from gatewright.plugins.cache.policy import Rules, Words
from gatewright.plugins.cache.request import Facts
from gatewright.plugins.cache.store import Fetch, MemoryStore, parts

if TYPE_CHECKING:
    from gatewright.plugins.cache.redis_store import RedisStore, Token


class Filling:
    """What a fetch may bring. `entry` is what was stored before, stale."""

    def __init__(
        self, store: MemoryStore, rules: Rules, fetch: Fetch, facts: Facts, personal: int, entry: Entry | None,
        clock: Clock, shared: "RedisStore | None" = None, token: "Token | None" = None,
    ) -> None:  # fmt: skip
        """`shared` is the store beside this process's, `token` what it gave when the fetch began."""
        self.fetch = fetch
        self.entry = entry
        self.max_entry = rules.max_entry
        self._store = store
        self._rules = rules
        self._facts = facts
        self._personal = personal
        self._clock = clock
        self._asked = clock.now()
        self._shared = shared
        self.token = token
        self.sent = facts  # what the target was told, after the plugins behind the cache

    # The entry that is there

    @property
    def validates(self) -> bool:
        """Tell whether the target is asked if the entry is still good."""
        return self.entry is not None and self.entry.can_validate

    def conditions(self, headers: Headers) -> Headers:
        """Return the headers to ask with: the entry's validators, and no condition or range of the client's."""
        return policy.conditions(headers, self.entry)

    def is_confirmed_by(self, response: Response) -> bool:
        """Tell whether a 304 speaks of the entry."""
        return self.entry is None or policy.confirms(self.entry, response)

    def forget_entry(self) -> None:
        """The entry is not what the target has: remove it, and go on without."""
        if self.entry is not None:
            self._drop(self.entry)
            self.entry = None

    def entry_despite_error(self) -> Entry | None:
        """Return the entry if it is better than a failure (RFC 5861 section 4)."""
        entry = self.entry
        if entry is None or self._facts.no_cache or self._facts.max_age is not None:
            return None
        terms = entry.terms
        usable = (
            terms.if_error and not terms.always_validate and self._clock.now() - entry.fresh_until <= terms.if_error
        )
        return entry if usable else None

    def freshen(self, response: Response) -> tuple[Entry, bool]:
        """The entry is still good: return it as a 304 makes it, and whether it was stored."""
        entry = self.entry
        assert entry is not None
        now = self._clock.now()
        fresh, refused = policy.freshened(
            entry, self._facts, self._personal, response, self._rules, now, self._clock.wall(), now - self._asked
        )
        stored = refused is None and not self.fetch.void
        if stored:
            self._put(fresh)
        else:
            self._drop(entry)
        self.fetch.end()
        return fresh, stored

    def compare(self, response: Response) -> None:
        """Learn from the answer to a HEAD whether the entry is still good (RFC 9111 section 4.3.5)."""
        if self.entry is not None and policy.agrees(self.entry, response):
            self.freshen(response)
        elif self.entry is not None and response.status < 500:
            self._drop(self.entry)

    # A new answer

    def refresh(self, response: Response) -> None:
        """Take an answer that no client waits for."""
        if response.status == 304 and self.validates and self.is_confirmed_by(response):
            self.freshen(response)
        elif response.status not in policy.FAILURES and response.from_target:
            self.take(response)

    def take(self, response: Response) -> str:
        """Store an answer, now or when it is complete; return "" or why not."""
        now, wall = self._clock.now(), self._clock.wall()
        words = Words(response.headers.fields)
        terms = policy.terms_of(response.status, words, self._rules, wall)
        if isinstance(terms, str):
            return self._refuse(terms, response.status)
        content = response.content
        length = len(content) if isinstance(content, bytes) else response.content_length
        refused = policy.may_keep(self._facts, self._personal, terms)
        if refused is None and policy.varies_unseen(terms, self._facts, self.sent):
            refused = "vary"
        if refused is None and length is None and not response.chunked and not response.keep_alive:
            refused = "no-length"  # it ends with its connection: nobody can tell whether that was all
        if refused is None and length is not None and length > self._rules.max_entry:
            refused = "size"
        if refused is not None:
            return self._refuse(refused, response.status)
        born = now - policy.initial_age(words, wall, now - self._asked)
        collected = _Collected(self, response, words, terms, born, wall)
        if isinstance(content, Pipe):
            content.add_filter(collected, keeps_length=True)
        else:
            collected(content)
            collected(b"")
        return ""

    def _refuse(self, why: str, status: int) -> str:
        if self.entry is not None and status < 500 and not self._facts.no_store:
            self._drop(self.entry)  # what is newer may not be kept, so there is nothing that may be served
        self.give_up()
        return why

    def give_up(self) -> None:
        """Nothing will be stored; who waits goes by himself."""
        self._store.refuse(self.fetch.slot, self._clock.now())
        self.fetch.end()

    def store(self, response: Response, words: Words, terms: Terms, body: bytes, born: float, wall: float) -> None:
        """Store a complete answer."""
        if not self.fetch.void:
            url, scope = parts(self.fetch.slot)
            self._put(policy.make_entry(url, scope, self._facts, response, words, terms, body, born, wall))
        self.fetch.end()

    def _put(self, entry: Entry) -> None:
        entry.loaded = self._clock.now()
        self._store.put(entry)
        if self._shared is not None and self.token is not None:
            self._shared.save(entry, self.token)

    def _drop(self, entry: Entry) -> None:
        self._store.drop(entry)
        if self._shared is not None:
            self._shared.drop(entry)


class _Collected:
    """A filter of a body that changes nothing and keeps what goes by, up to the limit."""

    def __init__(
        self, filling: Filling, response: Response, words: Words, terms: Terms, born: float, wall: float
    ) -> None:
        self._filling = filling
        # The head as it is now: plugins edit it on its way to the client.
        self._head = Response(response.status, response.headers.copy())
        self._head.phrase = response.phrase
        self._words = words
        self._terms = terms
        self._born = born
        self._wall = wall
        self._pieces: list[bytes] | None = []
        self._size = 0

    def __call__(self, chunk: bytes) -> bytes:
        if self._pieces is None:
            return chunk
        if chunk:
            self._pieces.append(chunk)
            self._size += len(chunk)
            if self._size > self._filling.max_entry:
                self._pieces = None
                self._filling.give_up()
        else:
            self._filling.store(self._head, self._words, self._terms, b"".join(self._pieces), self._born, self._wall)
            self._pieces = None
        return chunk
