"""Quantities as the configuration writes them. They live in `core.units`, because plugins' settings use them too."""

from gatewright.core.units import (
    DURATION_PATTERN,
    SHARE_PATTERN,
    SIZE_PATTERN,
    BodyLimit,
    Duration,
    DurationOrZero,
    Share,
    Size,
    in_words,
    parse_body_limit,
    parse_duration,
    parse_positive_duration,
    parse_share,
    parse_size,
)

__all__ = [
    "DURATION_PATTERN",
    "SHARE_PATTERN",
    "SIZE_PATTERN",
    "BodyLimit",
    "Duration",
    "DurationOrZero",
    "Share",
    "Size",
    "in_words",
    "parse_body_limit",
    "parse_duration",
    "parse_positive_duration",
    "parse_share",
    "parse_size",
]
