"""Where a worker keeps entries: in memory, within a bound of bytes, the longest unused going first.

It lives as long as the process, across reloads, and all cache plugins share it: an unsafe request on one route makes
invalid what another has stored. It also knows who is fetching what, so that requests for the same thing wait for one
fetch, and so that what was asked for before a purge is not stored after it. No `await` here but in `Fetch.wait`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal

from gatewright.plugins.cache.entry import Entry
from gatewright.plugins.cache.request import Facts

Slot = str  # URL and scope in one: a string keeps its hash, a tuple makes it anew at each look-up
PurgeKind = Literal["url", "prefix", "tag", "all"]
PURGES = "cache.purge"  # the topic on which workers are told what to remove: [kind, value]

_MAX_VARIANTS = 64  # of one slot
_MAX_REFUSED = 4096
REFUSED_SECONDS = 5.0


def make_slot(url: str, scope: str) -> Slot:
    """Return the key of what is stored for a URL in a scope. Neither holds a line break."""
    return f"{url}\n{scope}"


def parts(slot: Slot) -> tuple[str, str]:
    """Return URL and scope."""
    url, _, scope = slot.partition("\n")
    return url, scope


class Fetch:
    """One request on its way to a target, whose answer may be stored.

    `failed` tells those who waited that it ended without an answer: one of them may try in its place.
    """

    __slots__ = ("_store", "_waiters", "ended", "failed", "slot", "void")

    def __init__(self, store: "MemoryStore", slot: Slot) -> None:
        self._store = store
        self._waiters: list[asyncio.Future[None]] = []
        self.slot = slot
        self.void = False  # purged while under way: it must not be stored
        self.ended = False
        self.failed = False

    async def wait(self, seconds: float) -> bool:
        """Wait for the end, at most so long. Return False when it did not come."""
        if self.ended:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            return False
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return True

    def end(self, failed: bool = False) -> None:
        """Its outcome is clear; a second call does nothing."""
        if self.ended:
            return
        self.ended = True
        self.failed = failed
        self._store.fetch_ended(self)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class MemoryStore:
    """Entries by URL and scope. `limit` and `size` are in bytes."""

    def __init__(self) -> None:
        self.limit = 0
        self.size = 0
        self._limits: dict[int, int] = {}
        self._slots: OrderedDict[Slot, list[Entry]] = OrderedDict()
        self._scopes: dict[str, set[str]] = {}  # by URL
        self._tagged: dict[str, set[Slot]] = {}
        self._fetches: dict[str, set[Fetch]] = {}  # by URL
        self._leading: dict[Slot, Fetch] = {}
        self._refused: OrderedDict[Slot, float] = OrderedDict()  # until when nobody waits for anybody there
        self.use = self._slots.move_to_end  # a slot that is there was used just now; itself, for a method costs double

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def reserve(self, owner: int, limit: int) -> None:
        """`owner` (any number of its own) wants room for `limit` bytes; 0: no more. The largest wish counts."""
        if limit:
            self._limits[owner] = limit
        else:
            self._limits.pop(owner, None)
        self.limit = max(self._limits.values(), default=self.limit)
        self._shrink()

    def _shrink(self) -> None:
        while self.size > self.limit and self._slots:
            self._set(next(iter(self._slots)), [])

    # Entries

    def find(self, slot: Slot, facts: Facts, personal: int) -> Entry | None:
        """Return the newest entry that answers this request, fresh or not. `personal` has the bits of whose it is."""
        entries = self._slots.get(slot)
        if entries is None:
            return None
        self._slots.move_to_end(slot)
        for entry in entries:
            if not personal & ~entry.audience and (not entry.vary or entry.answers(facts)):
                return entry
        return None

    def variants(self, slot: Slot) -> list[Entry]:
        """Return the entries of a slot, to look at: the list is empty as soon as they are not what is stored there."""
        return self._slots.get(slot, [])

    def has(self, slot: Slot) -> bool:
        """Tell whether there is any entry, for whatever request."""
        return slot in self._slots

    def put(self, entry: Entry) -> None:
        """Store `entry` in place of the one for the same requests."""
        slot = make_slot(entry.url, entry.scope)
        self._refused.pop(slot, None)
        if entry.size > self.limit:
            return
        others = [other for other in self._slots.get(slot, ()) if other.vary != entry.vary]
        self._set(slot, [entry, *others[: _MAX_VARIANTS - 1]])
        self._shrink()

    def replace(self, slot: Slot, entries: list[Entry]) -> None:
        """Hold for a slot what a shared store has for it, and nothing else."""
        self._set(slot, entries[:_MAX_VARIANTS])
        self._shrink()

    def drop(self, entry: Entry) -> None:
        """Remove `entry`, if it is still there."""
        slot = make_slot(entry.url, entry.scope)
        if entry in self._slots.get(slot, ()):
            self._set(slot, [other for other in self._slots[slot] if other is not entry])

    def _set(self, slot: Slot, entries: list[Entry]) -> None:
        before = self._slots.pop(slot, [])
        self.size += sum(entry.size for entry in entries) - sum(entry.size for entry in before)
        tags = {tag for entry in entries for tag in entry.tags}
        for tag in {tag for entry in before for tag in entry.tags} - tags:
            self._tagged[tag].discard(slot)
            if not self._tagged[tag]:
                del self._tagged[tag]
        for tag in tags:
            self._tagged.setdefault(tag, set()).add(slot)
        url, scope = parts(slot)
        if entries:
            self._slots[slot] = entries
            self._scopes.setdefault(url, set()).add(scope)
        elif before:
            self._scopes[url].discard(scope)
            if not self._scopes[url]:
                del self._scopes[url]
        before.clear()  # who holds the list (`variants`) must not go on with what was in it, nor keep it in memory

    # Purges

    def purge(self, kind: PurgeKind, value: str = "") -> int:
        """Remove what a URL, a prefix of URLs or a tag names, or all; return how many entries that were.

        What is being fetched meanwhile is not stored either.
        """
        if kind == "url":
            return self._purge_urls([value])
        if kind == "tag":
            self._void(self._fetches)  # which tags will come is not known yet
            return self._purge_tag(value)
        prefix = value if kind == "prefix" else ""
        return self._purge_urls([url for url in {*self._scopes, *self._fetches} if url.startswith(prefix)])

    def _purge_urls(self, urls: list[str]) -> int:
        self._void(urls)
        gone = 0
        for url in urls:
            for scope in tuple(self._scopes.get(url, ())):
                slot = make_slot(url, scope)
                gone += len(self._slots[slot])
                self._set(slot, [])
        return gone

    def _purge_tag(self, tag: str) -> int:
        gone = 0
        for slot in tuple(self._tagged.get(tag, ())):
            entries = self._slots[slot]
            left = [entry for entry in entries if tag not in entry.tags]
            gone += len(entries) - len(left)
            self._set(slot, left)
        return gone

    def _void(self, urls: Iterable[str]) -> None:
        for url in urls:
            for fetch in self._fetches.get(url, ()):
                fetch.void = True

    # Who is fetching what

    def fetch(self, slot: Slot, leads: bool) -> Fetch:
        """Begin a fetch; with `leads`, requests for the same slot may wait for it. Its `end` must be called."""
        fetch = Fetch(self, slot)
        self._fetches.setdefault(parts(slot)[0], set()).add(fetch)
        if leads:
            self._leading[slot] = fetch
        return fetch

    def leading(self, slot: Slot) -> Fetch | None:
        """Return the fetch that a request for `slot` may wait for."""
        return self._leading.get(slot)

    def fetch_ended(self, fetch: Fetch) -> None:
        """Forget a fetch; it calls this itself."""
        url, _ = parts(fetch.slot)
        self._fetches[url].discard(fetch)
        if not self._fetches[url]:
            del self._fetches[url]
        if self._leading.get(fetch.slot) is fetch:
            del self._leading[fetch.slot]

    def refuse(self, slot: Slot, now: float) -> None:
        """The answer there may not be stored: for a while nobody waits for another's."""
        self._refused[slot] = now + REFUSED_SECONDS
        self._refused.move_to_end(slot)
        if len(self._refused) > _MAX_REFUSED:
            self._refused.popitem(last=False)

    def refused(self, slot: Slot, now: float) -> bool:
        """Tell whether the answer there could not be stored lately."""
        return self._refused.get(slot, now) > now
