"""What one worker counts: plain numbers in lists, one list for each (route, service, method, status, scheme).

It owns the layout of the rows and the bounds of their labels: nothing that a client sends can make a row without end.
It knows neither the channel that the rows travel on nor what is made of them. The recorder calls `record` at the end of
each exchange, the worker asks for `changes`; `totals` sums them, `exposition` shows them.
"""

import logging
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from gatewright.core.errors import REASONS
from gatewright.core.exchange import Exchange

_log = logging.getLogger("gatewright.telemetry")
OTHER = "_OTHER"
# OpenTelemetry's semantic conventions for HTTP, http.server.request.duration. In seconds; the last bucket has no bound.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"])
MAX_ROWS = 20_000  # of all routes, services, methods and statuses that this worker has seen
MAX_REASONS = 200  # that plugins have made up
MAX_PLUGIN_ROWS = 2_000  # of all counters of all plugins
MAX_AGES = 200  # of all plugins
CHANGES = 5_000  # rows that are told at once
CLIENT_GONE = 499

# The kinds of rows, and the places of an exchange row's numbers. Seconds are floats here and whole nanoseconds in what
# `changes` returns: whole numbers add up to the same sum in any order, and a counter must never go back by a rounding.
EXCHANGES, REASON_COUNTS, LINES_DROPPED, PLUGIN_COUNTS = "exchanges", "reasons", "lines_dropped", "plugins"
SPANS_DROPPED = "spans_dropped"
_HISTOGRAM = len(BOUNDS) + 1
UPSTREAM_BUCKETS = _HISTOGRAM  # those of the whole exchange stand before them, from 0 on
SECONDS, BYTES_IN, BYTES_OUT, RETRIES, UPSTREAM_SECONDS = range(2 * _HISTOGRAM, 2 * _HISTOGRAM + 5)
LENGTH = 2 * _HISTOGRAM + 5
NANO = 1_000_000_000

_REASON = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_]+", re.ASCII)
_LABEL = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*", re.ASCII)  # two underscores are Prometheus's own

Numbers = list[Any]  # int, but for the seconds


class Cell:
    """One counter of a plugin."""

    __slots__ = ("told", "value")

    def __init__(self) -> None:
        self.value = 0
        self.told = -1  # so that a counter that has not counted yet is told too: Prometheus sees it grow from 0

    def add(self) -> None:
        """Add one."""
        self.value += 1


class Age:
    """When something of a plugin last went well: `at` in seconds of the machine's monotonic clock, None: not told."""

    __slots__ = ("_at",)

    def __init__(self, at: float | None) -> None:
        self._at = at

    @property
    def at(self) -> float | None:
        """The time; setting it raises TypeError for what is no number, ValueError for one that is no time."""
        return self._at

    @at.setter
    def at(self, at: float | None) -> None:
        if at is not None and not math.isfinite(at):
            raise ValueError(f"{at} is no time")
        self._at = float(at) if at is not None else None


class Counters:
    """One worker's numbers; they only grow. `lines_dropped` and `spans_dropped` are set by who knows them."""

    def __init__(self) -> None:
        self.lines_dropped = 0
        self.spans_dropped = 0
        # What has changed since the last `changes` is looked up first: an exchange pays nothing to be found changed.
        # A flag in each row would cost 30 ns.
        self._changed: dict[tuple[Any, ...], Numbers] = {}
        self._rows: dict[tuple[Any, ...], Numbers] = {}
        self._changed_reasons: dict[tuple[str, str], None] = {}
        self._reasons: dict[tuple[str, str], int] = {}
        self._made_up: set[str] = set()
        self._plugins: dict[tuple[str, ...], Cell] = {}
        self._ages: WeakKeyDictionary[object, dict[tuple[str, ...], Age]] = WeakKeyDictionary()
        self._ages_full = False
        self._told_dropped = 0
        self._told_spans = 0

    def record(self, exchange: Exchange, seconds: float) -> None:
        """Count an exchange that lasted `seconds`.

        0.40 us, of which 0.09 find the row. With a dict of its own for the upstream durations 0.44, with an object for
        each histogram 0.47; lists of what happened that are added up later come to 0.37, and need a bound of their own.
        """
        try:
            row = self._changed[
                exchange.route, exchange.service, exchange.request.method, exchange.status, exchange.peer.scheme
            ]
        except KeyError:
            row = self._row(exchange)
        row[bisect_left(BOUNDS, seconds)] += 1
        row[SECONDS] += seconds
        if size := exchange.bytes_in:
            row[BYTES_IN] += size
        row[BYTES_OUT] += exchange.bytes_out
        if upstream := exchange.upstream_seconds:
            row[UPSTREAM_BUCKETS + bisect_left(BOUNDS, upstream)] += 1
            row[UPSTREAM_SECONDS] += upstream
        if exchange.attempts > 1:
            row[RETRIES] += exchange.attempts - 1
        if exchange.reason is not None:
            self._count_reason(exchange.route or "", exchange.reason)

    def _row(self, exchange: Exchange) -> Numbers:
        """Return a row that has not changed yet, or is new."""
        method = exchange.request.method
        if method not in METHODS:
            method = OTHER
        names = [_text(name) if name is not None else None for name in (exchange.route, exchange.service)]
        key: tuple[Any, ...] = (*names, method, exchange.status, exchange.peer.scheme)
        row = self._rows.get(key)
        if row is None and len(self._rows) >= MAX_ROWS:
            key = (OTHER, OTHER, OTHER, 0, OTHER)
            row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = [0] * LENGTH
        self._changed[key] = row
        return row

    def _count_reason(self, route: str, reason: str) -> None:
        key = (route, str(reason))
        if key not in self._reasons:
            key = (_text(route), self._bounded(key[1]))
            if key not in self._reasons and len(self._reasons) >= MAX_ROWS:
                key = (OTHER, OTHER)
        self._reasons[key] = self._reasons.get(key, 0) + 1
        self._changed_reasons[key] = None

    def _bounded(self, reason: str) -> str:
        if reason in REASONS or reason in self._made_up:
            return reason
        if len(self._made_up) >= MAX_REASONS or not _REASON.fullmatch(reason):
            return OTHER
        self._made_up.add(reason)
        return reason

    def cell(self, name: str, labels: Mapping[str, Any]) -> "Cell":
        """Return a plugin's counter. `name` and the labels' names are words (letters, digits, underscores), else it
        raises TypeError or ValueError; the labels' values count by their text.
        """
        cell = self._plugins.get(_key(name, labels, str))
        if cell is not None:
            return cell
        key = _checked(name, labels)
        if key not in self._plugins and len(self._plugins) >= MAX_PLUGIN_ROWS:
            key = (key[0], *(text for label in sorted(labels) for text in (label, OTHER)))
        return self._plugins.setdefault(key, Cell())

    def age(self, owner: object, name: str, labels: Mapping[str, Any]) -> Age:
        """Return the place of `owner` for when something last went well, the same one for the same words as those of
        `cell`. It begins with the latest time that any owner has told, and is told for as long as its owner lives.
        """
        key = _checked(name, labels)
        ages = self._ages.setdefault(owner, {})
        if key not in ages:
            known = {each for others in self._ages.values() for each in others}
            if key not in known and len(known) >= MAX_AGES:
                if not self._ages_full:
                    _log.warning("gateway_%s_age_seconds: plugins have %d ages, no more are told", name, MAX_AGES)
                self._ages_full = True
                return Age(None)
            ages[key] = Age(self._latest().get(key))
        return ages[key]

    def _latest(self) -> dict[tuple[str, ...], float]:
        """Return each age's time. A configuration begins while the one before still has exchanges: the later one
        holds.
        """
        latest: dict[tuple[str, ...], float] = {}
        for ages in list(self._ages.values()):
            for key, age in list(ages.items()):
                if age.at is not None:
                    latest[key] = max(age.at, latest.get(key, age.at))
        return latest

    def ages(self) -> list[Any]:
        """Return what is told of `age`, as `[labels, seconds]`: the name comes first among the labels."""
        return [[list(key), at] for key, at in self._latest().items()]

    def changes(self) -> list[Any]:
        """Return the rows that have changed since the last call, each with all that it has counted so far.

        A row is `[kind, labels, numbers]`: a text, a list of texts, a list of whole numbers. Not more than CHANGES come
        at once; whoever wants all calls until none come.
        """
        rows: list[Any] = []
        if self.lines_dropped != self._told_dropped:
            self._told_dropped = self.lines_dropped
            rows.append([LINES_DROPPED, [], [self.lines_dropped]])
        if self.spans_dropped != self._told_spans:
            self._told_spans = self.spans_dropped
            rows.append([SPANS_DROPPED, [], [self.spans_dropped]])
        while self._changed and len(rows) < CHANGES:
            (route, service, method, status, scheme), row = self._changed.popitem()
            numbers = list(row)
            for place in (SECONDS, UPSTREAM_SECONDS):
                numbers[place] = round(numbers[place] * NANO)
            code = OTHER if status == 0 else str(status or CLIENT_GONE)
            rows.append([EXCHANGES, [route or "", service or "", method, code, scheme], numbers])
        while self._changed_reasons and len(rows) < CHANGES:
            key, _ = self._changed_reasons.popitem()
            rows.append([REASON_COUNTS, list(key), [self._reasons[key]]])
        # They are few: looking at each is cheaper than noting which grew. In a list, as a plugin's thread may add one.
        for labels, cell in list(self._plugins.items()):
            if cell.value != cell.told and len(rows) < CHANGES:
                cell.told = cell.value
                rows.append([PLUGIN_COUNTS, list(labels), [cell.value]])
        return rows


def _text(value: object) -> str:
    """Return a label: plugins may give what is no text, or text that UTF-8 has no form for."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _key(name: str, labels: Mapping[str, Any], text: Callable[[object], str]) -> tuple[str, ...]:
    return tuple(map(text, (name, *(part for pair in sorted(labels.items()) for part in pair))))


def _checked(name: str, labels: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the key of what a plugin counts. Raises TypeError for names that are no text, ValueError for no words."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a metric: it takes letters, digits and underscores")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise ValueError(f"{label!r} is no name of a label: it takes letters, digits and underscores")
    return _key(name, labels, _text)
