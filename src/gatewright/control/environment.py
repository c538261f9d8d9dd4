"""Variables: where `${NAME}` gets its value from, and how it is put in.

It owns the syntax of `${NAME}`, `${NAME:-default}`, `${NAME:+text}`, `${NAME:?hint}` and `$$`, and that of `.env`
files. It knows neither YAML nor the models. Messages name variables and never show what they hold. `document.py` calls
`interpolate`, the admin API `escaped`, the loader the rest.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from gatewright.control.errors import closest

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_OTHERWISE = r":-(?P<default>[^{}]*)|:\+(?P<instead>[^{}]*)|:\?(?P<hint>[^{}]*)"
_PIECE = re.compile(rf"\$\$|\$\{{(?P<name>{_NAME})(?:{_OTHERWISE})?\}}|\$\{{(?P<broken>)", re.ASCII | re.DOTALL)
_BRACE_IN_DEFAULT = re.compile(rf"\$\{{{_NAME}:[-+?][^{{}}]*\{{", re.ASCII)
_LINE = re.compile(rf"\s*(?:export\s+)?(?P<name>{_NAME})\s*=[ \t]*(?P<value>.*)", re.ASCII | re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_DOUBLE_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SINGLE_QUOTED = re.compile(r"'([^']*)'")
_COMMENT = re.compile(r"\s*(?:#.*)?", re.DOTALL)


class Interpolated(NamedTuple):
    """A text with its variables put in. `variables` are those that gave it something; `problems` say what is
    wrong.
    """

    text: str
    variables: tuple[str, ...] = ()
    problems: tuple[tuple[str, str | None], ...] = ()  # message and suggestion


class EnvLine(NamedTuple):
    """What is wrong with a line of a .env file; `line` counts from 1."""

    line: int
    message: str


def interpolate(text: str, variables: Mapping[str, str]) -> Interpolated:
    """Put variables into `text`.

    `${NAME}` is the variable's value, empty if it is set so; `${NAME:-default}` is the default when it is
    unset or empty, and `${NAME:+text}` is empty then, else the text; with `${NAME:?hint}` that is a problem, and the
    hint says what to do about it. `$$` is a dollar sign, and so is a `$` before anything but `{`. A value is put in
    as it is: dollar signs within it mean nothing. `$$` is one within a default, text or hint too, which hold no
    braces, so nothing nested is taken for something that it is not.
    """
    if "$" not in text:
        return Interpolated(text)
    used: list[str] = []
    problems: dict[tuple[str, str | None], None] = {}  # in order, each once

    def replace(match: re.Match[str]) -> str:
        if match.group() == "$$":
            return "$"
        name, default, hint = match.group("name"), match.group("default"), match.group("hint")
        if name is None:
            problems[_broken(text, match.start()), None] = None
            return ""
        value = variables.get(name)
        if match.group("instead") is not None:
            return match.group("instead").replace("$$", "$") if value else ""
        if default is not None and not value:
            return str(default).replace("$$", "$")
        if hint is not None and not value:
            message = f"the variable {name} is {'not set' if value is None else 'empty'}: "
            message += hint.replace("$$", "$") or "set it"
            problems[message, closest(name, variables) if value is None else None] = None
            return ""
        if value is None:
            message = f"the variable {name} is not set: set it, or give it a default with ${{{name}:-...}}"
            problems[message, closest(name, variables)] = None
            return ""
        if name not in used:
            used.append(name)
        return value

    return Interpolated(_PIECE.sub(replace, text), tuple(used), tuple(problems))


def escaped(text: str) -> str:
    """Return what a file says for `text`: dollar signs are doubled where `interpolate` would take one for more."""
    return text.replace("$", "$$") if "$$" in text or "${" in text else text


def _broken(text: str, start: int) -> str:
    if _BRACE_IN_DEFAULT.match(text, start):
        return "what follows :-, :+ or :? in ${NAME:-default} may not hold braces or another ${...}"
    return "${ is not followed by NAME}, NAME:-default}, NAME:+text} or NAME:?hint}; for a literal ${ write $${"


def read_env(text: str) -> tuple[dict[str, str], list[EnvLine]]:
    """Return the variables of a .env file and what is wrong with its lines.

    A line is `NAME=value`, optionally after `export`; blank lines and `#` comments are skipped. A value in
    single quotes is taken as it is; in double quotes `\\n`, `\\r`, `\\t` and `\\` before any other character
    are escapes; without quotes it ends before ` #`. Nothing is expanded: `${` outside single quotes is an
    error rather than a surprise.
    """
    values: dict[str, str] = {}
    problems: list[EnvLine] = []
    for number, line in enumerate(re.split("\r\n|[\r\n]", text), start=1):
        if _COMMENT.fullmatch(line):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            problems.append(EnvLine(number, "must be NAME=value, a # comment or blank"))
            continue
        try:
            values[match.group("name")] = _env_value(match.group("value"))
        except ValueError as error:
            problems.append(EnvLine(number, f"{match.group('name')}: {error}"))
    return values, problems


def _env_value(raw: str) -> str:
    if raw.startswith(("'", '"')):
        single = raw.startswith("'")
        match = (_SINGLE_QUOTED if single else _DOUBLE_QUOTED).match(raw)
        if match is None:
            raise ValueError("the quote does not end in this line")
        if not _COMMENT.fullmatch(raw, match.end()):
            raise ValueError("something follows the closing quote")
        value = match.group(1)
        if single:
            return value
        _refuse_expansion(value)
        return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape.group(1), escape.group(1)), value)
    value = re.split(r"(?:^|\s)#", raw, maxsplit=1)[0].strip()
    _refuse_expansion(value)
    return value


def _refuse_expansion(value: str) -> None:
    if re.search(r"(?<!\\)\$\{", value):
        raise ValueError("variables are not expanded here; for a literal ${ use single quotes")
