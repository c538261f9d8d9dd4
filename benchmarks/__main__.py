"""The command line: `python -m benchmarks`.

Owns options and which mode runs; every mode lives in its own module. Nobody imports it. Exit status: 0
after a run, 1 if a proxy gave no clean round or could not be measured, 2 for a wrong option, 130 on Ctrl-C.
Everything that was started is ended in each case.
"""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from benchmarks import (
    feature_peers,
    features,
    headers,
    idle,
    lab,
    latency,
    machine,
    peers,
    plugin_cases,
    plugin_costs,
    report,
    start,
    throughput,
)
from benchmarks.machine import Cores
from benchmarks.process import BenchmarkError

_DOCS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
_OPEN_FILES = 20_000
_EPILOG = """\
examples:
  python -m benchmarks                                      all peers, about two minutes
  python -m benchmarks --only gatewright,nginx,envoy        fewer
  python -m benchmarks --features                           with JWT, rate limit, access log, tracing and metrics on
  python -m benchmarks --plugins --rounds 9 --seconds 2     what each plugin costs, about five minutes
  python -m benchmarks --rate 1000                          latency added at 1,000 requests a second
  python -m benchmarks --only gatewright --command 'old=/tmp/old/bin/gatewright'    two builds, side by side
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; gives the exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        return _run(options)
    except (BenchmarkError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted; everything that was started has been stopped", file=sys.stderr)
        return 130


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(options: argparse.Namespace) -> int:
    if not sys.platform.startswith("linux"):
        raise BenchmarkError("the benchmark reads /proc and pins processes to cores: it runs on Linux only")
    known = _known(options)
    subjects, skipped = lab.find_subjects(_names(options, known), dict(options.command), known)
    if options.list:
        for subject in subjects:
            print(f"{subject.name} {subject.version}: {' '.join(subject.command)}\n    {subject.peer.does}")
    for line in skipped:
        print(f"benchmarks: {line}", file=sys.stderr)
    if options.list:
        return 0
    if not subjects:
        raise BenchmarkError("there is nothing to measure")
    cores = machine.choose_cores()
    if cores.shared:
        print("benchmarks: only one core: load and proxy share it, latencies mean little", file=sys.stderr)
    lab.raise_file_limit(_OPEN_FILES)
    found = _measure(options, subjects, cores)
    print(report.plain(found))
    described = machine.describe()
    if options.json:
        text = report.as_json(found, described, cores, subjects)
        Path(options.json).write_text(f"{text}\n", encoding="utf-8")
    if options.save:
        report.save(report.markdown(found, described, cores, subjects), found.kind, _DOCS)
        print(f"benchmarks: written to {_DOCS}", file=sys.stderr)
    incomplete = [one.name for one in found.data if isinstance(one, throughput.Result) and not one.rounds]
    return 1 if incomplete else 0


def _measure(options: argparse.Namespace, subjects: Sequence[lab.Subject], cores: Cores) -> report.Report:
    with lab.Lab(cores) as laboratory:
        if options.headers:
            return report.headers(headers.measure(laboratory, subjects), "What each proxy forwards")
        if options.start:
            title = f"Start to first answer, {options.start} starts"
            return report.start(start.measure(laboratory, subjects, options.start), title)
        if options.idle:
            title = f"{options.idle:,} idle keep-alive connections, each after one request"
            return report.idle(idle.measure(laboratory, subjects, options.idle), title)
        if options.rate:
            chosen = latency.Settings(options.rate, seconds=options.seconds, rounds=options.rounds)
            title = (
                f"Latency at {chosen.rate:,} requests/s over {chosen.connections} connections, median of "
                f"{chosen.rounds} rounds of {chosen.seconds:g} s"
            )
            return report.latency(latency.measure(laboratory, subjects, chosen), title)
        return _full_load(options, subjects, laboratory)


def _full_load(options: argparse.Namespace, subjects: Sequence[lab.Subject], laboratory: lab.Lab) -> report.Report:
    chosen = throughput.Settings(options.rounds, options.seconds, options.connections)
    over = f"over {chosen.connections} keep-alive connections"
    said = f"median of {chosen.rounds} interleaved rounds of {chosen.seconds} s, one worker on one core"
    if options.features:
        results, shown = features.measure(laboratory, subjects, chosen)
        return report.features(results, shown, subjects, f"Full load with features on, {over}, {said}")
    if options.plugins:
        costs = plugin_costs.measure(laboratory, subjects, chosen)
        return report.plugins(costs, subjects, f"What each feature costs under full load {over}, {said}")
    return report.throughput(throughput.measure(laboratory, subjects, chosen), subjects, f"Full load {over}, {said}")


def _known(options: argparse.Namespace) -> Mapping[str, peers.Peer]:
    """All that this mode can measure, by name."""
    if options.features:
        return feature_peers.PEERS
    return plugin_cases.PEERS if options.plugins else peers.PEERS


def _names(options: argparse.Namespace, known: Mapping[str, peers.Peer]) -> list[str]:
    """The peers to measure: as asked, or all where peers are compared, and the gateway alone elsewhere."""
    if options.only:
        chosen = [name.strip() for name in options.only.split(",") if name.strip()]
        return plugin_costs.names(chosen) if options.plugins else chosen
    alone = options.rate or options.idle or options.start
    return [peers.GATEWRIGHT.name] if alone else list(known)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the gateway beside its peers, on 127.0.0.1 of this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    mode = parser.add_mutually_exclusive_group()
    option = mode.add_argument
    option("--rate", type=_positive, metavar="N", help="latency at N requests a second, direct and proxied")
    option(
        "--idle",
        type=_positive,
        metavar="N",
        nargs="?",
        const=10_000,
        help="memory with N idle connections (10000)",
    )
    option(
        "--start",
        type=_positive,
        metavar="N",
        nargs="?",
        const=5,
        help="time to the first answer, median of N (5)",
    )
    option("--features", action="store_true", help="with JWT, rate limit, access log, tracing and metrics on")
    option("--plugins", action="store_true", help="what each plugin and feature of the gateway costs")
    option("--headers", action="store_true", help="show the request that each proxy forwards")
    option = parser.add_argument
    option(
        "--list",
        action="store_true",
        help="measure nothing: show which peers of a mode are installed, and what they do",
    )
    option("--only", metavar="A,B", help=f"what to measure, of {', '.join(peers.PEERS)}")
    option(
        "--command",
        action="append",
        default=[],
        type=_command,
        metavar="NAME=CMD",
        help="start NAME by CMD; a new NAME is one more gateway",
    )
    option("--rounds", type=_positive, default=5, help="rounds for each proxy (5)")
    option("--seconds", type=_positive, default=3, help="seconds of load in a round (3)")
    option("--connections", type=_positive, default=64, help="keep-alive connections at full load (64)")
    option("--save", action="store_true", help="write the table into docs/benchmarks.md")
    option("--json", metavar="FILE", help="write every round's numbers to FILE")
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _command(text: str) -> tuple[str, str]:
    name, equals, command = text.partition("=")
    if not (name and equals and command):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=COMMAND")
    return name, command


if __name__ == "__main__":
    sys.exit(main())
