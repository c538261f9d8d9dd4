"""Results as tables: plain on the terminal, Markdown in `docs/benchmarks.md`, and JSON.

Owns columns, units and the markers between which a run's table is written. It measures nothing. Called by
__main__.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.features import Shown
from benchmarks.headers import Forwarded
from benchmarks.idle import Idle
from benchmarks.lab import Subject
from benchmarks.latency import Latency
from benchmarks.machine import Cores, Machine
from benchmarks.plugin_costs import Cost
from benchmarks.process import BenchmarkError, Memory
from benchmarks.start import Start
from benchmarks.throughput import DIRECT, DISTURBED, Result

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Report:
    """One run, ready to be printed. `kind` names the run's place in the docs and in the JSON."""

    kind: str
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: list[str]
    data: list[Any]
    """The results themselves: dataclasses, for the JSON."""


_SPEED = ("requests/s", "p50 ms", "p99 ms", "core busy", "RSS MiB", "PSS MiB")


def throughput(results: Sequence[Result], subjects: Sequence[Subject], title: str) -> Report:
    """The main table: medians of the rounds, and CPU time as a multiple of nginx's and of Envoy's."""
    columns, rows, notes = _full_load(results, ("nginx", "envoy"))
    return Report("throughput", title, columns, rows, [*notes, *_does(subjects)], list(results))


def features(results: Sequence[Result], shown: Sequence[Shown], subjects: Sequence[Subject], title: str) -> Report:
    """The same with features on, and CPU time as a multiple of Envoy's and of Traefik's."""
    columns, rows, notes = _full_load(results, ("envoy", "envoy-spans", "envoy-tuned", "traefik"))
    notes += [
        f"{one.name}: {one.requests:,} answers; {one.spans / one.requests:.2f} spans and "
        f"{one.lines / one.requests:.2f} lines of access log for each have arrived"
        for one in shown
    ]
    return Report("features", title, columns, rows, [*notes, *_does(subjects)], [*results, *shown])


def plugins(costs: Sequence[Cost], subjects: Sequence[Subject], title: str) -> Report:
    """What each feature costs."""
    columns = ("with", "CPU us/request", "(min-max)", "us more", "(min-max)", "than")
    rows, notes = [], []
    for cost in costs:
        median = cost.result.median("cpu_us")
        more = cost.median_us
        rows.append(
            (
                cost.name,
                _number(median, 1),
                _range([one.cpu_us for one in cost.result.counted]),
                "-" if more is None else f"{more:+.1f}",
                _range(cost.more_us, sign="+"),
                cost.beside or "-",
            )
        )
        notes += [f"{cost.name}: round not counted: {problem}" for problem in cost.result.problems]
    everything = [one.foreign for cost in costs for one in cost.result.rounds]
    disturbed = [foreign for foreign in everything if foreign > DISTURBED]
    if disturbed:
        notes.append(
            f"others used up to {max(disturbed):.0%} of a core in {len(disturbed)} of {len(everything)} measurements; "
            "differences with such a one are set aside where two are left"
        )
    return Report("plugins", title, columns, rows, [*notes, *_does(subjects)], [cost.result for cost in costs])


def _does(subjects: Sequence[Subject]) -> list[str]:
    return [f"{subject.name}: {subject.peer.does}" for subject in subjects]


def _full_load(
    results: Sequence[Result], beside: Sequence[str]
) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[str]]:
    """Columns, rows and notes of a table of full load, with CPU time as a multiple of those `beside`."""
    columns = ("proxy", "CPU us/request", "(min-max)", *(f"x {name}" for name in beside), *_SPEED)
    cpu = {result.name: result.median("cpu_us") for result in results}
    rows = [_throughput_row(result, [cpu.get(name) for name in beside]) for result in results]
    return columns, rows, [note for result in results for note in _left_out(result)]


def _left_out(result: Result) -> list[str]:
    return [*(f"{result.name}: round not counted: {problem}" for problem in result.problems), *_disturbances(result)]


def _disturbances(result: Result) -> list[str]:
    disturbed = [one.foreign for one in result.rounds if one.foreign > DISTURBED]
    if not disturbed:
        return []
    share = f"in {len(disturbed)} of {len(result.rounds)} rounds"
    said = f"{result.name}: others used up to {max(disturbed):.0%} of a core {share}"
    if len(result.counted) < len(result.rounds):
        return [f"{said}, set aside"]
    return [f"{said}, too many to set aside: measure again on a quiet machine"]


def _throughput_row(result: Result, others: Sequence[float | None]) -> tuple[str, ...]:
    mine = result.median("cpu_us")
    speed = (
        _number(result.median("requests_per_second"), 0),
        _number(result.median("p50_ms"), 2),
        _number(result.median("p99_ms"), 2),
    )
    if result.name == DIRECT or mine is None or result.memory is None:
        return (result.name, "-", "-", *("-" for _ in others), *speed, "-", "-", "-")
    return (
        result.name,
        f"{mine:.1f}",
        _range([one.cpu_us for one in result.counted]),
        *(_ratio(mine, other) for other in others),
        *speed,
        f"{result.median('busy'):.0%}",
        *_memory(result.memory),
    )


def latency(results: Sequence[Latency], title: str) -> Report:
    """Latency at a constant rate, and what each proxy adds to the direct path."""
    direct = next(result for result in results if result.name == DIRECT)
    rows = [
        (
            result.name,
            f"{result.p50_ms:.3f}",
            f"{result.p99_ms:.3f}",
            "-" if result is direct else f"{result.p50_ms - direct.p50_ms:+.3f}",
            "-" if result is direct else f"{result.p99_ms - direct.p99_ms:+.3f}",
            str(result.requests),
        )
        for result in results
    ]
    columns = ("proxy", "p50 ms", "p99 ms", "added p50 ms", "added p99 ms", "requests")
    return Report("latency", title, columns, rows, [], list(results))


def idle(results: Sequence[Idle], title: str) -> Report:
    """Memory before and with idle connections, without the kernel's socket buffers, which no process owns."""
    rows = [
        (
            result.name,
            *_memory(result.before),
            *_memory(result.after),
            f"{(_best(result.after) - _best(result.before)) / result.connections / 1024:.1f}",
        )
        for result in results
    ]
    columns = ("proxy", "RSS MiB before", "PSS before", "RSS MiB with", "PSS with", "KiB a connection")
    return Report("idle", title, columns, rows, [], list(results))


def start(results: Sequence[Start], title: str) -> Report:
    """Start times."""
    rows = [
        (result.name, f"{result.median:.3f}", f"{min(result.seconds):.3f}", f"{max(result.seconds):.3f}")
        for result in results
    ]
    return Report("start", title, ("proxy", "median s", "min s", "max s"), rows, [], list(results))


def headers(results: Sequence[Forwarded], title: str) -> Report:
    """The forwarded heads, one line a field."""
    rows = [(result.name, line) for result in results for line in result.head.splitlines()]
    return Report("headers", title, ("proxy", "what its target received"), rows, [], list(results))


def plain(report: Report) -> str:
    """The table in aligned columns, the notes below it."""
    lines = [report.columns, *report.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(report.columns))]
    text = [report.title, ""]
    for first, *others in lines:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        text.append("  ".join([first.ljust(widths[0]), *(others if report.kind == "headers" else cells)]))
    return "\n".join([*text, "", *report.notes]).rstrip() + "\n"


def markdown(report: Report, machine: Machine, cores: Cores, subjects: Sequence[Subject]) -> str:
    """The dated table with the machine that it was measured on."""
    versions = ", ".join(f"{subject.name} {subject.version}" for subject in subjects)
    place = f"proxy on core {cores.proxy}, load on core {cores.load}" + (" (the same)" if cores.shared else "")
    alignment = ["---", *("---:" for _ in report.columns[1:])]
    table = [report.columns, alignment, *report.rows]
    return "\n".join(
        [
            f"**{datetime.now(UTC):%Y-%m-%d}** · {report.title}",
            "",
            f"{machine.cores} cores of {machine.cpu}, {machine.memory_gib} GiB, Linux {machine.kernel}, "
            f"Python {machine.python}; {place}; {versions}.",
            "",
            *("| " + " | ".join(row) + " |" for row in table),
            "",
            *(f"- {note}" for note in report.notes),
        ]
    ).rstrip()


def save(text: str, kind: str, path: Path) -> None:
    """Replace what stands between the markers of `kind` in `path`; BenchmarkError if they are not there."""
    begin, end = f"<!-- bench:{kind} -->", f"<!-- /bench:{kind} -->"
    try:
        page = path.read_text(encoding="utf-8")
        before, rest = page.split(begin, 1)
        after = rest.split(end, 1)[1]
    except (OSError, ValueError, IndexError) as error:
        raise BenchmarkError(f"{path} has no place for the table: it needs {begin} and {end}") from error
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def as_json(report: Report, machine: Machine, cores: Cores, subjects: Sequence[Subject]) -> str:
    """Everything that was measured, every round, as JSON."""
    return json.dumps(
        {
            "kind": report.kind,
            "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "title": report.title,
            "machine": dataclasses.asdict(machine),
            "cores": dataclasses.asdict(cores),
            "versions": {subject.name: subject.version for subject in subjects},
            "results": [dataclasses.asdict(one) for one in report.data],
        },
        indent=2,
    )


def _memory(memory: Memory) -> tuple[str, str]:
    return (f"{memory.rss / _MIB:.1f}", "-" if memory.pss is None else f"{memory.pss / _MIB:.1f}")


def _best(memory: Memory) -> int:
    return memory.rss if memory.pss is None else memory.pss


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _range(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return "-"
    return f"{min(values):{sign}.1f} to {max(values):{sign}.1f}" if sign else f"{min(values):.1f}-{max(values):.1f}"


def _ratio(mine: float, other: float | None) -> str:
    return "-" if not other else f"{mine / other:.2f}"
