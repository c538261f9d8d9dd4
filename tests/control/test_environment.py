"""Variables: interpolation, and the syntax of .env files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.control.environment import escaped, interpolate, read_env

VALUES = {"A": "1", "EMPTY": "", "ODD": "${A} $$ {x}"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${A}", "1"),
        ("${A:-9}", "1"),
        ("${EMPTY}", ""),
        ("${EMPTY:-9}", "9"),
        ("${NONE:-}", ""),
        ("${NONE:-http://h:1/p?q}", "http://h:1/p?q"),
        ("${NONE:-0.0.0.0}:${A}", "0.0.0.0:1"),
        ("$${A} $$$$", "${A} $$"),
        ("~^/x$", "~^/x$"),
        ("$HOME $5", "$HOME $5"),
        ("${ODD}", "${A} $$ {x}"),
        ("${NONE:-$$5}", "$5"),
        ("${A:?set it}", "1"),
        ("${A:+$$x}", "$x"),
        ("${EMPTY:+x}${NONE:+x}", ""),
    ],
)
def test_variables_are_put_in(text: str, result: str) -> None:
    assert interpolate(text, VALUES)[::2] == (result, ())


@pytest.mark.parametrize(
    "text",
    [
        "${NONE}",
        "${",
        "${}",
        "${A",
        "${1A}",
        "${A-x}",
        "${NONE:?x}",
        "${EMPTY:?}",
        "${A:?{x}}",
        "${A:+{x}}",
        "${A+x}",
        "${A?x}",
        "${ A }",
        "${NONE:-${A}}",
        "${NONE:-{x}}",
        "${A:-}}${",
    ],
)
def test_what_cannot_be_put_in_is_told(text: str) -> None:
    assert interpolate(text, VALUES).problems


def test_an_unset_variable_is_named_with_what_was_meant() -> None:
    ((message, suggestion),) = interpolate("${JWT_SECRT}", {"JWT_SECRET": "hush"}).problems
    assert "JWT_SECRT is not set" in message
    assert suggestion == "JWT_SECRET"


@pytest.mark.parametrize(("variables", "state"), [({}, "not set"), ({"KEY": ""}, "empty")])
def test_a_variable_that_must_be_set_says_what_to_do(variables: dict[str, str], state: str) -> None:
    ((message, _),) = interpolate("${KEY:?write KEY=$$(a b) into .env}", variables).problems
    assert message == f"the variable KEY is {state}: write KEY=$(a b) into .env"


@given(st.text() | st.text(alphabet="${}A"))
def test_escaped_text_comes_back(text: str) -> None:
    assert interpolate(text.replace("$", "$$"), {}).text == text
    assert interpolate(escaped(text), VALUES) == (text, (), ())


@pytest.mark.parametrize("text", ["~^/x$", "$HOME $5 {A}", ""])
def test_a_dollar_sign_that_means_nothing_stays_single(text: str) -> None:
    assert escaped(text) == text


@given(st.text(), st.text())
def test_a_value_is_put_in_as_it_is(value: str, around: str) -> None:
    escaped = around.replace("$", "$$")
    assert interpolate(f"{escaped}${{X}}{escaped}", {"X": value}).text == around + value + around


def test_env_files_are_read() -> None:
    text = (
        "# comment\r\n\nA=1\nexport B = two words # note\n"
        'C=\'${x} #\'\nD="a\\nb\\"c\\$" # note\nE=\nF=a#b\nA=3\n  G==\n'
    )
    values, problems = read_env(text)
    assert problems == []
    assert values == {"A": "3", "B": "two words", "C": "${x} #", "D": 'a\nb"c$', "E": "", "F": "a#b", "G": "="}


@pytest.mark.parametrize(
    "line", ["A", "=x", "1A=x", "A='x", 'A="x', "A='x' y", "A=${B}", 'A="${B}"', "A B=hush", 'A="x\\"']
)
def test_a_bad_env_line_is_told_without_its_value(line: str) -> None:
    values, ((number, message),) = read_env(f"X=1\n{line}\n")
    assert values == {"X": "1"}
    assert number == 2
    assert "hush" not in message


@given(st.text())
def test_any_env_file_is_read_or_told(text: str) -> None:
    values, problems = read_env(text)
    assert all("\n" not in name for name in values)
    assert all(problem.line >= 1 for problem in problems)


def test_one_mistake_many_times_in_a_text_is_one_problem() -> None:
    assert len(interpolate("${" * 1000 + "${NONE} ${NONE}", VALUES).problems) == 2
