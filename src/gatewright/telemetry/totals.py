"""The sums of all workers' rows, exact over a worker's death and replacement.

Each worker tells cumulative numbers; what is new in them is added here, so a sum never goes back, and a row that comes
twice counts once. It knows workers by a key alone. The supervisor calls it, `exposition` shows it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gatewright.telemetry.counters import EXCHANGES, OTHER, UPSTREAM_BUCKETS

MAX_ROWS = 50_000

Key = tuple[str, ...]  # the kind and the labels


class Row(NamedTuple):
    """One sum; `numbers` are laid out as those of a worker's row (`counters`). The labels of exchanges end with the
    path of the route.
    """

    kind: str
    labels: list[str]
    numbers: list[int]


class Totals:
    """Sums by kind and labels."""

    def __init__(self) -> None:
        self._sums: dict[Key, list[int]] = {}
        self._told: dict[str, dict[Key, Sequence[int]]] = {}
        self._paths: dict[str, str] = {}  # that routes had last, also routes that are gone

    def update(self, worker: str, rows: Iterable[Any], paths: Mapping[str, str]) -> None:
        """Take rows as `Counters.changes` gives them. `worker` is a key that no other worker ever has. `paths` has the
        path of each route, by name: what is new in a row counts under it, and what was counted before under the former.
        """
        told = self._told.setdefault(worker, {})
        for kind, labels, numbers in rows:
            key: Key = (kind, *labels)
            before = told.get(key)
            sums = self._sum((*key, self._path(labels[0], paths)) if kind == EXCHANGES else key, len(numbers))
            if before is None:
                for place, number in enumerate(numbers):
                    sums[place] += number
                told[key] = numbers
            else:
                for place, (number, known) in enumerate(zip(numbers, before, strict=True)):
                    if number > known:
                        sums[place] += number - known
                told[key] = list(map(max, numbers, before))

    def _path(self, route: str, paths: Mapping[str, str]) -> str:
        if (path := paths.get(route)) is not None:
            self._paths[route] = path
        return self._paths.get(route, "")

    def _sum(self, key: Key, length: int) -> list[int]:
        sums = self._sums.get(key)
        if sums is None:
            if len(self._sums) >= MAX_ROWS:
                key = (key[0], *[OTHER] * (len(key) - 1))
            sums = self._sums.setdefault(key, [0] * length)
        return sums

    def retire(self, worker: str) -> None:
        """The worker is gone, and tells no more; what it counted stays in the sums."""
        self._told.pop(worker, None)

    def rows(self) -> list[Row]:
        """Return what was counted, as copies: they may be read in another thread while counting goes on."""
        return [Row(kind, labels, numbers.copy()) for (kind, *labels), numbers in self._sums.items()]

    @property
    def exchanges(self) -> int:
        """How many exchanges were counted."""
        return sum(sum(numbers[:UPSTREAM_BUCKETS]) for (kind, *_), numbers in self._sums.items() if kind == EXCHANGES)
