"""A YAML configuration as plain data that remembers where everything stands and which variables went into it.

It owns the step from nodes to values: interpolation, then the types of plain scalars by YAML 1.2's core rules
(so `on`, `no`, `0755` and `10:30` are texts). It knows nothing of the models. The loader calls it, and asks
it for places.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gatewright.control import yaml_tree
from gatewright.control.environment import Interpolated, interpolate
from gatewright.control.errors import At, KeyPath, Problem, quoted
from gatewright.control.yaml_tree import Entry, Node, Place, Scalar, Sequence, YamlError
from gatewright.telemetry.redaction import Redaction
from gatewright.telemetry.secrets import REDACTED, names_secret, setting_is_secret

_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
# Decimal numbers have no leading zero here: YAML 1.1 reads 010 as eight and 1.2 as ten. So it is a text,
# which is refused where a number is wanted. The lengths keep int() from refusing and float()
# from answering infinity. What `_scalar` then refuses would not survive the way to a worker process.
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,39})", re.ASCII)
_BASED = re.compile(r"0(?:x[0-9a-fA-F]{1,16}|o[0-7]{1,22})", re.ASCII)
_FLOAT = re.compile(
    r"[-+]?(?:(?:0|[1-9][0-9]{0,39})(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][-+]?[0-9]{1,2})?", re.ASCII
)
_LEAST, _GREATEST = -(2**63), 2**64 - 1
_SURROGATE = re.compile("[\ud800-\udfff]")  # what Python makes of an environment variable's stray bytes
_REDACTION = Redaction()
_BEFORE_HOST = re.compile(r"((?:[^/@]*//)?).*@", re.DOTALL)  # a password may hold what should be percent-encoded
MAX_TEXT = 32 * 1024 * 1024  # bytes; the channel to a worker takes messages of twice that
_SHORTEST_HIDDEN = 3  # a value of one or two characters is no secret, and hiding it would garble the message

PlainData = Any  # None, bool, int, float, str, list and dict of these
_NOTHING = object()


def resolve_scalar(text: str) -> bool | int | float | str | None:
    """Return what a plain scalar says, by the core rules of YAML 1.2 (see the comments above for what
    differs).
    """
    if text in _NULLS:
        return None
    first = text[0]
    if first in "-+.0123456789":
        if _INTEGER.fullmatch(text):
            return int(text)
        if _BASED.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text)
        return text
    return _BOOLEANS.get(text, text)


class Document:
    """One configuration file's content.

    `data` is what it says; `problems` what is wrong with single values, by key path; `misplaced` what is
    wrong with the YAML itself, by place. Raises YamlError when the text cannot be read.
    """

    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        self._root, place, self.misplaced = yaml_tree.read(text)
        self._last = yaml_tree.place_of(text, len(text))
        self._root_entry = Entry(place, place, self._root)
        self._values = variables
        self._used: dict[KeyPath, tuple[str, ...]] = {}
        self.problems: list[Problem] = []
        self._unreadable: set[KeyPath] = set()
        self._size = 0
        self.data: PlainData = self._build(self._root, ())

    def _build(self, node: Node, path: KeyPath) -> PlainData:
        if isinstance(node, Scalar):
            return self._scalar(node, path)
        if isinstance(node, Sequence):
            return [self._build(entry.node, (*path, index)) for index, entry in enumerate(node.entries)]
        for key in node.entries:
            self._spend(key, path)
        return {key: self._build(entry.node, (*path, key)) for key, entry in node.entries.items()}

    def _scalar(self, node: Scalar, path: KeyPath) -> PlainData:
        done = interpolate(node.text, self._values)
        self._spend(done.text, path)
        self._note(done, path)
        value = resolve_scalar(done.text) if node.plain and not done.problems else done.text
        if isinstance(value, int) and not _LEAST <= value <= _GREATEST:
            self._refuse(path, "has more than 64 bits: if it is no number, put it in quotes")
        elif isinstance(value, str) and not value.isascii() and _SURROGATE.search(value):
            self._refuse(path, "holds bytes that are no UTF-8 text")
        return value

    def _spend(self, text: str, path: KeyPath) -> None:
        """Count a text each time that it stands in `data`, where one that is small in the file may be large."""
        self._size += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        if self._size > MAX_TEXT:
            message = f"more than {MAX_TEXT // 1024**2} MiB of text up to here, aliases and variables followed"
            raise YamlError(self.place(path, At.VALUE), message)

    def _refuse(self, path: KeyPath, message: str) -> None:
        self._unreadable.add(path)
        self.problems.append(Problem(path, message))

    def _note(self, done: Interpolated, path: KeyPath) -> None:
        if done.variables:
            self._used[path] = done.variables
        if done.problems:
            self._unreadable.add(path)
            self.problems.extend(Problem(path, message, suggestion) for message, suggestion in done.problems)

    def known_part(self, path: KeyPath) -> KeyPath:
        """Return the longest beginning of `path` that the file holds."""
        entry = self._root_entry
        for depth, element in enumerate(path):
            found = _child(entry.node, element)
            if found is None:
                return path[:depth]
            entry = found
        return path

    def place(self, path: KeyPath, at: At) -> Place:
        """Return where the key or the value of `path` stands, or of the last part of `path` that the file
        holds.

        What lies below an alias stands where its anchor is; the alias itself stands where it is used.
        """
        known = self.known_part(path)
        entry = self._root_entry
        for element in known:
            entry = _child(entry.node, element) or entry
        at_key = at is At.KEY or (len(known) < len(path) and not isinstance(entry.node, Scalar))
        # The C library puts a list's last entry, if it is empty, behind the end of the file.
        return min(entry.key if at_key else entry.value, self._last)

    def is_unreadable(self, path: KeyPath) -> bool:
        """Tell whether the value at `path` could not be put together from its variables."""
        return path in self._unreadable

    def unreadable_below(self, path: KeyPath) -> bool:
        """Tell whether the value at `path`, or one below it, could not be put together from its variables."""
        size = len(path)
        return any(found[:size] == path for found in self._unreadable)

    def values_of(self, chosen: Callable[[str], bool]) -> frozenset[str]:
        """Return what those variables hold that went into the configuration and whose names are `chosen`.

        So are the numbers that YAML made of them, as Python writes these.
        """
        used = [(path, name) for path, names in self._used.items() for name in names if chosen(name)]
        numbers = [value for value in (self._at(path) for path, _ in used) if isinstance(value, int | float)]
        held = {self._values[name] for _, name in used}
        return frozenset(held | {str(number) for number in numbers if not isinstance(number, bool)})

    def variables_below(self, path: KeyPath) -> list[str]:
        """Return the variables that went into the value at `path`, or below it."""
        if not self._used:
            return []
        size = len(path)
        return [name for used, names in self._used.items() if used[:size] == path for name in names]

    def quote(self, path: KeyPath) -> str | None:
        """Return the scalar at `path` as a message may show it, or None if there is none or it may be a
        secret.
        """
        names = self._used.get(path)
        if names:
            return "the value of " + " and ".join(f"${{{name}}}" for name in names)
        value = self._at(path)
        if value is _NOTHING or isinstance(value, dict | list) or _is_secret(path):
            return None
        return quoted(_without_credentials(value) if isinstance(value, str) else value)

    def _at(self, path: KeyPath) -> PlainData:
        """Return what is at `path`, _NOTHING if there is nothing."""
        value = self.data
        for element in path:
            try:
                value = value[element]
            except (KeyError, IndexError, TypeError):
                return _NOTHING
        return value

    def without_values(self, message: str, path: KeyPath) -> str:
        """Return `message` with the names of variables in place of what they hold, for those used at or below
        `path`; without the value at `path` if it may be a secret, and without credentials.
        """
        for name in self.variables_below(path):
            for shown in _forms(self._values[name]):
                message = message.replace(shown, f"${{{name}}}")
        value = self._at(path)
        if isinstance(value, str) and _is_secret(path):
            for shown in _forms(value):
                message = message.replace(shown, REDACTED)
        return _REDACTION.credentials(message)


def _is_secret(path: KeyPath) -> bool:
    """Tell whether the scalar at `path` may be a secret, by the keys above it."""
    keys = ["", "", *(key for key in path if isinstance(key, str))]
    # What a collector is sent is a credential, whatever it is called.
    return path[:2] == ("tracing", "headers") or any(map(names_secret, keys)) or setting_is_secret(keys[-1], keys[-2])


def _without_credentials(text: str) -> str:
    """Return a text without credentials; a URL without its query and without what stands before its host."""
    text = _REDACTION.credentials(text)
    if "@" in text:
        text = _BEFORE_HOST.sub(r"\1***@", text, count=1)
    before, mark, _ = text.partition("?")
    return f"{before}?***" if mark and "://" in before else text


def _forms(value: str) -> Iterator[str]:
    """Yield the ways in which a message may hold `value`."""
    for form in (value, value.strip(), repr(value)[1:-1], quoted(value)[1:-1]):
        if len(form) >= _SHORTEST_HIDDEN:
            yield form


def _child(node: Node, element: str | int) -> Entry | None:
    if isinstance(node, Sequence):
        return node.entries[element] if isinstance(element, int) and 0 <= element < len(node.entries) else None
    if isinstance(node, Scalar) or not isinstance(element, str):
        return None
    return node.entries.get(element)


__all__ = ["Document", "PlainData", "YamlError", "resolve_scalar"]
