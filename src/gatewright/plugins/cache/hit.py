"""A plain hit that may be given again to the same request without asking the plugin (`core.repetition`).

It stands by its answer while the entry is fresh and the store has the same for its slot. It holds the slot's list, not
the entry: the store empties the list with any change, so nothing that was taken out is served or kept from memory.
"""

from collections.abc import Callable

from gatewright.core.messages import Response
from gatewright.plugins.cache import answers
from gatewright.plugins.cache.entry import Entry
from gatewright.plugins.cache.store import MemoryStore, Slot


class Hit:
    """Implements `Repetition`."""

    __slots__ = ("_count", "_held", "_place", "_slot", "_use", "_variants", "until")

    def __init__(self, store: MemoryStore, slot: Slot, entry: Entry, held: float, count: Callable[[], None]) -> None:
        """`held` in seconds is how long it may be served since it was loaded; `count` is told of each use."""
        self._variants = store.variants(slot)
        self._place = self._variants.index(entry)
        self._slot = slot
        self._use = store.use
        self._held = held
        self._count = count
        self.until = 0.0

    def renew(self, now: float) -> Response | None:
        """Return the answer with the Age of now, None when it is not fresh or not there any more."""
        if not self._variants:
            return None
        entry = self._variants[self._place]
        end = min(entry.fresh_until, entry.loaded + self._held)
        if now >= end:
            return None
        self.until = min(end, entry.born + int(now - entry.born) + 1)  # then Age is another
        return answers.whole(entry, entry.head(now))

    def again(self) -> bytes | None:
        """Return the body if the entry is still the one in the store, and count it as used."""
        variants = self._variants
        if not variants:
            return None
        self._use(self._slot)
        self._count()
        return variants[self._place].body
