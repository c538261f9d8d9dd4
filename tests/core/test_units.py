"""Durations, sizes and shares: what is taken, and what is refused."""

from collections.abc import Callable

import pytest

from gatewright.core import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("3s", 3.0), ("1.5s", 1.5), ("1m", 60.0), ("2h", 7200.0), ("1d", 86400.0), (0, 0.0), ("0s", 0.0)],
)
def test_durations_are_seconds(text: object, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value", [3, 2.5, True, None, "", "3", "s", "-1s", "3 s", "3sec", "1m30s", "٣s", "367d", [], "1e3s"]
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        units.parse_duration(value)


def test_a_positive_duration_is_not_zero() -> None:
    with pytest.raises(ValueError, match="longer than zero"):
        units.parse_positive_duration("0s")


@pytest.mark.parametrize(
    ("text", "size"),
    [(0, 0), (77, 77), ("5B", 5), ("64KiB", 65536), ("10MB", 10_000_000), ("1.1kB", 1100), ("1GiB", 2**30)],
)
def test_sizes_are_bytes(text: object, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("value", [-1, True, 1.5, "64", "64kib", "0.3B", "MB", None, "9999999999GiB", 2**60])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must"):
        units.parse_size(value)


def test_a_body_may_be_unlimited() -> None:
    assert units.parse_body_limit("unlimited") == 0
    assert units.parse_body_limit("1MiB") == 2**20
    with pytest.raises(ValueError, match='"unlimited" or 0'):
        units.parse_body_limit("lots")


@pytest.mark.parametrize(("text", "share"), [("0%", 0.0), ("50%", 0.5), ("12.5%", 0.125), ("100%", 1.0)])
def test_shares_are_fractions(text: str, share: float) -> None:
    assert units.parse_share(text) == share


@pytest.mark.parametrize("value", [0.5, 50, "50", "101%", "-1%", "%", None])
def test_what_is_no_share_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        units.parse_share(value)


@pytest.mark.parametrize(
    ("text", "parse", "pattern"),
    [
        ("3s", units.parse_duration, units.DURATION_PATTERN),
        ("25ms", units.parse_duration, units.DURATION_PATTERN),
        ("75s", units.parse_duration, units.DURATION_PATTERN),
        ("10MiB", units.parse_size, units.SIZE_PATTERN),
        ("50%", units.parse_share, units.SHARE_PATTERN),
    ],
)
def test_quantities_are_written_as_they_are_read(text: str, parse: Callable[[object], float], pattern: str) -> None:
    assert units.in_words(parse(text), pattern) == text
