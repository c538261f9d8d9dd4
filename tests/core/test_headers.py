"""Header fields: order, case and duplicates survive every edit, and nothing gets in that could break a message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.core.headers import FORWARDING, HOP, Headers, make_field, mark_of

PAIRS = [("Accept", "a"), ("X-One", "1"), ("accept", "b"), ("X-Two", "2")]


@pytest.fixture
def headers():
    return Headers.of(PAIRS)


def test_reading(headers):
    assert list(headers.items()) == PAIRS
    assert (headers.get("ACCEPT"), headers.get_all("accept"), headers.get("none", "x")) == ("a", ["a", "b"], "x")
    assert ("x-one" in headers, "x-none" in headers, len(headers)) == (True, False, 4)
    assert Headers.of([("TE", "a, B ,"), ("te", "c")]).tokens("te") == ["a", "b", "c"]


def test_set_replaces_all_in_the_place_of_the_first(headers):
    headers.set("ACCEPT", "c")
    headers.set("X-New", "n")
    assert list(headers.items()) == [("ACCEPT", "c"), PAIRS[1], PAIRS[3], ("X-New", "n")]


def test_remove_and_rename(headers):
    headers.remove("accept")
    headers.rename("x-one", "X-Three")
    headers.remove("none")
    assert list(headers.items()) == [("X-Three", "1"), ("X-Two", "2")]


@pytest.mark.parametrize("edit", ["add", "set"])
def test_a_new_field_goes_on_with_what_came_and_leaves_copies_alone(edit):
    headers = Headers.of(PAIRS)
    headers.wire = came = headers.join(0)
    copy = headers.copy()
    getattr(headers, edit)("X-More", "m")
    assert (headers.wire, copy.wire, len(copy)) == (came + b"X-More: m\r\n", came, 4)
    assert headers.join(0) == headers.wire


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Connection", "Date"])
def test_a_field_that_the_gateway_looks_after_is_joined_anew(name):
    headers = Headers.of(PAIRS)
    headers.wire = headers.join(0)
    headers.add(name, "1")
    assert headers.wire is None


@pytest.mark.parametrize("edit", [("set", "Accept", "z"), ("remove", "X-Two"), ("rename", "X-Two", "X-Three")])
def test_any_other_edit_forgets_the_wire_form(edit):
    headers = Headers.of(PAIRS)
    headers.wire = headers.join(0)
    method, *arguments = edit
    getattr(headers, method)(*arguments)
    assert headers.wire is None


def test_edits_keep_the_marks():
    headers = Headers.of([("X-A", "1")])
    headers.rename("X-A", "X-Forwarded-For")
    assert headers.marks & FORWARDING
    assert headers.join(FORWARDING) == b""


def test_underscores_do_not_smuggle_a_managed_name():
    assert mark_of(b"x_forwarded_for") == HOP
    assert mark_of(b"content_length") == HOP
    assert mark_of(b"my_field") == 0


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "é", "a\x00", "(a)"])
def test_names_that_are_none(name):
    with pytest.raises((ValueError, UnicodeError)):
        make_field(name, "x")


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb", "a\x00", "a\x7f", "\x1b[0m"])
def test_values_that_would_break_a_message(value):
    for edit in (Headers.add, Headers.set):
        with pytest.raises(ValueError, match="control character"):
            edit(Headers(), "X-A", value)


@given(st.text(max_size=30))
def test_whatever_is_taken_is_one_line(value):
    try:
        field = make_field("X-A", value)
    except (ValueError, UnicodeError):
        return
    assert field[2] == b"X-A: " + field[1] + b"\r\n"
    assert not set(field[1]) & {0, 10, 13}


def test_a_long_way_of_latin_1_and_what_is_beyond_it():
    headers = Headers.of([("X-A", "é"), ("X-B", "☕")])
    assert headers.get("x-a") == "é"
    assert headers.fields[1][1] == "☕".encode()
