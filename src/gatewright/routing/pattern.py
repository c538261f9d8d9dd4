"""Path and host patterns: the text that a route's `match` holds, parsed and checked once, at load.

It knows the grammar of patterns and nothing about tables or requests. Called by the configuration (to refuse
a bad pattern with its place in the file) and by the routing table (to compile good ones).

Grammar of paths: "/a/b" exact; "/items/{id}" one non-empty segment each; "/a/{rest...}", or "/a/*" for short,
any number of further segments, so "/a" and "/a/" too; "~/v[0-9]+/.*" a regular expression that the whole path
must match; "*" the target of `OPTIONS *`. Captured text stays percent-encoded, as it is in the path that is
forwarded.
"""

import re
from enum import IntEnum
from typing import NamedTuple

from gatewright.core.errors import RequestError
from gatewright.core.target import normalise_path


class Segment(IntEnum):
    """What a segment of a pattern is; the smaller, the more specific."""

    END = 0  # nothing more may follow
    LITERAL = 1
    PARAM = 2
    REST = 3


class Pattern(NamedTuple):
    """A path pattern.

    `exact` is the normalised path that it stands for, when it has no parameters. Otherwise `segments` holds
    what is between the slashes, normalised, with None for a parameter; `params` the parameters' names and the
    indexes of their segments; `rest` the name of what the end captures. Or `regex` is set, and nothing else.
    """

    text: str
    exact: str | None = None
    segments: tuple[str | None, ...] = ()
    params: tuple[tuple[str, int], ...] = ()
    rest: str | None = None
    regex: re.Pattern[str] | None = None

    @property
    def shape(self) -> tuple[str | None, ...]:
        """What two patterns share that match the same paths for the same reason; names of parameters do not
        count."""
        if self.regex is not None:
            return ("~", self.regex.pattern)
        if self.exact is not None:
            return ("=", self.exact)
        return ("/" if self.rest is None else "/...", *self.segments)

    @property
    def specificity(self) -> tuple[Segment, ...]:
        """The kinds of the segments, by which two patterns that match one path are compared: smaller goes
        first."""
        kinds = [Segment.PARAM if segment is None else Segment.LITERAL for segment in self.segments]
        return (*kinds, Segment.END if self.rest is None else Segment.REST)

    @property
    def names(self) -> frozenset[str]:
        """The names that a match gives values to."""
        if self.regex is not None:
            return frozenset(self.regex.groupindex)
        return frozenset(name for name, _ in self.params) | ({self.rest} if self.rest is not None else set())


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"(?:\*\.)?[a-z0-9_~-]+(?:\.[a-z0-9_~-]+)*|\[[0-9a-f:.]+\]")


def parse(text: str) -> Pattern:
    """Return the pattern that `text` writes. Raises ValueError with a sentence for the user.

    A regular expression runs on the event loop: one that backtracks without bound (`(a+)+$`) lets a client
    stop the gateway, and nothing here can tell.
    """
    if text == "*":
        return Pattern(text, exact="*")
    if text.startswith("~"):
        return _parse_regex(text)
    if not text.startswith("/"):
        raise ValueError(f'the path {text!r} does not begin with "/" (or "~" for a regular expression)')
    if "?" in text or "#" in text:
        raise ValueError(f'the path {text!r} holds "?" or "#", where a path ends; match the query with `query`')
    segments: list[str | None] = []
    params: list[tuple[str, int]] = []
    rest: str | None = None
    parts = text[1:].split("/")
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        name = _parameter(text, part, last)
        if name is None:
            segments.append(_literal(text, part, last))
            continue
        if name.removesuffix("...") in {known for known, _ in params}:
            raise ValueError(f"the path {text!r} has two parameters named {name.removesuffix('...')!r}")
        if name.endswith("..."):
            rest = name.removesuffix("...")
        else:
            params.append((name, index))
            segments.append(None)
    if rest is None and not params:
        return Pattern(text, exact="/" + "/".join(segment or "" for segment in segments))
    return Pattern(text, segments=tuple(segments), params=tuple(params), rest=rest)


def parse_host(text: str) -> str:
    """Return a host pattern in the form that is matched: lower case, without the final dot.

    "api.example.com" is that host; "*.example.com" every host below it, at any depth, and not itself. Ports
    play no part in matching. Raises ValueError with a sentence for the user.
    """
    host = text.lower().removesuffix(".")
    if _HOST.fullmatch(host):
        return host
    if not text.isascii():
        raise ValueError(f'the host {text!r} is not ASCII: write an international name in its "xn--" form')
    if ":" in text and _HOST.fullmatch(host.partition(":")[0]):
        raise ValueError(f"the host {text!r} has a port, which plays no part in matching: leave it out")
    if text == "*":
        raise ValueError('the host "*" would match every host: leave `host` out instead')
    raise ValueError(f'the host {text!r} is neither a host name nor "*." and a host name')


def _parse_regex(text: str) -> Pattern:
    if len(text) == 1:
        raise ValueError('the path "~" has no regular expression behind it')
    return Pattern(text, regex=compile_regex(text[1:], f"the path {text!r}"))


def compile_regex(expression: str, where: str) -> re.Pattern[str]:
    """Compile `expression`. Raises ValueError that names `where` and what is wrong with it."""
    try:
        return re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{where} is not a valid regular expression: {error}") from error


def _parameter(text: str, part: str, last: bool) -> str | None:
    """Return the name of the parameter that `part` is, with its "..." if it is the rest; None for a
    literal."""
    if part == "*":
        if not last:
            raise ValueError(f'"*" may only end the path {text!r}; for one segment write {{name}}')
        return "rest..."
    if "*" in part:
        raise ValueError(f'"*" must be a segment of its own in the path {text!r}; or use a regular expression')
    if "{" not in part and "}" not in part:
        return None
    if not (part.startswith("{") and part.endswith("}")):
        raise ValueError(
            f"the segment {part!r} of the path {text!r} mixes text and a parameter: "
            "make it one or the other, or use a regular expression"
        )
    name = part[1:-1]
    if not _NAME.fullmatch(name.removesuffix("...")):
        hint = "; for the rest of the path write {rest...}" if name.endswith(":path") else ""
        raise ValueError(f"{part!r} in the path {text!r} is no parameter: letters, digits, _ name one{hint}")
    if name.endswith("...") and not last:
        raise ValueError(f"{part!r} may only end the path {text!r}: it takes all that is left")
    return name


def _literal(text: str, part: str, last: bool) -> str:
    """Return a literal segment in the form that it has in a normalised path."""
    if not part and not last:
        raise ValueError(f'the path {text!r} holds "//", which no normalised path does')
    try:
        normal = normalise_path("/" + part)[1:]
    except RequestError as error:
        raise ValueError(f"the path {text!r} can never match: {error.detail}") from error
    if part and not normal:
        raise ValueError(f"the path {text!r} holds a dot segment, which no normalised path does")
    return normal
