"""The main mode: every proxy under full load, in interleaved rounds, CPU time per request as the measure.

Owns rounds and medians. A round counts only if every answer in it was good. It prints progress to stderr
and gives its result to report. Called by __main__.
"""

import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from benchmarks import wrk
from benchmarks.lab import Lab, Running, Subject
from benchmarks.machine import core_busy_seconds
from benchmarks.process import Memory

DIRECT = "direct"
DISTURBED = 0.05
"""The share of a core that others may use in a round; on a quiet machine it is 0.00 to 0.03."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how hard."""

    rounds: int = 5
    seconds: int = 3
    connections: int = 64
    warm_up_seconds: int = 1


@dataclass(frozen=True, slots=True)
class Round:
    """One clean round of one subject. `busy` and `foreign` are shares (0 to 1) of a core."""

    number: int
    """Which round it was, from 1."""
    cpu_us: float
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    busy: float
    foreign: float
    """What others used of one of the two cores meanwhile."""


@dataclass(slots=True)
class Result:
    """All rounds of one subject; `memory` is the tree's after the last round, None for the direct path."""

    name: str
    rounds: list[Round] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    memory: Memory | None = None
    requests: int = 0
    """All that were answered, those of the warm-up and of rounds that do not count too."""

    @property
    def counted(self) -> list[Round]:
        """The rounds that others did not disturb; all, if fewer than two are left then.

        The choice looks at what others used and never at the result, so it favours nobody.
        """
        quiet = [one for one in self.rounds if one.foreign <= DISTURBED]
        return quiet if len(quiet) >= 2 else self.rounds

    def median(self, quantity: str) -> float | None:
        """The median over the counted rounds of one of Round's fields; None if there is none."""
        values = [getattr(one, quantity) for one in self.counted]
        return float(statistics.median(values)) if values else None


def measure(lab: Lab, subjects: Sequence[Subject], settings: Settings) -> list[Result]:
    """Start all subjects and load one after the other in each round; one result each, the direct path first.

    Raises BenchmarkError if a subject does not start.
    """
    proxies = [lab.keep(subject) for subject in subjects]
    direct = Result(DIRECT)
    return [direct, *measure_running(lab, proxies, settings, direct)]


def measure_running(
    lab: Lab, proxies: Sequence[Running], settings: Settings, direct: Result | None = None
) -> list[Result]:
    """Load what runs already, one after the other in each round; one result each. `direct` gets the direct path's."""
    size = {running.name: running.fetch().size for running in [lab.upstream, *proxies]}
    results = {running.name: Result(running.name) for running in proxies}

    for running in proxies:
        _progress(f"warm-up: {running.name}")
        load = _load(running, settings, settings.warm_up_seconds, size[running.name])
        results[running.name].requests += load.requests
    for number in range(1, settings.rounds + 1):
        _progress(f"round {number} of {settings.rounds}")
        if direct is not None:
            _measure_direct(lab, direct, settings, number, size[lab.upstream.name])
        for running in proxies:
            _measure_proxy(lab, running, results[running.name], settings, number, size[running.name])
    for running in proxies:
        results[running.name].memory = running.process.memory()
    return list(results.values())


def _measure_direct(lab: Lab, result: Result, settings: Settings, number: int, size: int) -> None:
    load = _load(lab.upstream, settings, settings.seconds, size)
    if load.problem:
        result.problems.append(load.problem)
        return
    rate = load.requests / load.seconds
    result.rounds.append(Round(number, 0.0, rate, load.p50_ms, load.p99_ms, busy=0.0, foreign=0.0))


def _measure_proxy(lab: Lab, running: Running, result: Result, settings: Settings, number: int, size: int) -> None:
    before = _Usage.now(lab, running)
    load = _load(running, settings, settings.seconds, size)
    used = _Usage.now(lab, running).since(before)
    running.process.check_alive()
    result.requests += load.requests
    if load.problem:
        result.problems.append(load.problem)
        return
    result.rounds.append(
        Round(
            number=number,
            cpu_us=used.proxy / load.requests * 1e6,
            requests_per_second=load.requests / load.seconds,
            p50_ms=load.p50_ms,
            p99_ms=load.p99_ms,
            busy=min(1.0, used.proxy / load.seconds),
            foreign=used.foreign(load.seconds, shared=lab.cores.shared),
        )
    )


@dataclass(frozen=True, slots=True)
class _Usage:
    """Processor seconds: of the proxy, of generator, upstream and this program, and of all on each core."""

    proxy: float
    generators: float
    proxy_core: float
    load_core: float

    @classmethod
    def now(cls, lab: Lab, running: Running) -> Self:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)  # wrk is one, once it has ended
        return cls(
            proxy=running.process.cpu_seconds(),
            generators=lab.upstream.process.cpu_seconds() + children.ru_utime + children.ru_stime + time.process_time(),
            proxy_core=core_busy_seconds(lab.cores.proxy),
            load_core=core_busy_seconds(lab.cores.load),
        )

    def since(self, before: Self) -> Self:
        return type(self)(
            proxy=self.proxy - before.proxy,
            generators=self.generators - before.generators,
            proxy_core=self.proxy_core - before.proxy_core,
            load_core=self.load_core - before.load_core,
        )

    def foreign(self, seconds: float, *, shared: bool) -> float:
        """What nobody of these used of the core that was disturbed more, as a share."""
        if shared:
            return max(0.0, self.load_core - self.proxy - self.generators) / seconds
        return max(0.0, self.proxy_core - self.proxy, self.load_core - self.generators) / seconds


def _load(running: Running, settings: Settings, seconds: int, size: int) -> wrk.Load:
    return wrk.run(running.port, running.requests, connections=settings.connections, seconds=seconds, answer_size=size)


def _progress(text: str) -> None:
    print(f"benchmarks: {text}", file=sys.stderr, flush=True)
