"""The start mode: from starting a proxy's process to its first good answer (`--start`).

The first start does not count: it brings the program into memory, and compiles Python code that was changed since its
installation.

Owns repetition and the median; the timing itself is the laboratory's. Gives its result to report. Called by
__main__.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.lab import Lab, Subject


@dataclass(frozen=True, slots=True)
class Start:
    """Start times of one subject in seconds."""

    name: str
    seconds: list[float]

    @property
    def median(self) -> float:
        """The median of all starts."""
        return statistics.median(self.seconds)


def measure(lab: Lab, subjects: Sequence[Subject], times: int) -> list[Start]:
    """Start each subject `times` times. Raises BenchmarkError if one gives no good answer."""
    results = []
    for subject in subjects:
        print(f"benchmarks: starting {subject.name} {times} times", file=sys.stderr, flush=True)
        seconds = []
        for _ in range(1 + times):
            running = lab.start(subject)
            with running.process:
                seconds.append(running.start_seconds)
        results.append(Start(subject.name, seconds[1:]))
    return results
