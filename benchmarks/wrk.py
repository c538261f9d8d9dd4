"""One run of wrk, and what it found.

Owns wrk's command line and the judgement whether a run may count. It knows nothing of proxies. Called by
throughput.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import wire
from benchmarks.process import BenchmarkError

_SCRIPT = Path(__file__).with_name("wrk_report.lua")
# wrk counts only statuses above 399 as bad. An answer of another kind also has another size.
_SIZE_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Load:
    """What one run measured: answers that were completed, seconds, latencies in milliseconds."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    problem: str
    """Why the run must not count; empty for a clean run."""


def run(port: int, requests: Sequence[Mapping[str, str]], *, connections: int, seconds: int, answer_size: int) -> Load:
    """Load 127.0.0.1:`port` from one thread over `connections` connections, on this process's core.

    `requests` are the header fields of one request after the other; `answer_size` is the size in bytes of a good
    answer. Raises BenchmarkError if wrk is missing or fails.
    """
    program = shutil.which("wrk")
    if program is None:
        raise BenchmarkError("wrk is not installed: benchmarks/install.sh, or apt-get install wrk")
    command = [
        program, "--threads", "1", "--connections", str(connections),
        "--duration", f"{seconds}s", "--timeout", "5s", "--latency", "--script", str(_SCRIPT),
        *_field_arguments(requests[0]), f"http://127.0.0.1:{port}{wire.PATH}",
    ]  # fmt: skip
    with tempfile.NamedTemporaryFile("w", encoding="ascii", prefix="gatewright-bench-") as varied:
        if len(requests) > 1:
            varied.writelines(f"{value}\n" for fields in requests for value in fields.values())
            varied.flush()
            command += ["--", next(iter(requests[0])), varied.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20, check=False)
        except subprocess.SubprocessError as error:
            raise BenchmarkError(f"wrk: {error}") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines or not lines[-1].startswith("{"):
        raise BenchmarkError(f"wrk failed with status {done.returncode}: {done.stderr or done.stdout}")
    found = json.loads(lines[-1])
    return Load(
        requests=found["requests"],
        seconds=found["duration_us"] / 1e6,
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
        problem=_problem(found, answer_size),
    )


def _problem(found: dict[str, Any], answer_size: int) -> str:
    kinds = ("status_errors", "connect_errors", "read_errors", "write_errors", "timeouts")
    problems = [f"{found[kind]} {kind.replace('_', ' ')}" for kind in kinds if found[kind]]
    if not found["requests"]:
        problems.append("no answer at all")
    elif abs(found["bytes"] / found["requests"] / answer_size - 1) > _SIZE_TOLERANCE:
        problems.append(f"answers of {found['bytes'] / found['requests']:.0f} bytes instead of {answer_size}")
    return ", ".join(problems)


def _field_arguments(fields: Mapping[str, str]) -> list[str]:
    return [argument for name in fields for argument in ("--header", f"{name}: {fields[name]}")]
