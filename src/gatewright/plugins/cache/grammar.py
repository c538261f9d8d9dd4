"""What header fields say to a cache: Cache-Control, dates, Age, entity tags, byte ranges. Text in, values out.

Lenient nowhere: what breaks the grammar is not guessed at but counts as absent, or as stale where it is about
freshness (RFC 9111 section 4.2.1). Knows no messages and no clock; the cache's policy calls it.
"""

import re
from calendar import timegm
from collections.abc import Sequence
from functools import lru_cache

NEVER_STALE = 2**31  # seconds; RFC 9111 section 1.2.2: anything larger means this

Directives = dict[str, str | None]

_MEMBER = re.compile(r'(?:[^",]|"[^"]*"|")+')  # up to the next comma outside of quotes
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SECONDS = re.compile(r"[0-9]{1,20}", re.ASCII)
_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))[ \t]*", re.ASCII)

_DAYS = r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?"
_TIME = r"([0-9]{2}):([0-9]{2}):([0-9]{2})"
_DATES = (
    re.compile(rf"{_DAYS}, ([0-9]{{2}}) ([a-z]{{3}}) ([0-9]{{4}}) {_TIME} gmt", re.ASCII | re.IGNORECASE),
    re.compile(rf"{_DAYS}, ([0-9]{{2}})-([a-z]{{3}})-([0-9]{{2}}) {_TIME} gmt", re.ASCII | re.IGNORECASE),
)
_ASCTIME = re.compile(rf"{_DAYS} ([a-z]{{3}}) ([0-9 ][0-9]) {_TIME} ([0-9]{{4}})", re.ASCII | re.IGNORECASE)
_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number + 1 for number, name in enumerate(_NAMES)}


@lru_cache(maxsize=1024)
def directives(value: str) -> Directives:
    """Return the directives of Cache-Control fields (joined by commas), names in lower case. Do not change the result.

    Of a directive that comes twice the first counts (RFC 9111 section 4.2.1). What is no directive is left out.
    """
    found: Directives = {}
    for member in _MEMBER.findall(value):
        name, equals, text = member.strip(" \t").partition("=")
        if not _TOKEN.fullmatch(name):
            continue
        if len(text) > 1 and text[0] == text[-1] == '"':
            text = text[1:-1]
        found.setdefault(name.lower(), text if equals else None)
    return found


def delta_seconds(value: str | None) -> int | None:
    """Return a number of seconds, at most 2**31, or None for what is not one (RFC 9111 section 1.2.2)."""
    if value is None or not _SECONDS.fullmatch(value):
        return None
    return min(int(value), NEVER_STALE)


def age_value(values: Sequence[str]) -> int:
    """Return the Age that a message came with, in seconds; 0 without a valid one. Of several the first counts."""
    if not values:
        return 0
    return delta_seconds(values[0].partition(",")[0].strip(" \t")) or 0


@lru_cache(maxsize=1024)
def http_date(value: str) -> float | None:
    """Return the seconds since the epoch of an HTTP date, in any of its three forms (RFC 9110 section 5.6.7)."""
    for pattern in _DATES:
        if (match := pattern.fullmatch(value)) is not None:
            day, month, year, *time = match.groups()
            break
    else:
        match = _ASCTIME.fullmatch(value)
        if match is None:
            return None
        month, day, *time, year = match.groups()
    number = _MONTHS.get(month.lower())
    hour, minute, second = (int(part) for part in time)
    full_year = int(year) if len(year) == 4 else _full_year(int(year))
    if number is None or not 1 <= int(day) <= 31 or hour > 23 or minute > 59 or second > 60:
        return None
    return float(timegm((full_year, number, int(day), hour, minute, second)))


def _full_year(two_digits: int) -> int:
    # RFC 850 dates are long out of use: what is written in them is of this century until it is past 2069.
    return two_digits + (2000 if two_digits < 70 else 1900)


def entity_tags(value: str) -> list[str]:
    """Return the entity tags of an If-None-Match, each without its weakness; a value of another form is one tag."""
    return [tag.removeprefix("W/") for tag in _TAG.findall(value)] or [value.strip(" \t")]


def names(value: str) -> list[str]:
    """Return the comma-separated members of a field, in lower case."""
    return [member for part in value.split(",") if (member := part.strip(" \t").lower())]


def byte_range(value: str, size: int) -> tuple[int, int] | bool | None:
    """Return the (first, last) byte that a Range field asks for of `size` bytes.

    None when it asks for nothing that one part can answer (several ranges, another unit, no valid range): the whole is
    the answer then. False when no byte of it exists (RFC 9110 section 14.1.2).
    """
    match = _RANGE.fullmatch(value)
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return (max(0, size - int(suffix)), size - 1) if int(suffix) and size else False
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        return False
    return int(first), min(int(last), size - 1) if last else size - 1
