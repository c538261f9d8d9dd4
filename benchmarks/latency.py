"""The latency mode: what a proxy adds to each request at a constant, moderate rate (`--rate`).

Owns interleaved rounds of the open-loop client against the direct path and each proxy, and percentiles.
Prints progress to stderr and gives its result to report. Called by __main__.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.lab import Lab, Running, Subject
from benchmarks.open_loop import latencies
from benchmarks.throughput import DIRECT


@dataclass(frozen=True, slots=True)
class Settings:
    """How many requests a second, for how long, in how many rounds."""

    rate: int
    seconds: float = 3.0
    rounds: int = 5
    connections: int = 32


@dataclass(slots=True)
class Latency:
    """Latencies of one subject in milliseconds: one percentile a round, medians over the rounds."""

    name: str
    p50_rounds: list[float] = field(default_factory=list)
    p99_rounds: list[float] = field(default_factory=list)
    requests: int = 0

    @property
    def p50_ms(self) -> float:
        """Median over the rounds of the 50th percentile."""
        return statistics.median(self.p50_rounds)

    @property
    def p99_ms(self) -> float:
        """Median over the rounds of the 99th percentile."""
        return statistics.median(self.p99_rounds)


def measure(lab: Lab, subjects: Sequence[Subject], settings: Settings) -> list[Latency]:
    """One result for the direct path and one for each subject. Raises BenchmarkError for any but 200."""
    running = [lab.upstream, *(lab.keep(subject) for subject in subjects)]
    results = [Latency(DIRECT), *(Latency(subject.name) for subject in subjects)]
    for one in running:
        _observe(one, settings, seconds=1.0)
    for number in range(1, settings.rounds + 1):
        print(f"benchmarks: latency round {number} of {settings.rounds}", file=sys.stderr, flush=True)
        for one, result in zip(running, results, strict=True):
            found = sorted(_observe(one, settings, settings.seconds))
            result.p50_rounds.append(found[len(found) // 2])
            result.p99_rounds.append(found[len(found) * 99 // 100])
            result.requests += len(found)
    return results


def _observe(running: Running, settings: Settings, seconds: float) -> list[float]:
    found = latencies(running.port, rate=settings.rate, seconds=seconds, connections=settings.connections)
    running.process.check_alive()
    return found
