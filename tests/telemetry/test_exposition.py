"""The text that Prometheus scrapes: valid in both formats, by their own parsers, and true to the numbers."""

import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from gatewright.core.errors import Reason
from gatewright.telemetry.counters import BOUNDS, LENGTH, Counters
from gatewright.telemetry.exposition import CLASSIC, OPENMETRICS, AgeGauge, Gauges, TargetGauges, render
from gatewright.telemetry.totals import Row, Totals
from tests.telemetry.finished import finished

GAUGES = Gauges(
    in_flight=3,
    connections=12,
    targets=(
        TargetGauges("s", "127.0.0.1:8001", True, {"closed": 1, "open": 1}),
        TargetGauges("s", "127.0.0.1:8002", False),
    ),
    workers={"ready": 2, "starting": 1},
    worker_restarts=4,
    reloads_succeeded=5,
    reloads_failed=6,
    last_success=1.7e9,
    config_version="abc",
    lag=0.25,
    ages=[AgeGauge("jwks", {"url": url}, age) for url, age in (("a", 3.0), ("a", 7.5), ("b", 1.0), ("a", 5.0))],
)
PARSERS = {
    "classic": ("", parse_classic),
    "openmetrics": ("application/openmetrics-text; version=1.0.0", parse_openmetrics),
}


def totals():
    """Two workers, one of them dead."""
    summed = Totals()
    for worker, code in (("1", 200), ("2", 404)):
        counters = Counters()
        counters.record(finished(bytes_in=10, bytes_out=100, upstream_seconds=0.003), 0.004)
        counters.record(finished("POST", status=code, bytes_out=1, attempts=3, upstream_seconds=0.2), 20.0)
        counters.record(
            finished(route=None, service=None, status=404, attempts=0, upstream_seconds=0.0, reason=Reason.NO_ROUTE),
            0.1,
        )
        counters.lines_dropped = 7
        summed.update(worker, counters.changes(), {"r": "/items/{id}"})
    summed.retire("1")
    return summed


def scrape(accept, parse, rows, gauges):
    """Return {(sample's name, its labels): value} and the families."""
    text = render(rows, gauges, accept)[0].decode()
    families = list(parse(text))
    samples = {}
    for family in families:
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in samples, "a series stands twice"
            samples[key] = sample.value
    return samples, families


@pytest.fixture(params=PARSERS)
def scraped(request):
    return scrape(*PARSERS[request.param], totals().rows(), GAUGES)


def value(samples, name, **labels):
    return samples[(name, *sorted(labels.items()))]


def test_the_numbers(scraped):
    samples, _ = scraped
    assert value(samples, "gateway_requests_total", route="r", service="s", method="GET", code="200") == 2
    assert value(samples, "gateway_requests_total", route="r", service="s", method="POST", code="404") == 1
    assert value(samples, "gateway_requests_total", route="", service="", method="GET", code="404") == 2
    assert value(samples, "gateway_request_duration_seconds_count", route="r", service="s") == 4
    assert value(samples, "gateway_request_duration_seconds_sum", route="r", service="s") == pytest.approx(40.008)
    assert value(samples, "gateway_request_duration_seconds_bucket", route="r", service="s", le="0.005") == 2
    assert value(samples, "gateway_request_duration_seconds_bucket", route="r", service="s", le="10.0") == 2
    assert value(samples, "gateway_request_duration_seconds_bucket", route="r", service="s", le="+Inf") == 4
    assert value(samples, "gateway_upstream_duration_seconds_count", service="s") == 4
    assert value(samples, "gateway_upstream_duration_seconds_sum", service="s") == pytest.approx(0.406)
    assert value(samples, "gateway_upstream_duration_seconds_bucket", service="s", le="0.25") == 4
    assert value(samples, "gateway_request_bytes_total", route="r", service="s") == 20
    assert value(samples, "gateway_response_bytes_total", route="r", service="s") == 202
    assert value(samples, "gateway_rejections_total", route="", reason="no_route") == 2
    assert value(samples, "gateway_retries_total", service="s") == 4
    assert value(samples, "gateway_log_lines_dropped_total") == 14
    assert value(samples, "gateway_inflight_requests") == 3
    assert value(samples, "gateway_connections") == 12
    assert value(samples, "gateway_target_healthy", service="s", target="127.0.0.1:8001") == 1
    assert value(samples, "gateway_target_healthy", service="s", target="127.0.0.1:8002") == 0
    circuits = {key[2][1]: count for key, count in samples.items() if key[0] == "gateway_circuit_state"}
    assert circuits == {"closed": 1, "half_open": 0, "open": 1}
    assert value(samples, "gateway_workers", state="ready") == 2
    assert value(samples, "gateway_worker_restarts_total") == 4
    assert value(samples, "gateway_config_reloads_total", result="success") == 5
    assert value(samples, "gateway_config_reloads_total", result="failure") == 6
    assert value(samples, "gateway_config_last_success_timestamp_seconds") == 1.7e9
    assert value(samples, "gateway_config_info", version="abc") == 1
    assert value(samples, "gateway_eventloop_lag_seconds") == 0.25
    assert value(samples, "gateway_jwks_age_seconds", url="a") == 7.5  # the worst of the workers
    assert value(samples, "gateway_jwks_age_seconds", url="b") == 1.0
    (build,) = [key for key in samples if key[0] == "gateway_build_info"]
    assert [label for label, _ in build[1:]] == ["python", "version"]


def test_opentelemetrys_histogram(scraped):
    samples, _ = scraped
    name = "http_server_request_duration_seconds"

    def labels(method, code, route="/items/{id}", error="", gateway_route="r"):
        return {
            "http_request_method": method,
            "http_response_status_code": code,
            "http_route": route,
            "url_scheme": "http",
            "error_type": error,
            "gateway_route": gateway_route,
        }

    assert value(samples, f"{name}_count", **labels("GET", "200")) == 2
    assert value(samples, f"{name}_sum", **labels("POST", "404")) == 20
    assert value(samples, f"{name}_bucket", **labels("GET", "404", route="", gateway_route=""), le="0.1") == 2
    counts = totals().rows()
    counts.append(Row("exchanges", ["r", "s", "GET", "502", "https", "/items/{id}"], [1] * LENGTH))
    samples, _ = scrape(*PARSERS["classic"], counts, GAUGES)
    failed = labels("GET", "502", error="502") | {"url_scheme": "https"}
    assert value(samples, f"{name}_count", **failed) == len(BOUNDS) + 1
    # What has another scheme is the same request to all other metrics.
    counts.append(Row("exchanges", ["r", "s", "GET", "502", "http", "/items/{id}"], [1] * LENGTH))
    samples, _ = scrape(*PARSERS["classic"], counts, GAUGES)
    assert value(samples, "gateway_requests_total", route="r", service="s", method="GET", code="502") == 30


def test_the_rules_of_names_and_types(scraped):
    """What promtool's linter asks for."""
    samples, families = scraped
    for family in families:
        assert re.fullmatch(r"gateway_[a-z_]+|http_server_request_duration_seconds", family.name)
        assert family.documentation.endswith(".")
        assert family.samples
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
        if family.type != "counter":
            assert not family.name.endswith(("_total", "_count", "_bucket"))
    labels = {label for key in samples for label, _ in key[1:]}
    assert labels <= {
        "route",
        "service",
        "method",
        "code",
        "reason",
        "target",
        "state",
        "result",
        "le",
        "python",
        "version",
        "url",  # of plugins' sources
        # OpenTelemetry's
        "http_request_method",
        "http_response_status_code",
        "http_route",
        "url_scheme",
        "error_type",
        "gateway_route",
    }


def test_histograms_are_cumulative_and_complete(scraped):
    samples, _ = scraped
    series = {}
    for key, count in samples.items():
        if key[0].endswith("_bucket"):
            labels = dict(key[1:])
            bound = float(labels.pop("le"))
            series.setdefault((key[0], *labels.items()), {})[bound] = count
    assert len(series) == 3 + 4
    for buckets in series.values():
        assert sorted(buckets) == [*BOUNDS, float("inf")]
        counts = [count for _, count in sorted(buckets.items())]
        assert counts == sorted(counts)


@pytest.mark.parametrize("form", PARSERS)
def test_a_gateway_that_has_served_nothing_yet(form):
    samples, _ = scrape(*PARSERS[form], [], Gauges())
    assert value(samples, "gateway_inflight_requests") == 0
    assert value(samples, "gateway_log_lines_dropped_total") == 0
    assert not any(key[0].startswith(("gateway_requests", "gateway_config_last_success")) for key in samples)


def test_ages_with_other_labels_are_series_of_one_metric():
    gauges = Gauges(ages=[AgeGauge("made", {"a": "1"}, 3.0), AgeGauge("made", {"b": "2"}, 4.0)])
    samples, _ = scrape(*PARSERS["classic"], [], gauges)
    assert value(samples, "gateway_made_age_seconds", a="1", b="") == 3.0
    assert value(samples, "gateway_made_age_seconds", a="", b="2") == 4.0


@pytest.mark.parametrize("form", PARSERS)
def test_labels_survive_whatever_they_hold(form):
    odd = 'a"b\\c\nd{e}="f",g é'
    gauges = Gauges(targets=[TargetGauges(odd, odd, True, {"open": 1})])
    summed = Totals()
    summed.update("1", [["reasons", [odd, odd], [1]]], {})
    samples, _ = scrape(*PARSERS[form], summed.rows(), gauges)
    assert value(samples, "gateway_target_healthy", service=odd, target=odd) == 1
    assert value(samples, "gateway_rejections_total", route=odd, reason=odd) == 1


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", CLASSIC),
        ("*/*", CLASSIC),
        ("text/plain", CLASSIC),
        ("application/openmetrics-text", OPENMETRICS),
        ("text/html, application/OpenMetrics-Text;version=1.0.0;q=0.5,*/*;q=0.1", OPENMETRICS),
        ("application/openmetrics-text; q=0", CLASSIC),
        ("application/openmetrics-text; version=9\r\nX: y", OPENMETRICS),
        (",;,=;", CLASSIC),
    ],
)
def test_the_format_that_was_asked_for(accept, content_type):
    body, told = render([], Gauges(), accept)
    assert told == content_type
    assert body.endswith(b"# EOF\n") == (content_type == OPENMETRICS)


def test_the_same_numbers_give_the_same_text():
    rows = totals().rows()
    assert render(rows, GAUGES) == render(rows[::-1], GAUGES)
