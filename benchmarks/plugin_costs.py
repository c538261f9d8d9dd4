"""The plugins mode: what each plugin and feature of the gateway costs a request (`--plugins`).

Owns the difference to a gateway that has only that feature off. The two run alone and are loaded in turn, because what
disturbs a machine lasts longer than that; the median of the differences counts. The load is that of throughput. Gives
its result to report. Called by __main__.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.collector import Collector
from benchmarks.lab import Lab, Subject
from benchmarks.plugin_cases import BARE, CASES
from benchmarks.throughput import DISTURBED, Result, Settings, measure_running


@dataclass(frozen=True, slots=True)
class Cost:
    """The rounds of one case, and for each of them the CPU time beyond the case that it is compared with."""

    name: str
    beside: str
    result: Result
    more_us: list[float]

    @property
    def median_us(self) -> float | None:
        """The median of the differences; None for the bare gateway, or if no round had both."""
        return statistics.median(self.more_us) if self.more_us else None


def names(chosen: Sequence[str]) -> list[str]:
    """`chosen`, and what they are compared with."""
    wanted = {BARE, *chosen, *map(beside, chosen)}
    return [*(name for name in CASES if name in wanted), *(name for name in chosen if name not in CASES)]


def measure(lab: Lab, subjects: Sequence[Subject], settings: Settings) -> list[Cost]:
    """One cost for each subject, the bare gateway first. Raises BenchmarkError if one does not start."""
    known = {subject.name: subject for subject in subjects}
    bare = Result(BARE)
    costs = [Cost(BARE, "", bare, [])]
    with Collector() as collector:
        lab.places["COLLECTOR"] = collector.port
        for name, subject in known.items():
            if name != BARE:
                other, result = _measure_pair(lab, known[beside(name)], subject, settings)
                costs.append(Cost(name, other.name, result, _more(result, other)))
                if other.name == BARE:
                    bare.rounds += other.rounds
                    bare.problems += other.problems
    return costs


def _measure_pair(lab: Lab, other: Subject, subject: Subject, settings: Settings) -> tuple[Result, Result]:
    """Load the two in turn, while no other gateway runs, which would take some of the core even when idle."""
    first = lab.start(other)
    with first.process:
        second = lab.start(subject)
        with second.process:
            results = measure_running(lab, [first, second], settings)
    return results[0], results[1]


def beside(name: str) -> str:
    """The case that `name` is compared with."""
    return CASES[name].beside if name in CASES else BARE


def _more(result: Result, other: Result) -> list[float]:
    """Microseconds that `result` took beyond `other` in each round that both have.

    Rounds that others disturbed are left out, if two are left without them.
    """
    others = {one.number: one for one in other.rounds}
    pairs = [(mine, others[mine.number]) for mine in result.rounds if mine.number in others]
    quiet = [pair for pair in pairs if max(one.foreign for one in pair) <= DISTURBED]
    return [mine.cpu_us - one.cpu_us for mine, one in (quiet if len(quiet) >= 2 else pairs)]
