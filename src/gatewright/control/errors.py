"""What a configuration error is and how it reads: file, line, column, key path, message, suggestion.

Every part of the control plane that judges a configuration says so in `Problem`s (a key path and a sentence);
the loader turns them into `ConfigError`s, which have a place in a file. Nothing here knows YAML or the
models.
"""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from gatewright.core.text import printable

KeyPath = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_SHOWN = 60
_MOST_ERRORS = 100  # more help nobody, and may take seconds to write


class At(Enum):
    """Which end of an entry an error points at."""

    KEY = "key"
    VALUE = "value"


class Problem(NamedTuple):
    """Something wrong at `path`. `quote`: the message gains by the value, which the loader adds if it may. `wide`: the
    message may hold values from anywhere in the configuration, not only from `path`.
    """

    path: KeyPath
    message: str
    suggestion: str | None = None
    at: At = At.VALUE
    quote: bool = False
    wide: bool = False


@dataclass(frozen=True, slots=True)
class ConfigError:
    """One thing that is wrong with a configuration.

    `line` and `column` count from 1; both are 0 when the file as a whole is meant (it is missing, say).
    `path` is the key path, such as `services.service-a.retry.attempts`, and empty where no key is concerned.
    """

    file: Path
    line: int
    column: int
    path: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else str(self.file)
        subject = f"{self.path}: " if self.path else ""
        meant = f"; did you mean {quoted(self.suggestion)}?" if self.suggestion is not None else ""
        return printable(f"{place}: {subject}{self.message}{meant}")


def path_text(path: KeyPath) -> str:
    """Return a key path as users read it: `routes[2].match.path`; keys that are no plain words are quoted."""
    text = ""
    for element in path:
        if isinstance(element, int):
            text += f"[{element}]"
        else:
            key = element if _PLAIN_KEY.fullmatch(element) else quoted(element)
            text += f".{key}" if text else key
    return text


def quoted(value: object) -> str:
    """Return a scalar between double quotes, or bare if it is a number or true/false/null; cut when it is
    long.
    """
    if isinstance(value, str):
        shown = value if len(value) <= _SHOWN else value[:_SHOWN] + "..."
        return printable(json.dumps(shown, ensure_ascii=False))
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the one of `known` that `word` most likely meant, or None when nothing is close."""
    if len(word) > 100:  # nothing that long is a slip of the keyboard, and the comparison is quadratic
        return None
    return _closest(word, tuple(known))


@lru_cache(maxsize=256)  # the comparison takes a millisecond, and a broken file makes one slip thousands of times
def _closest(word: str, known: tuple[str, ...]) -> str | None:
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return names[found[0]] if found else None


def listed(words: Iterable[str]) -> str:
    """Return "a, b or c"."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


class ConfigurationError(Exception):
    """A configuration cannot be used. `errors` has every reason, with its place; the text is a line for each."""

    def __init__(self, errors: list[ConfigError]) -> None:
        self.errors = errors
        super().__init__("\n".join(str(error) for error in errors))


class StartError(Exception):
    """The gateway cannot start, or not go over to a configuration; the message says why, and what to do.

    `problems` are what is wrong with the configuration, where that is the cause.
    """

    def __init__(self, message: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> "StartError":
        """Return the error that `problems` are."""
        lines = [f"{path_text(each.path)}: {each.message}" if each.path else each.message for each in problems]
        return cls("\n".join(lines), problems)


def first_of(errors: list[ConfigError]) -> list[ConfigError]:
    """Return as many errors as somebody may want to read; the last one says how many more there are."""
    if len(errors) <= _MOST_ERRORS:
        return errors
    more = len(errors) - _MOST_ERRORS
    return [*errors[:_MOST_ERRORS], ConfigError(errors[0].file, 0, 0, "", f"and {more} more errors")]
