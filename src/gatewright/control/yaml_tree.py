"""YAML text to a tree of nodes that know their places, within bounds.

It owns what YAML this project takes: one document, text keys without duplicates, anchors, aliases and merge
keys, no tags. It reads the parser's events itself, not PyYAML's composed nodes: those recurse without a
bound, keep the last of two equal keys, and let an alias bomb through. It knows nothing of configuration;
`document.py` calls it.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

Place = tuple[int, int]  # line and column, both from 1

MAX_DEPTH = 64
MAX_NODES = 1_000_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # eight times as fast where the C library is there
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")


class YamlError(Exception):
    """The text is not YAML that is taken. `place` is where, `message` why."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


class Scalar:
    """A text. `plain`: written without quotes, so that its type depends on what it says."""

    __slots__ = ("plain", "text")
    size = 1
    height = 0

    def __init__(self, text: str, plain: bool) -> None:
        self.text = text
        self.plain = plain


class Entry(NamedTuple):
    """One value of a mapping or sequence. In a sequence `key` is the place of the value."""

    key: Place
    value: Place
    node: "Node"


class Sequence:
    """A list. `size` counts its nodes, aliases followed; `height` the levels below it."""

    __slots__ = ("entries", "height", "size")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.size = 1
        self.height = 0


class Mapping:
    """A mapping by text keys; what merge keys (`<<`) bring is in it like the rest."""

    __slots__ = ("entries", "height", "size")

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.size = 1
        self.height = 0


Node = Scalar | Sequence | Mapping


def read(text: str, loader: Any = _LOADER) -> tuple[Node, Place, list[YamlError]]:
    """Return the one document of `text`, its place, and what is wrong with it that does not keep it from
    being read.

    Such are duplicate and unusable keys and tags. Raises YamlError for what nothing can be read behind: bad
    syntax, an unknown alias, a second document, nesting deeper than `MAX_DEPTH`, more than `MAX_NODES` nodes,
    no document at all.
    """
    unprintable = _UNPRINTABLE.search(text)
    if unprintable is not None:
        code = f"U+{ord(unprintable.group()):04X}"
        raise YamlError(place_of(text, unprintable.start()), f"the character {code} may not stand in a YAML file")
    events = yaml.parse(text, Loader=loader)
    try:
        return _Composer(events).document()
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(text, error) from error
    except (
        yaml.YAMLError,
        ValueError,
        OverflowError,
    ) as error:  # an escape such as "\UFFFFFFFF", without a place
        raise YamlError((1, 1), f"not valid YAML: {error}") from error


def place_of(text: str, index: int) -> Place:
    """Return line and column of the character at `index`."""
    line, start = 1, 0
    for match in _LINE_BREAK.finditer(text, 0, index):
        line, start = line + 1, match.end()
    return line, index - start + 1


def _syntax_error(text: str, error: yaml.MarkedYAMLError) -> YamlError:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return YamlError((1, 1), f"not valid YAML: {error.problem}")
    lines = _LINE_BREAK.split(text)
    line = min(mark.line, len(lines) - 1)
    content = lines[line]
    column = min(mark.column, len(content))
    message = f"not valid YAML: {error.problem}"
    if error.context is not None:
        since = error.context_mark
        message += f" ({error.context}" + (f" that began in line {since.line + 1})" if since is not None else ")")
    if content[column : column + 1] == "\t":
        message = "not valid YAML: a tab stands where only spaces may; indent with spaces"
    elif "${" in content:
        message += '; a value with ${...} needs quotes inside { } and [ ]: "${NAME}"'
    return YamlError((line + 1, column + 1), message)


def _place(mark: Any) -> Place:
    return mark.line + 1, mark.column + 1


class _Composer:
    """Builds nodes from events. Recursion is bounded by MAX_DEPTH."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, Node | None] = {}  # None: its node is not complete yet
        self._problems: list[YamlError] = []
        self._spent = 0

    def document(self) -> tuple[Node, Place, list[YamlError]]:
        next(self._events)  # StreamStart
        first = next(self._events)
        if isinstance(first, yaml.StreamEndEvent):
            raise YamlError((1, 1), "the file is empty")
        place, node = self._node(next(self._events), 0)
        next(self._events)  # DocumentEnd
        second = next(self._events)
        if not isinstance(second, yaml.StreamEndEvent):
            raise YamlError(_place(second.start_mark), "a second document begins here; a configuration is one document")
        return node, place, self._problems

    def _node(self, event: Any, depth: int) -> tuple[Place, Node]:
        place = _place(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            return place, self._alias(str(event.anchor), place, depth)
        if depth > MAX_DEPTH:
            raise YamlError(place, f"nested deeper than {MAX_DEPTH} levels")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if event.tag is not None:
            self._problems.append(YamlError(place, "YAML tags (!...) are not taken; remove it"))
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = Scalar(event.value, event.style is None or event.style == "")
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(depth)
        else:
            node = self._mapping(depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        self._spend(1, place)
        return place, node

    def _alias(self, name: str, place: Place, depth: int) -> Node:
        if name not in self._anchors:
            raise YamlError(place, f"the alias *{name} has no anchor &{name} before it")
        node = self._anchors[name]
        if node is None:
            raise YamlError(place, f"the alias *{name} stands inside what it names")
        if depth + node.height > MAX_DEPTH:
            raise YamlError(place, f"nested deeper than {MAX_DEPTH} levels, aliases followed")
        self._spend(node.size, place)
        return node

    def _spend(self, nodes: int, place: Place) -> None:
        self._spent += nodes
        if self._spent > MAX_NODES:
            raise YamlError(place, f"more than {MAX_NODES:,} values up to here, aliases followed")

    def _sequence(self, depth: int) -> Sequence:
        node = Sequence()
        event = next(self._events)
        while not isinstance(event, yaml.SequenceEndEvent):
            place, child = self._node(event, depth + 1)
            node.entries.append(Entry(place, place, child))
            _count(node, child)
            event = next(self._events)
        return node

    def _mapping(self, depth: int) -> Mapping:
        node = Mapping()
        merges: list[Entry] = []
        event = next(self._events)
        while not isinstance(event, yaml.MappingEndEvent):
            key_place, key = self._node(event, depth + 1)
            place, child = self._node(next(self._events), depth + 1)
            event = next(self._events)
            nothing = isinstance(child, Scalar) and child.plain and not child.text
            entry = Entry(key_place, key_place if nothing else place, child)
            if not isinstance(key, Scalar):
                self._problems.append(YamlError(key_place, "a key must be a text, not a list or a mapping"))
            elif key.plain and key.text == "<<":
                merges.append(entry)
            elif key.text in node.entries:
                line = node.entries[key.text].key[0]
                self._problems.append(
                    YamlError(key_place, f"the key {key.text!r} stands here twice, first in line {line}")
                )
            else:
                node.entries[key.text] = entry
                _count(node, child)
        for entry in merges:
            self._merge(node, entry)
        return node

    def _merge(self, node: Mapping, merge: Entry) -> None:
        """Give `node` the entries of `<<: *name` or `<<: [*a, *b]` that it does not have itself."""
        sources = merge.node.entries if isinstance(merge.node, Sequence) else [merge]
        for source in sources:
            if not isinstance(source.node, Mapping):
                self._problems.append(YamlError(source.value, "<< takes a mapping, or a list of them"))
                continue
            for key, entry in source.node.entries.items():
                if key not in node.entries:
                    node.entries[key] = entry
                    _count(node, entry.node)


def _count(parent: Sequence | Mapping, child: Node) -> None:
    parent.size += child.size
    parent.height = max(parent.height, child.height + 1)
