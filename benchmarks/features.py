"""The features mode: proxies under full load with JWT, rate limit, access log, tracing and metrics on (`--features`).

Owns the evidence that each proxy really does these: before the load it must refuse what it should, and after the load
there must be as many log lines, spans and counted requests as there were answers. The load itself is that of
throughput. Gives its result to report. Called by __main__.
"""

import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import bearer, wire
from benchmarks.collector import Collector
from benchmarks.feature_peers import EVIDENCE, Evidence
from benchmarks.lab import Lab, Running, Subject
from benchmarks.process import BenchmarkError
from benchmarks.throughput import DIRECT, Result, Settings, measure_running

_NEVER = 1_000_000
_TRIES = 5
_PATIENCE = 20.0
"""Seconds in which logs and spans of the last requests must be there; Envoy writes its log every 10 s."""
_POLL = 0.2
_CHUNK = 1 << 20
_MOST_OF = 0.99


@dataclass(frozen=True, slots=True)
class Shown:
    """What one proxy left behind for `requests` answers that wrk counted."""

    name: str
    requests: int
    lines: int
    spans: int
    counted: int
    """By its own metrics."""


def measure(lab: Lab, subjects: Sequence[Subject], settings: Settings) -> tuple[list[Result], list[Shown]]:
    """One result for the direct path and one for each subject, and what shows that their features were on.

    Raises BenchmarkError if a feature of a subject turns out to be off.
    """
    direct = Result(DIRECT)
    with Collector() as collector:
        lab.places["COLLECTOR"] = collector.port
        for subject in subjects:
            _check_limit(lab, subject)
        lab.places["LIMIT"] = _NEVER
        proxies = [lab.keep(subject) for subject in subjects]
        evidence = [EVIDENCE[subject.peer.name] for subject in subjects]
        for running, expected in zip(proxies, evidence, strict=True):
            if expected.jwt:
                _check_tokens(running)
        results = measure_running(lab, proxies, settings, direct)
        shown = [
            _shown(running, result.requests, expected, collector)
            for running, result, expected in zip(proxies, results, evidence, strict=True)
        ]
    problems = [line for one, expected in zip(shown, evidence, strict=True) for line in _missing(one, expected)]
    if problems:
        raise BenchmarkError("; ".join(problems))
    return [direct, *results], shown


def _check_limit(lab: Lab, subject: Subject) -> None:
    lab.places["LIMIT"] = 1
    running = lab.start(subject)
    with running.process:
        answers = [running.fetch().status for _ in range(_TRIES)]
    if 429 not in answers:
        raise BenchmarkError(f"{subject.name}: its rate limit is not on: with 1 a second it answered {answers}")


def _check_tokens(running: Running) -> None:
    head, claims, _ = bearer.token().split(".")
    other = bearer.token("other").rpartition(".")[2]
    for what, fields in (
        ("no token", {}),
        ("a token with a wrong signature", bearer.field(f"{head}.{claims}.{other}")),
    ):
        status = wire.fetch(running.port, fields).status
        if status != 401:
            raise BenchmarkError(f"{running.name}: its JWT check is not on: {what} got {status} instead of 401")


def _shown(running: Running, requests: int, expected: Evidence, collector: Collector) -> Shown:
    log = running.directory / "access.log"
    return Shown(
        running.name,
        requests,
        lines=_settled(lambda: _lines(log), requests),
        spans=_settled(lambda: collector.spans[running.name], requests * expected.spans),
        counted=_settled(lambda: _counted(running, expected), requests),
    )


def _settled(count: Callable[[], int], wanted: int) -> int:
    """What `count` gives as soon as it is enough, or what it gives in the end."""
    deadline = time.monotonic() + _PATIENCE
    while (found := count()) < wanted and time.monotonic() < deadline:
        time.sleep(_POLL)
    return found


def _lines(log: Path) -> int:
    if not log.is_file():
        return 0
    found = 0
    with log.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found += chunk.count(b"\n")
    return found


def _counted(running: Running, expected: Evidence) -> int:
    url = f"http://127.0.0.1:{running.admin_port}{expected.metrics}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except OSError as error:
        raise BenchmarkError(f"{running.name}: its metrics are not on: {url}: {error}") from error
    values = [
        line.rpartition(" ")[2] for line in lines if line.startswith((f"{expected.counter}{{", f"{expected.counter} "))
    ]
    return round(sum(float(value) for value in values))


def _missing(shown: Shown, expected: Evidence) -> list[str]:
    found = (
        ("access log", "lines", shown.lines, shown.requests),
        ("tracing", "spans", shown.spans, round(shown.requests * expected.spans * _MOST_OF)),
        ("metrics", "counted requests", shown.counted, shown.requests),
    )
    return [
        f"{shown.name}: its {feature} is not on, or loses something: {count} {what} for {shown.requests} answers"
        for feature, what, count, least in found
        if count < least
    ]
