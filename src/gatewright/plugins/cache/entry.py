"""One stored answer: what it is, how old, how long fresh, for whom, and to which requests it is an answer.

Unchanging, but for the form of its head that is kept for a second. Times are seconds of the gateway's monotonic clock,
so that a clock that is set changes no age. The policy makes entries, stores keep them, `answers` serves them.
"""

from dataclasses import dataclass, field

from gatewright.core.headers import RESPONSE_WRITTEN, Field, Headers
from gatewright.plugins.cache.request import Facts

OVERHEAD = 1024  # bytes that an entry takes beside its texts, as measured with sys.getsizeof


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms an answer may be used."""

    lifetime: float = 0.0  # seconds from its birth for which it is fresh
    while_revalidating: float = 0.0  # seconds after that for which it may be served while a new one is fetched
    if_error: float = 0.0  # seconds after its lifetime for which it is better than an error
    always_validate: bool = False  # no-cache
    never_stale: bool = False  # must-revalidate and its like: not even if the client would take it
    audience: int = 0  # bits of `request`: whose requests it answers, beside nobody's
    hidden: frozenset[str] = frozenset()  # fields that a shared cache must not keep
    vary: tuple[str, ...] = ()  # request fields that it varies by


@dataclass(slots=True, eq=False)
class Entry:
    """A complete answer. `born` is when its age was zero."""

    url: str
    scope: str  # the route, and whose it is where each caller has his own
    vary: tuple[tuple[str, str | None], ...]
    status: int
    phrase: bytes
    fields: list[Field]
    body: bytes
    born: float
    terms: Terms
    etag: str | None = None
    modified: str | None = None  # Last-Modified
    tags: frozenset[str] = frozenset()
    audience: int = 0  # as in its terms
    marks: int = 0  # of all fields
    size: int = 0  # bytes that it counts for
    loaded: float = 0.0  # when it came, or came from a shared store
    fresh_until: float = 0.0
    told: tuple[int, list[Field], int, bytes] | None = field(default=None, repr=False)  # the head at an age

    def __post_init__(self) -> None:
        self.audience = self.terms.audience
        self.fresh_until = self.born + self.terms.lifetime
        for each in self.fields:
            self.marks |= each[3]
        texts = len(self.url) + len(self.scope) + sum(2 * len(each[2]) for each in self.fields)
        self.size = OVERHEAD + texts + len(self.body) + sum(len(value or "") + 64 for _, value in self.vary)

    def answers(self, facts: Facts) -> bool:
        """Tell whether the request has what this answer was selected by (RFC 9111 section 4.1)."""
        for name, value in self.vary:  # noqa: SIM110 - all() with its generator costs 0.3 us more on every hit
            if facts.selected(name) != value:
                return False
        return True

    @property
    def can_validate(self) -> bool:
        """Tell whether the target can be asked if it is still good."""
        return self.etag is not None or self.modified is not None

    def get(self, name: str) -> str | None:
        """Return the first value of a field (name in lower case)."""
        key = name.encode("latin-1")
        return next((each[1].decode("latin-1") for each in self.fields if each[0] == key), None)

    def head(self, now: float) -> Headers:
        """Return its fields with Age and Cache-Status. Joined once a second; the result may be edited."""
        age = int(now - self.born)
        told = self.told
        if told is None or told[0] != age:
            headers = Headers(list(self.fields), self.marks)
            headers.add("Age", str(age))
            headers.add("Cache-Status", f"gatewright; hit; ttl={int(self.terms.lifetime) - age}")
            told = self.told = (age, headers.fields, headers.marks, headers.join(RESPONSE_WRITTEN))
        return Headers(told[1], told[2], told[3])
