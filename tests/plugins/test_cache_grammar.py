"""What fields say to a cache."""

import pytest

from gatewright.plugins.cache import grammar

MOMENT = 784111777.0  # the example of RFC 9110 section 5.6.7


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("max-age=5", {"max-age": "5"}),
        ("  Max-Age=5 ,, no-STORE , ", {"max-age": "5", "no-store": None}),
        ("max-age=1, max-age=2", {"max-age": "1"}),
        ('private="a, b", max-age="5"', {"private": "a, b", "max-age": "5"}),
        ('x="max-age=1", y', {"x": "max-age=1", "y": None}),
        ('no-cache="a, no-store', {"no-cache": '"a', "no-store": None}),
        ("max-age =5, =5, a b", {}),
        ("max-age=", {"max-age": ""}),
    ],
)
def test_directives(text, found):
    assert grammar.directives(text) == found


def test_a_long_line_of_quotes_is_read_in_no_time():
    assert grammar.directives('"' * 8191) == {}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0060", 60), ("2147483648", 2**31), ("9" * 20, 2**31), ("", None), (None, None), ("-1", None), ("1.5", None), (" 1", None), ("9" * 21, None), ("٣", None)],
)  # fmt: skip
def test_delta_seconds(text, seconds):
    assert grammar.delta_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "sun, 06 nov 1994 08:49:37 gmt"]
)  # fmt: skip
def test_dates(text):
    assert grammar.http_date(text) == MOMENT


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nov 1994 08:49:37 UTC", "Sun, 6 Nov 1994 08:49:37 GMT", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 24:49:37 GMT", "Sun, 32 Nov 1994 08:49:37 GMT", "x" * 8000],
)  # fmt: skip
def test_what_is_no_date(text):
    assert grammar.http_date(text) is None


@pytest.mark.parametrize(
    ("values", "age"), [([], 0), (["5"], 5), (["5, 7"], 5), (["5", "7"], 5), (["x"], 0), (["-5"], 0), (["5.0"], 0)]
)
def test_age(values, age):
    assert grammar.age_value(values) == age


@pytest.mark.parametrize(
    ("text", "tags"),
    [('"a"', ['"a"']), ('W/"a"', ['"a"']), ('"a", W/"b","c,d"', ['"a"', '"b"', '"c,d"']), ("a", ["a"]), ('""', ['""'])],
)
def test_entity_tags(text, tags):
    assert grammar.entity_tags(text) == tags


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("bytes=0-0", (0, 0)), ("bytes=0-", (0, 9)), ("bytes=9-", (9, 9)), ("bytes=0-99", (0, 9)), ("bytes=-1", (9, 9)),
        ("bytes=-99", (0, 9)), ("bytes = 1-2", (1, 2)), ("bytes=10-", False), ("bytes=10-11", False), ("bytes=-0", False),
        ("bytes=2-1", None), ("bytes=", None), ("bytes=-", None), ("bytes=a-b", None), ("bytes=0-1,2-3", None), ("x=0-1", None),
    ],
)  # fmt: skip
def test_byte_ranges(text, part):
    assert grammar.byte_range(text, 10) == part


def test_nothing_has_no_range():
    assert grammar.byte_range("bytes=0-", 0) is False
    assert grammar.byte_range("bytes=-1", 0) is False
