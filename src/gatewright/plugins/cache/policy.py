"""The rules of RFC 9111 for a shared cache: what may be stored and on what terms, what a 304 changes, what must go.

No I/O and no clock: callers bring the times. `now` is the gateway's monotonic clock, `wall` seconds since the epoch,
with which only dates are compared. The plugin asks these functions in the order of a request's way.
"""

from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import urljoin

from gatewright.core.headers import REQUEST_WRITTEN, RESPONSE_WRITTEN, Field, Headers, make_field, mark_of
from gatewright.core.messages import Response
from gatewright.plugins.cache import grammar
from gatewright.plugins.cache.entry import Entry, Terms
from gatewright.plugins.cache.request import AUTHORIZATION, COOKIE, EVERYBODY, Facts

# Statuses that may be kept without a word about freshness: fewer than RFC 9110 section 15.1 would allow, because a
# failure that is kept without anybody's asking for it hides the recovery.
_KEPT_UNASKED = frozenset({200, 203, 300, 301, 308})
# RFC 9111 section 5.2.2.3, must-understand: those whose meaning for caches this one follows.
_UNDERSTOOD = frozenset({200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 404, 405, 410, 414, 421, 451, 500, 501, 502})
FAILURES = frozenset({500, 502, 503, 504})  # RFC 5861 section 4
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "QUERY"})
_LONGEST_GUESS = 86400.0  # seconds
_IN_THE_KEY = frozenset({"host", "x-forwarded-host", "x-forwarded-proto"})
_MAX_VARY = 16  # fields that an answer may vary by
_MAX_TAGS = 64
# Beside the fields that never cross the gateway: what is of one message only, what we write anew.
_NOT_KEPT = frozenset(
    {b"age", b"trailer", b"te", b"proxy-authentication-info", b"proxy-authorization", b"set-cookie", b"set-cookie2"}
)
# RFC 9111 section 3.2: a 304 has no body, so what describes the stored one stays.
_BODY_FIELDS = frozenset({b"content-encoding", b"content-length", b"content-range"})


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration adds to the RFCs. Times in seconds."""

    ttl: float | None = None  # for answers that say nothing about freshness
    heuristic: float | None = None  # of the time since Last-Modified, 0 to 1
    while_revalidating: float = 0.0
    if_error: float = 0.0
    each_consumer: bool = False  # every caller has answers of his own
    max_entry: int = 1024 * 1024  # bytes


class Words:
    """An answer's fields by name, in the form that the rules ask for them."""

    __slots__ = ("_values", "directives")

    def __init__(self, fields: list[Field]) -> None:
        values: dict[str, list[str]] = {}
        for each in fields:
            values.setdefault(each[0].decode("latin-1"), []).append(each[1].decode("latin-1"))
        self._values = values
        self.directives = grammar.directives(", ".join(values.get("cache-control", ())))

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def all(self, name: str) -> list[str]:
        """Return the values of every `name` field."""
        return self._values.get(name, [])

    def one(self, name: str) -> str | None:
        """Return the value of the only `name` field; None without one, or with several that differ."""
        values = self._values.get(name, ())
        return values[0] if values and all(value == values[0] for value in values) else None

    def date(self, name: str) -> float | None:
        """Return the seconds since the epoch that the field `name` tells, or None."""
        value = self.one(name)
        return None if value is None else grammar.http_date(value)

    def seconds(self, name: str) -> int | None:
        """Return the seconds of a directive: None without it, 0 when it is not valid (RFC 9111 section 4.2.1)."""
        if name not in self.directives:
            return None
        return grammar.delta_seconds(self.directives[name]) or 0


def vary_names(words: Words) -> tuple[str, ...] | None:
    """Return the request fields that an answer varies by, or None when no request can be known to match.

    That is "*", and fields that the gateway writes itself: a target that varies by the client's address, say.
    """
    found = dict.fromkeys(name for value in words.all("vary") for name in grammar.names(value))
    names = tuple(name for name in found if name not in _IN_THE_KEY)
    written = any(mark_of(name.encode("latin-1")) & REQUEST_WRITTEN for name in names)
    return None if written or "*" in found or len(found) > _MAX_VARY else names


def varies_unseen(terms: Terms, asked: Facts, sent: Facts) -> bool:
    """Tell whether a plugin behind the cache has set what the answer varies by: no later request can be compared."""
    return asked is not sent and any(asked.selected(name) != sent.selected(name) for name in terms.vary)


def terms_of(status: int, words: Words, rules: Rules, wall: float) -> Terms | str:
    """Return on what terms an answer may be kept, or why not (RFC 9111 sections 3 and 4.2)."""
    directives = words.directives
    understood = "must-understand" in directives
    if status < 200 or status in (206, 304) or (understood and status not in _UNDERSTOOD):
        return "status"
    if "no-store" in directives and not understood:
        return "no-store"
    unless_asked, kept_private = _listed(directives, "no-cache"), _listed(directives, "private")
    hidden = unless_asked | kept_private
    if "private" in directives and not kept_private:
        return "private"
    if words.all("set-cookie") and "set-cookie" not in hidden:
        return "set-cookie"
    varying = vary_names(words)
    if varying is None:
        return "vary"
    if any(value.lower().startswith("text/event-stream") for value in words.all("content-type")):
        return "stream"
    lifetime = _lifetime(status, words, rules, wall)
    always = "no-cache" in directives and not unless_asked
    if lifetime is None and not always and "must-revalidate" not in directives:
        return "no-freshness"
    audience = 0
    if rules.each_consumer or "public" in directives or words.seconds("s-maxage") is not None:
        audience = EVERYBODY
    elif "must-revalidate" in directives:
        audience = AUTHORIZATION  # RFC 9111 section 3.5
    if "cookie" in varying:
        audience |= COOKIE
    strict = "must-revalidate" in directives or "proxy-revalidate" in directives
    default = not (strict or always or "s-maxage" in directives)
    terms = Terms(
        lifetime=0.0 if always else lifetime or 0.0,
        while_revalidating=_grace(words, "stale-while-revalidate", rules.while_revalidating, strict or always, default),
        if_error=_grace(words, "stale-if-error", rules.if_error, strict or always, default),
        always_validate=always,
        never_stale=not default,
        audience=audience,
        hidden=hidden,
        vary=varying,
    )
    if terms.lifetime or terms.while_revalidating or terms.if_error or "etag" in words or "last-modified" in words:
        return terms
    return "stale"


def _grace(words: Words, directive: str, configured: float, strict: bool, default: bool) -> float:
    """Return for how long a stale answer may be served. The answer's own word counts more than the configuration's, and
    must-revalidate more than either; s-maxage, which forbids it too (RFC 9111 section 5.2.2.10), only than ours."""
    told = words.seconds(directive)
    if strict:
        return 0.0
    if told is not None:
        return float(told)
    return configured if default else 0.0


def _listed(directives: grammar.Directives, name: str) -> frozenset[str]:
    """Return the fields that the qualified form of a directive names; nothing for the form that means everything."""
    value = directives.get(name)
    if not value:
        return frozenset()
    found = frozenset(grammar.names(value))
    return found if not any('"' in each for each in found) else frozenset()


def _lifetime(status: int, words: Words, rules: Rules, wall: float) -> float | None:
    """Return the freshness lifetime in seconds (RFC 9111 section 4.2.1); None when nothing gives one."""
    for directive in ("s-maxage", "max-age"):
        if (told := words.seconds(directive)) is not None:
            return float(told)
    date = words.date("date")
    if "expires" in words:
        expires = words.date("expires")
        return 0.0 if expires is None else max(0.0, expires - (wall if date is None else date))
    silent = "pragma" in words and any("no-cache" in value.lower() for value in words.all("pragma"))
    if status not in _KEPT_UNASKED or "no-cache" in words.directives or silent:
        return None
    if rules.ttl is not None:
        return rules.ttl
    modified = words.date("last-modified")
    if rules.heuristic is None or modified is None:
        return None
    return min(max(0.0, ((wall if date is None else date) - modified) * rules.heuristic), _LONGEST_GUESS)


def initial_age(words: Words, wall: float, delay: float) -> float:
    """Return how old an answer is when it comes, `delay` seconds after it was asked for (RFC 9111 section 4.2.3)."""
    date = words.date("date")
    apparent = 0.0 if date is None else max(0.0, wall - date)
    return max(apparent, grammar.age_value(words.all("age")) + max(0.0, delay))


def may_keep(facts: Facts, bits: int, terms: Terms) -> str | None:
    """Return why the answer to this request may not be kept, or None. `bits` tell whose request it is."""
    if facts.no_store:
        return "request-no-store"
    return "private" if bits & ~terms.audience else None


def make_entry(
    url: str, scope: str, facts: Facts, response: Response, words: Words, terms: Terms, body: bytes, born: float,
    wall: float,
) -> Entry:  # fmt: skip
    """Return what is stored of a complete answer whose age was zero at `born` and whose head came at `wall`.

    `words` are its fields, `terms` what `terms_of` made of them.
    """
    fields = kept_fields(response.headers.fields, terms.hidden, wall)
    return _entry(url, scope, facts, response.status, response.phrase, fields, words, terms, body, born)


def _entry(
    url: str, scope: str, facts: Facts, status: int, phrase: bytes, fields: list[Field], words: Words, terms: Terms,
    body: bytes, born: float,
) -> Entry:  # fmt: skip
    return Entry(
        url,
        scope,
        tuple((name, facts.selected(name)) for name in terms.vary),
        status,
        phrase,
        fields,
        body,
        born,
        terms,
        words.one("etag"),
        words.one("last-modified") if words.date("last-modified") is not None else None,
        _tags(words),
    )


def kept_fields(fields: list[Field], hidden: frozenset[str], wall: float) -> list[Field]:
    """Return the fields that may be stored (RFC 9111 section 3.1), with a Date in any case (RFC 9110 section 6.6.1)."""
    names = _NOT_KEPT | {name.encode("latin-1") for name in hidden}
    kept = [each for each in fields if each[0] not in names and not each[3] & RESPONSE_WRITTEN]
    if not any(each[0] == b"date" for each in kept):
        kept.append(make_field("Date", formatdate(wall, usegmt=True)))
    return kept


def _tags(words: Words) -> frozenset[str]:
    """Return the tags that an answer can be purged by: Surrogate-Key is parted by spaces, Cache-Tag by commas."""
    found = [tag for value in words.all("surrogate-key") for tag in value.split()]
    found += [tag for value in words.all("cache-tag") for part in value.split(",") if (tag := part.strip())]
    return frozenset(found[:_MAX_TAGS])


# Revalidation


def conditions(headers: Headers, entry: Entry | None) -> Headers:
    """Return the request's headers without the client's conditions and ranges, and with `entry`'s validators in their
    place (RFC 9111 section 4.3.1)."""
    changed = headers.copy()
    for name in ("if-none-match", "if-modified-since", "if-range", "range"):
        changed.remove(name)
    if entry is None:
        return changed
    if entry.etag is not None:
        changed.set("If-None-Match", entry.etag)
    if entry.modified is not None:
        changed.set("If-Modified-Since", entry.modified)
    return changed


def confirms(entry: Entry, response: Response) -> bool:
    """Tell whether a 304 speaks of `entry`: it may name another representation (RFC 9111 section 4.3.4)."""
    tag = response.headers.get("etag")
    if tag is None or entry.etag is None:
        return True
    return tag.removeprefix("W/") == entry.etag.removeprefix("W/")


def freshened(
    entry: Entry, facts: Facts, bits: int, response: Response, rules: Rules, now: float, wall: float, delay: float
) -> tuple[Entry, str | None]:
    """Return `entry` with the fields of a 304 (or of the answer to a HEAD), and why it may not be kept, or None.

    RFC 9111 sections 3.2 and 4.3.4. `delay` is in seconds since the request.
    """
    skipped = _NOT_KEPT | _BODY_FIELDS
    new = [each for each in response.headers.fields if each[0] not in skipped and not each[3] & RESPONSE_WRITTEN]
    replaced = {each[0] for each in new}
    if b"date" not in replaced:
        new.append(make_field("Date", formatdate(wall, usegmt=True)))
        replaced.add(b"date")
    merged = [each for each in entry.fields if each[0] not in replaced] + new
    words = Words(merged)
    terms = terms_of(entry.status, words, rules, wall)
    refused = terms if isinstance(terms, str) else may_keep(facts, bits, terms)
    if isinstance(terms, str):
        terms = Terms()
    age = initial_age(Words([*merged, *(each for each in response.headers.fields if each[0] == b"age")]), wall, delay)
    if terms.hidden:
        merged = kept_fields(merged, terms.hidden, wall)
    fresh = _entry(
        entry.url, entry.scope, facts, entry.status, entry.phrase, merged, words, terms, entry.body, now - age
    )
    return fresh, refused


def agrees(entry: Entry, response: Response) -> bool:
    """Tell whether the answer to a HEAD is about the body that `entry` has (RFC 9111 section 4.3.5)."""
    headers = response.headers
    if response.status != entry.status or (headers.get("etag") or None) != entry.etag:
        return False
    if headers.get("last-modified", entry.modified) != entry.modified:
        return False
    return response.content_length is None or response.content_length == len(entry.body)


# Invalidation


def invalidates(method: str, status: int) -> bool:
    """Tell whether an answer makes what is stored for its URL invalid (RFC 9111 section 4.4)."""
    return method not in _SAFE and 200 <= status < 400


def related_urls(url: str, response: Response) -> list[str]:
    """Return the URLs of the same origin that Location and Content-Location name."""
    origin = "/".join(url.split("/", 3)[:3]) + "/"
    found = []
    for name in ("location", "content-location"):
        value = response.headers.get(name)
        if value:
            try:
                other = urljoin(url, value).partition("#")[0]
            except ValueError:
                continue
            if other.startswith(origin):
                found.append(other)
    return found
