"""The numbers as Prometheus reads them: the classic text format, or OpenMetrics where a scraper asks for it.

It owns the metrics' names, labels and help texts; prometheus-client owns the formats. It knows sums and gauges, not
where they come from. The admin API calls `render` for each scrape; docs/metrics.md explains each metric.
"""

import logging
import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from gatewright.telemetry import counters
from gatewright.telemetry.counters import BOUNDS, NANO, UPSTREAM_BUCKETS
from gatewright.telemetry.totals import Row

_log = logging.getLogger("gatewright.telemetry")
CLASSIC = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CIRCUIT_STATES = ("closed", "half_open", "open")
_LIMITS = [*(str(bound) for bound in BOUNDS), "+Inf"]

Labels = tuple[str, ...]
Sums = dict[Labels, list[int]]


@dataclass(frozen=True, slots=True)
class TargetGauges:
    """A target now. `circuits`: how many workers' breakers for it are in which of CIRCUIT_STATES; none: no breaker."""

    service: str
    target: str
    healthy: bool
    circuits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DiscoveryGauges:
    """The discovery of a service. `age`: seconds since its source answered last, None before it ever did."""

    service: str
    age: float | None
    errors: int


@dataclass(frozen=True, slots=True)
class AgeGauge:
    """How long ago something of a plugin last went well in one worker, in seconds."""

    name: str
    labels: Mapping[str, str]
    seconds: float


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is not summed over time: the supervisor knows it at the moment of a scrape."""

    in_flight: int = 0  # exchanges, of all workers
    connections: int = 0  # of clients, to all workers
    targets: Sequence[TargetGauges] = ()
    discoveries: Sequence[DiscoveryGauges] = ()
    workers: Mapping[str, int] = field(default_factory=dict)  # how many are in which state
    worker_restarts: int = 0
    reloads_succeeded: int = 0
    reloads_failed: int = 0
    last_success: float | None = None  # of loading a configuration, in seconds since the epoch
    config_version: str = ""
    ages: Sequence[AgeGauge] = ()  # of plugins' things, of every worker
    lag: float = 0.0  # seconds by which the latest of all event loops was late


def render(rows: Iterable[Row], gauges: Gauges, accept: str = "") -> tuple[bytes, str]:
    """Return the exposition of `Totals.rows` and `gauges`, and its content type.

    `accept` is the Accept field of the scrape; OpenMetrics is chosen where it is named.
    """
    gathered = _Gathered(rows)
    own = [*_sums(gathered), *_gauges(gauges)]
    of_plugins = _apart(own, (*_plugins(gathered.plugins), *_ages(gauges.ages)))
    families = _Families([*of_plugins, *own])
    for entry in accept.lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        if name == "application/openmetrics-text" and "q=0" not in parameters:
            return generate_openmetrics(families), OPENMETRICS  # type: ignore[no-untyped-call]
    return generate_latest(families), CLASSIC


class _Families(Collector):
    """What prometheus-client asks for families."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class _Gathered:
    """Rows, put together as the metrics need them."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.requests: dict[Labels, int] = defaultdict(int)  # by route, service, method and code
        self.exchanges: Sums = {}  # by all that, the scheme and the path of the route
        self.by_route: Sums = {}  # and service
        self.by_service: Sums = {}
        self.reasons: dict[Labels, int] = {}  # by route and reason
        self.plugins: dict[str, list[tuple[dict[str, str], int]]] = defaultdict(list)  # by name, with their labels
        self.dropped = 0
        self.spans_dropped = 0
        for kind, labels, numbers in rows:
            if kind == counters.EXCHANGES:
                route, service, *_ = labels
                self.requests[tuple(labels[:4])] += sum(numbers[:UPSTREAM_BUCKETS])
                self.exchanges[tuple(labels)] = numbers
                _add(self.by_route, (route, service), numbers)
                if service:
                    _add(self.by_service, (service,), numbers)
            elif kind == counters.REASON_COUNTS:
                self.reasons[tuple(labels)] = numbers[0]
            elif kind == counters.LINES_DROPPED:
                self.dropped = numbers[0]
            elif kind == counters.SPANS_DROPPED:
                self.spans_dropped = numbers[0]
            elif kind == counters.PLUGIN_COUNTS:
                name, *pairs = labels
                self.plugins[name].append((dict(zip(pairs[::2], pairs[1::2], strict=True)), numbers[0]))


def _apart(own: Iterable[Metric], of_plugins: Iterable[Metric]) -> Iterator[Metric]:
    """Leave out the metrics of plugins that have the name of another: Prometheus would refuse all of them."""
    taken = {family.name for family in own}
    for family in of_plugins:
        if family.name in taken:
            _complain(family.name)
        else:
            taken.add(family.name)
            yield family


@cache
def _complain(name: str) -> None:
    """Log it once for each name."""
    _log.error("a plugin counts under the name %s, which another metric has: it is left out", name)


def _sums(of: _Gathered) -> Iterator[Metric]:
    both = ["route", "service"]
    requests = of.requests.items()
    yield _counter("gateway_requests", "Exchanges that are over.", [*both, "method", "code"], requests)
    duration = "Duration of exchanges, from the complete head of the request to the last byte of the answer."
    yield _histogram("gateway_request_duration_seconds", duration, both, of.by_route, 0, counters.SECONDS)
    yield _conventional(of.exchanges)
    yield _histogram(
        "gateway_upstream_duration_seconds",
        "Duration of attempts whose answer was used; of a streamed one, to its head.",
        ["service"],
        of.by_service,
        UPSTREAM_BUCKETS,
        counters.UPSTREAM_SECONDS,
    )
    sizes_in, sizes_out = _place(of.by_route, counters.BYTES_IN), _place(of.by_route, counters.BYTES_OUT)
    yield _counter("gateway_request_bytes", "Bytes of request bodies.", both, sizes_in)
    yield _counter("gateway_response_bytes", "Bytes of answers' bodies.", both, sizes_out)
    refused = "Exchanges that the gateway answered itself or broke off."
    yield _counter("gateway_rejections", refused, ["route", "reason"], of.reasons.items())
    retries = _place(of.by_service, counters.RETRIES)
    yield _counter("gateway_retries", "Attempts beyond the first.", ["service"], retries)
    dropped = "Lines of the access log that could not be written."
    yield _counter("gateway_log_lines_dropped", dropped, [], [((), of.dropped)])
    spans = "Spans that the collector did not take, or that found too many waiting."
    yield _counter("gateway_spans_dropped", spans, [], [((), of.spans_dropped)])


def _conventional(exchanges: Sums) -> Metric:
    """Return OpenTelemetry's http.server.request.duration, under the name that it has in Prometheus.

    `gateway_route` keeps apart routes of one path.
    """
    names = [
        *("http_request_method", "http_response_status_code", "http_route", "url_scheme", "error_type"),
        "gateway_route",
    ]
    sums: Sums = {}
    for (route, _service, method, code, scheme, path), numbers in exchanges.items():
        error = code if code.startswith("5") else ""
        _add(sums, (method, code, path, scheme, error, route), numbers)
    text = "Duration of exchanges, by OpenTelemetry's semantic conventions."
    return _histogram("http_server_request_duration_seconds", text, names, sums, 0, counters.SECONDS)


def _plugins(counts: Mapping[str, list[tuple[dict[str, str], int]]]) -> Iterator[Metric]:
    for name, rows in sorted(counts.items()):
        names = sorted({label for labels, _ in rows for label in labels})
        values: dict[Labels, int] = defaultdict(int)
        for labels, count in rows:
            values[tuple(labels.get(label, "") for label in names)] += count
        yield _counter(f"gateway_{name}", "Counted by a plugin.", names, values.items())


def _add(sums: Sums, labels: Labels, numbers: list[int]) -> None:
    known = sums.get(labels)
    sums[labels] = numbers if known is None else [a + b for a, b in zip(known, numbers, strict=True)]


def _place(sums: Sums, place: int) -> Iterator[tuple[Labels, int]]:
    return ((labels, numbers[place]) for labels, numbers in sums.items())


def _counter(name: str, text: str, labels: list[str], values: Iterable[tuple[Labels, int]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in sorted(values):
        family.add_metric(key, value)
    return family


def _histogram(name: str, text: str, labels: list[str], sums: Sums, first: int, seconds: int) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, numbers in sorted(sums.items()):
        counts = [float(count) for count in accumulate(numbers[first : first + len(_LIMITS)])]
        if counts[-1]:
            family.add_metric(key, list(zip(_LIMITS, counts, strict=True)), numbers[seconds] / NANO)
    return family


def _discoveries(discoveries: Sequence[DiscoveryGauges]) -> Iterator[Metric]:
    if not discoveries:
        return
    ages = GaugeMetricFamily(
        "gateway_discovery_age_seconds", "Time since Consul or the DNS last answered.", labels=["service"]
    )
    errors = CounterMetricFamily("gateway_discovery_errors", "Questions without a good answer.", labels=["service"])
    for each in sorted(discoveries, key=lambda each: each.service):
        if each.age is not None:
            ages.add_metric([each.service], each.age)
        errors.add_metric([each.service], each.errors)
    yield ages
    yield errors


def _ages(ages: Iterable[AgeGauge]) -> Iterator[Metric]:
    """The worker where it is longest ago stands for all."""
    of_names: dict[str, list[AgeGauge]] = defaultdict(list)
    for age in ages:
        of_names[age.name].append(age)
    for name, rows in sorted(of_names.items()):
        names = sorted({label for age in rows for label in age.labels})
        longest: dict[Labels, float] = {}
        for age in rows:
            values = tuple(age.labels.get(label, "") for label in names)
            longest[values] = max(age.seconds, longest.get(values, 0.0))
        family = GaugeMetricFamily(
            f"gateway_{name}_age_seconds", "Time since a plugin's work last went well.", labels=names
        )
        for labels, seconds in sorted(longest.items()):
            family.add_metric(labels, seconds)
        yield family


def _gauges(gauges: Gauges) -> Iterator[Metric]:
    yield GaugeMetricFamily("gateway_inflight_requests", "Exchanges under way.", gauges.in_flight)
    yield GaugeMetricFamily("gateway_connections", "Open connections of clients.", gauges.connections)
    healthy = GaugeMetricFamily(
        "gateway_target_healthy", "1 if the target's health checks pass, or it has none.", labels=["service", "target"]
    )
    circuits = GaugeMetricFamily(
        "gateway_circuit_state",
        "Number of workers whose breaker for the target is in the state.",
        labels=["service", "target", "state"],
    )
    for target in sorted(gauges.targets, key=lambda target: (target.service, target.target)):
        place = [target.service, target.target]
        healthy.add_metric(place, target.healthy)
        for state in CIRCUIT_STATES if target.circuits else ():
            circuits.add_metric([*place, state], target.circuits.get(state, 0))
    yield healthy
    yield circuits
    yield from _discoveries(gauges.discoveries)
    workers = GaugeMetricFamily("gateway_workers", "Worker processes by state.", labels=["state"])
    for state, count in sorted(gauges.workers.items()):
        workers.add_metric([state], count)
    yield workers
    yield CounterMetricFamily(
        "gateway_worker_restarts", "Workers that ended by themselves and were replaced.", gauges.worker_restarts
    )
    late = "The longest delay of a worker's event loop in the last 10 to 20 seconds."
    yield GaugeMetricFamily("gateway_eventloop_lag_seconds", late, gauges.lag)
    reloads = CounterMetricFamily("gateway_config_reloads", "Reloads of the configuration.", labels=["result"])
    reloads.add_metric(["success"], gauges.reloads_succeeded)
    reloads.add_metric(["failure"], gauges.reloads_failed)
    yield reloads
    if gauges.last_success is not None:
        yield GaugeMetricFamily(
            "gateway_config_last_success_timestamp_seconds",
            "When a configuration was last taken, in seconds since the epoch.",
            gauges.last_success,
        )
    if gauges.config_version:
        version_of = {"version": gauges.config_version}
        yield InfoMetricFamily("gateway_config", "The configuration that is in use.", version_of)
    yield InfoMetricFamily(
        "gateway_build",
        "What runs here.",
        {"version": version("gatewright"), "python": platform.python_version()},
    )
