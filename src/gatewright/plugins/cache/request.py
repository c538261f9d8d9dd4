"""What a request says to a cache, read once: its directives, its conditions, and whether it is somebody's own.

Requests repeat their heads, so what was read is remembered by the head's bytes; a hit costs one look-up then. Knows
header fields only; the policy judges by it.
"""

import hashlib

from gatewright.core.headers import Headers
from gatewright.http1.fields import Memo
from gatewright.plugins.cache import grammar

# Whose answer it may be. A bit each, so that an answer says for whom it is good.
COOKIE = 1
AUTHORIZATION = 2
CONSUMER = 4
EVERYBODY = COOKIE | AUTHORIZATION | CONSUMER

_PERSONAL = {b"cookie": COOKIE, b"authorization": AUTHORIZATION}
_CONDITIONS = frozenset({b"if-none-match", b"if-modified-since"})
# RFC 9111 section 4.3.2: a cache does not judge these; they are the target's.
_NOT_OURS = frozenset({b"if-match", b"if-unmodified-since"})
_FOLDED = frozenset({"accept", "accept-charset", "accept-encoding", "accept-language"})  # case means nothing in them
_NONE: grammar.Directives = {}


class Facts:
    """A request's word. Ages and times in seconds; None where it says nothing."""

    __slots__ = (
        "_headers",
        "_selected",
        "conditional",
        "directives",
        "max_age",
        "max_stale",
        "min_fresh",
        "no_cache",
        "no_store",
        "only_if_cached",
        "personal",
        "plain",
        "ranged",
        "theirs",
    )

    def __init__(self, headers: Headers) -> None:
        seen = {field[0] for field in headers.fields}
        self._headers = headers.copy()
        self._selected: dict[str, str | None] = {}
        self.personal = sum(bit for name, bit in _PERSONAL.items() if name in seen)
        self.conditional = not _CONDITIONS.isdisjoint(seen)
        self.ranged = b"range" in seen
        self.theirs = not _NOT_OURS.isdisjoint(seen)
        directives = _NONE
        if b"cache-control" in seen:
            directives = grammar.directives(", ".join(headers.get_all("cache-control")))
        elif b"pragma" in seen and "no-cache" in headers.tokens("pragma"):
            directives = {"no-cache": None}  # RFC 9111 section 5.4: only without Cache-Control
        self.directives = directives
        self.no_cache = "no-cache" in directives
        self.no_store = "no-store" in directives
        self.only_if_cached = "only-if-cached" in directives
        self.max_age = self._seconds("max-age", 0)
        self.min_fresh = self._seconds("min-fresh", None)
        self.max_stale = self._seconds("max-stale", 0)
        if "max-stale" in directives and directives["max-stale"] is None:
            self.max_stale = grammar.NEVER_STALE  # any staleness will do
        # Nothing in it bears on a fresh answer.
        self.plain = not (directives or self.conditional or self.ranged or self.theirs)

    def _seconds(self, name: str, invalid: int | None) -> int | None:
        if name not in self.directives:
            return None
        seconds = grammar.delta_seconds(self.directives[name])
        return invalid if seconds is None else seconds

    def get(self, name: str) -> str | None:
        """Return the first value of a field."""
        return self._headers.get(name)

    def selected(self, name: str) -> str | None:
        """Return what the request has in the field `name` (lower case) that an answer varies by, in one form.

        Spaces around commas and the number of lines mean nothing (RFC 9111 section 4.1), nor does the case of Accept
        fields or the order in Accept-Encoding.
        """
        try:
            return self._selected[name]
        except KeyError:
            values = self._headers.get_all(name)
            value: str | None = None
            if values:
                members = [member.strip(" \t") for line in values for member in line.split(",")]
                if name in _FOLDED:
                    members = [member.lower().replace(" ", "") for member in members]
                value = ",".join(sorted(members) if name == "accept-encoding" else members)
            self._selected[name] = value
            return value

    def identity(self, consumer: str | None) -> str:
        """Return what tells whose request this is, for answers that each caller has of his own; "" for nobody's."""
        if not self.personal and consumer is None:
            return ""
        values = [consumer or "", *self._headers.get_all("authorization"), "", *self._headers.get_all("cookie")]
        # A digest, because the values are secrets and this becomes a key.
        return hashlib.sha256("\0".join(values).encode("utf-8", "surrogateescape")).hexdigest()


_facts: Memo[Facts] = Memo(1024, 2048)


def facts_of(headers: Headers) -> Facts:
    """Return what a request's head says. `headers.wire` leaves out no field that matters here."""
    wire = headers.wire
    if wire is None:
        return Facts(headers)
    known = _facts.get(wire)
    return known if known is not None else _facts.put(wire, Facts(headers))
