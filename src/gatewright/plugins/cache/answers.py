"""A stored answer to what a client gets of it: the whole, a part (206), "you have it" (304), or 416.

Conditions and ranges by RFC 9110 sections 13 and 14. Decides nothing about freshness: whoever calls has found the entry
good. What comes out counts as a target's answer, for it is one, sent once more.
"""

from gatewright.core.headers import Headers
from gatewright.core.messages import ReceivedResponse, Response
from gatewright.plugins.cache import grammar
from gatewright.plugins.cache.entry import Entry
from gatewright.plugins.cache.request import Facts


def whole(entry: Entry, headers: Headers) -> Response:
    """Return all of `entry`, with `headers` as its head."""
    body = entry.body
    response = ReceivedResponse(entry.status, entry.phrase, 1, headers, True, len(body), False)
    response.content = body
    return response


def answer(entry: Entry, facts: Facts, method: str, headers: Headers) -> Response:
    """Return what a request gets of `entry`: conditions are judged first, then ranges. `headers` may be changed."""
    if entry.status == 200:
        if facts.conditional and _has_it(entry, facts):
            return _not_modified(headers)
        if facts.ranged and method == "GET" and _range_holds(entry, facts):
            part = grammar.byte_range(facts.get("range") or "", len(entry.body))
            if part is False:
                return _unsatisfiable(entry, headers)
            if isinstance(part, tuple):
                return _part(entry, headers, *part)
    return whole(entry, headers)


def _has_it(entry: Entry, facts: Facts) -> bool:
    """Judge If-None-Match, else If-Modified-Since (RFC 9110 section 13.2.2, RFC 9111 section 4.3.2)."""
    wanted = facts.get("if-none-match")
    if wanted is not None:
        if wanted.strip(" \t") == "*":
            return True
        return entry.etag is not None and entry.etag.removeprefix("W/") in grammar.entity_tags(wanted)
    since = grammar.http_date(facts.get("if-modified-since") or "")
    known = grammar.http_date(entry.modified or entry.get("date") or "")
    return since is not None and known is not None and known <= since


def _range_holds(entry: Entry, facts: Facts) -> bool:
    """Judge If-Range (RFC 9110 section 13.1.5): only a strong match lets a part be put to parts of before."""
    wanted = facts.get("if-range")
    if wanted is None:
        return True
    if wanted.startswith(('"', "W/")):
        return wanted == entry.etag and not wanted.startswith("W/")
    return entry.modified is not None and wanted == entry.modified


def _not_modified(headers: Headers) -> Response:
    """Return a 304: everything but what describes a body that is not there (RFC 9110 section 15.4.5)."""
    for field in list(headers.fields):
        if field[0].startswith(b"content-") and field[0] not in (b"content-location", b"content-security-policy"):
            headers.remove(field[0].decode("latin-1"))
    return ReceivedResponse(304, b"", 1, headers, True, None, False)


def _part(entry: Entry, headers: Headers, first: int, last: int) -> Response:
    headers.set("Content-Range", f"bytes {first}-{last}/{len(entry.body)}")
    response = ReceivedResponse(206, b"", 1, headers, True, last + 1 - first, False)
    response.content = entry.body[first : last + 1]
    return response


def _unsatisfiable(entry: Entry, headers: Headers) -> Response:
    for name in ("content-type", "content-encoding", "etag", "last-modified"):
        headers.remove(name)
    headers.set("Content-Range", f"bytes */{len(entry.body)}")
    return ReceivedResponse(416, b"", 1, headers, True, 0, False)
