"""Micro-benchmarks of the gateway's hot parts: `python -m benchmarks.micro [WORD...]`, half a second a case.

Owns the timing and the command; the cases live in `micro_cases`. A case is a function that prepares what it
needs and returns the operation to time. The figure is processor time, the minimum of many short rounds:
what disturbs a round only ever makes it slower. Compare figures of one machine and one Python only.
"""

import argparse
import gc
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Operation = Callable[[], object]
Case = Callable[[], Operation]

_ROUNDS = 21
_ROUND_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Timing:
    """One case: nanoseconds for one operation, and how many of them were run in each round."""

    name: str
    nanoseconds: float
    loops: int


def measure(name: str, case: Case) -> Timing:
    """Time `case`, with the price of an empty call taken off. Whatever the case raises comes through."""
    operation = case()
    loops = 1
    while (spent := _round(operation, loops)) < _ROUND_SECONDS:
        # Towards the wanted duration, but never by more than ten times: the first rounds are slow.
        loops = min(loops * 10, max(loops * 2, int(loops * _ROUND_SECONDS / max(spent, 1e-9))))
    best = min(_round(operation, loops) for _ in range(_ROUNDS))
    empty = min(_round(_nothing, loops) for _ in range(_ROUNDS))
    return Timing(name, max(0.0, best - empty) / loops * 1e9, loops)


def _round(operation: Operation, loops: int) -> float:
    collects = gc.isenabled()
    gc.disable()
    try:
        began = time.process_time()
        for _ in range(loops):
            operation()
        return time.process_time() - began
    finally:
        if collects:
            gc.enable()


def _nothing() -> None:
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases whose name holds one of the given words, or all; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description="Time the hot parts one by one.")
    parser.add_argument("words", nargs="*", help="only cases whose name holds one of these words")
    options = parser.parse_args(arguments)

    from benchmarks.micro_cases import CASES

    chosen = {n: c for n, c in CASES.items() if not options.words or any(word in n for word in options.words)}
    if not chosen:
        print(f"benchmarks.micro: no case holds these words; there are: {', '.join(CASES)}", file=sys.stderr)
        return 1
    print(f"Python {platform.python_version()}, minimum of {_ROUNDS} rounds, nanoseconds an operation\n")
    for name, case in chosen.items():
        timing = measure(name, case)
        print(f"{timing.name.ljust(max(map(len, chosen)))}  {timing.nanoseconds:10,.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
