"""Quantities as people write them: durations "3s", sizes "64KiB", shares "50%".

It owns their text forms and the pydantic types that models of configurations use, those of plugins too; inside, a
duration is a float in seconds, a size an int in bytes, a share a float from 0 to 1. It knows nothing of the
configuration's shape. No message here quotes the value, which may be a secret that stands in the wrong place: the
loader adds it where it may be shown.
"""

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

DURATION_PATTERN = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$"
SIZE_PATTERN = r"^[0-9]+(\.[0-9]+)?(B|kB|KB|KiB|MB|MiB|GB|GiB)$"
SHARE_PATTERN = r"^[0-9]+(\.[0-9]+)?%$"

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "KiB": 1024,
    "MB": 1000**2,
    "MiB": 1024**2,
    "GB": 1000**3,
    "GiB": 1024**3,
}
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([A-Za-z%]*)", re.ASCII)
_LONGEST = 366 * 86400.0
_LARGEST = 1024**5

_DURATION_HINT = 'must be a duration such as "250ms", "3s", "1m", "2h" or "1d"'
_SIZE_HINT = 'must be a size such as "64KiB" or "10MB", or a whole number of bytes'
_SHARE_HINT = 'must be a percentage such as "50%"'


def parse_duration(value: object) -> float:
    """Return the seconds that `value` writes, at most a year. Only 0 needs no unit. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value == 0:
            return 0.0
        raise ValueError(f"{_DURATION_HINT}: the number has no unit")
    number, unit = _split(value, _DURATION_HINT)
    if unit not in _SECONDS:
        raise ValueError(_DURATION_HINT if unit else f"{_DURATION_HINT}: the number has no unit")
    seconds = float(number) * _SECONDS[unit]
    if seconds > _LONGEST:
        raise ValueError("must be at most a year (366d)")
    return seconds


def parse_positive_duration(value: object) -> float:
    """Return the seconds that `value` writes, as `parse_duration` does, but not zero. Raises ValueError."""
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError("must be longer than zero")
    return seconds


def parse_size(value: object) -> int:
    """Return the bytes that `value` writes; a whole number is bytes already. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        number, unit = _split(value, _SIZE_HINT)
        if unit not in _BYTES:
            raise ValueError(
                _SIZE_HINT if unit else f"{_SIZE_HINT}: write the number without quotes, or give it a unit"
            )
        exact = Fraction(number) * _BYTES[unit]
        if exact.denominator != 1:
            raise ValueError("must come to a whole number of bytes")
        size = int(exact)
    if not 0 <= size <= _LARGEST:
        raise ValueError("must be between 0 and 1024 TiB")
    return size


def parse_body_limit(value: object) -> int:
    """Return the bytes that a body may have, 0 for any number ("unlimited"). Raises ValueError."""
    if value == "unlimited":
        return 0
    try:
        return parse_size(value)
    except ValueError as error:
        raise ValueError(f'{error}; "unlimited" or 0 takes any size') from error


def parse_share(value: object) -> float:
    """Return the share, 0 to 1, that a percentage writes. Raises ValueError."""
    number, unit = _split(value, _SHARE_HINT)
    if unit != "%":
        raise ValueError(_SHARE_HINT)
    if float(number) > 100:
        raise ValueError("must be at most 100%")
    return float(number) / 100


def in_words(value: float, pattern: str) -> str:
    """Return a duration, size or share (by the pattern of its text) as a configuration writes it."""
    if pattern == SHARE_PATTERN:
        return f"{value * 100:g}%"
    units = _SECONDS if pattern == DURATION_PATTERN else {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
    for unit, factor in sorted(units.items(), key=lambda item: -item[1]):
        count = Fraction(str(value)) / Fraction(str(factor))
        if count >= 1 and count.denominator == 1:
            return f"{count}{unit}"
    return "0"


def _split(value: object, hint: str) -> tuple[str, str]:
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(hint)
    return match.group(1), match.group(2)


def _text_schema(pattern: str, examples: list[Any]) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, "examples": examples}


_DURATION_SCHEMA = _text_schema(DURATION_PATTERN, ["250ms", "3s", "1m"])
_ZERO_SCHEMA = {"const": 0}
_SIZE_SCHEMA = {"anyOf": [_text_schema(SIZE_PATTERN, ["64KiB", "10MB"]), {"type": "integer", "minimum": 0}]}

Duration = Annotated[float, BeforeValidator(parse_positive_duration), WithJsonSchema(_DURATION_SCHEMA)]
"""Seconds, more than zero."""

DurationOrZero = Annotated[
    float, BeforeValidator(parse_duration), WithJsonSchema({"anyOf": [_DURATION_SCHEMA, _ZERO_SCHEMA]})
]
"""Seconds. What zero means, the field's description says."""

Size = Annotated[int, BeforeValidator(parse_size), WithJsonSchema(_SIZE_SCHEMA)]
"""Bytes."""

BodyLimit = Annotated[
    int,
    BeforeValidator(parse_body_limit),
    WithJsonSchema({"anyOf": [*_SIZE_SCHEMA["anyOf"], {"const": "unlimited"}]}),
]
"""Bytes; 0 for any number."""

Share = Annotated[
    float,
    BeforeValidator(parse_share),
    Field(ge=0, le=1),
    WithJsonSchema(_text_schema(SHARE_PATTERN, ["50%"])),
]
"""A part of a whole, 0 to 1."""
