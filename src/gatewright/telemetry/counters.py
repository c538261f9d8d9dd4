"""What one worker counts: plain numbers in lists, one list for each (route, service, method, status, scheme).

It owns the layout of the rows and the bounds of their labels: nothing that a client sends can make a row without end.
It knows neither the channel that the rows travel on nor what is made of them. The recorder calls `record` at the end of
each exchange, the worker asks for `changes`; `totals` sums them, `exposition` shows them.
"""

import re
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from gatewright.core.errors import REASONS
from gatewright.core.exchange import Exchange

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

    __slots__ = ("at", "labels")

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels
        self.at: float | None = None


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
        self._ages: list[Age] = []
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
        key: tuple[Any, ...] = (exchange.route, exchange.service, method, exchange.status, exchange.peer.scheme)
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
            key = (route, self._bounded(key[1]))
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

    def cell(self, name: str, labels: Mapping[str, str]) -> "Cell":
        """Return a plugin's counter: `name` and the labels' names are words (letters, digits, underscores)."""
        key = (name, *(text for pair in sorted(labels.items()) for text in pair))
        if key not in self._plugins and len(self._plugins) >= MAX_PLUGIN_ROWS:
            key = (name, *(text for label in sorted(labels) for text in (label, OTHER)))
        if key not in self._plugins:
            self._plugins[key] = Cell()
        return self._plugins[key]

    def age(self, name: str, labels: Mapping[str, str]) -> Age:
        """Return a place for when something last went well; words as those of `cell`."""
        age = Age([name, *(text for pair in sorted(labels.items()) for text in pair)])
        if len(self._ages) < MAX_AGES:
            self._ages.append(age)
        return age

    def ages(self) -> list[Any]:
        """Return what is told of `age`, as `[labels, seconds]`: the name comes first among the labels."""
        return [[age.labels, age.at] for age in self._ages if age.at is not None]

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
        for labels, cell in self._plugins.items():  # they are few: looking at each is cheaper than noting which grew
            if cell.value != cell.told and len(rows) < CHANGES:
                cell.told = cell.value
                rows.append([PLUGIN_COUNTS, list(labels), [cell.value]])
        return rows
