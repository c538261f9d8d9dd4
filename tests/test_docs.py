"""What the documentation shows is true: its configurations load, its plugins run, its tables are complete."""

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_metrics

from gatewright.control.loader import load
from gatewright.core.errors import REASONS, Reason
from gatewright.plugins import registry
from gatewright.telemetry.counters import LENGTH
from gatewright.telemetry.exposition import AgeGauge, DiscoveryGauges, Gauges, TargetGauges, render
from gatewright.telemetry.totals import Totals
from tests.kit.wire import get

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def plugin_files(page: str) -> dict[str, str]:
    found = {}
    for block in blocks(page, "python"):
        name = re.match(r"# (\S+\.py)\n", block)
        if name is not None:
            found[name.group(1)] = block
    return found


def test_the_configuration_page_loads(tmp_path: Path) -> None:
    for name in ("server.crt", "server.key", "ca.crt", "client.crt", "client.key"):
        (tmp_path / name).touch()
    (sample,) = blocks("docs/configuration.md", "yaml")
    path = tmp_path / "gateway.yaml"
    path.write_text(sample)
    assert [str(error) for error in load(path, {}).errors] == []


def test_every_key_of_discovery_is_on_its_page() -> None:
    from gatewright.control import discovery_models as known

    text = (ROOT / "docs/discovery.md").read_text()
    models = (known.ConsulDiscovery, known.DnsDiscovery, known.ConsulConfig, known.RegisterConfig, known.CheckConfig)
    missing = [name for model in models for name in model.model_fields if not re.search(rf"`[^`]*\b{name}\b", text)]
    assert missing == []


def test_the_examples_of_discovery_load(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").touch()
    for sample in blocks("docs/discovery.md", "yaml"):
        path = tmp_path / "gateway.yaml"
        path.write_text(sample)
        assert [str(error) for error in load(path, {}).errors] == []


def test_every_key_of_the_models_is_on_the_configuration_page() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    from gatewright.control.models import GatewayConfig, LimitsConfig
    from gatewright.control.process_models import AdminConfig, ShutdownConfig
    from gatewright.control.route_models import MatchConfig, RouteConfig
    from gatewright.control.service_models import PoolConfig, RetryConfig, ServiceConfig, TimeoutsConfig
    from gatewright.control.tracing_models import TracingConfig

    services = (ServiceConfig, PoolConfig, RetryConfig, TimeoutsConfig)
    models = (
        GatewayConfig,
        AdminConfig,
        ShutdownConfig,
        LimitsConfig,
        TracingConfig,
        MatchConfig,
        RouteConfig,
        *services,
    )
    missing = [name for model in models for name in model.model_fields if not re.search(rf"\b{name}\b", text)]
    assert missing == []


@pytest.mark.parametrize("page", ["README.md", "docs/plugins.md"])
def test_plugin_examples_load(page: str, tmp_path: Path) -> None:
    for name, code in plugin_files(page).items():
        (tmp_path / name).write_text(code)
    package = tmp_path / "my_company"
    package.mkdir()
    (package / "gateway.py").write_text(plugin_files("README.md")["tenant.py"])
    tried = 0
    for block in blocks(page, "yaml"):
        document = yaml.safe_load(block)
        entries = document.get("plugins", []) if isinstance(document, dict) else document
        path = tmp_path / "gateway.yaml"
        path.write_text(yaml.safe_dump({"plugins": entries}))
        assert [str(error) for error in load(path, {}).errors] == []
        tried += len(entries)
    assert tried >= 1


def test_the_first_configuration_of_the_readme_runs(gateway, target, tmp_path: Path) -> None:
    config = next(block for block in blocks("README.md", "yaml") if "services:" in block)
    upstream = target()
    config = config.replace("127.0.0.1:8080", "127.0.0.1:0")
    config = config.replace("http://127.0.0.1:8001", upstream.url).replace("http://127.0.0.1:8002", upstream.url)
    answer = get(gateway(config).port, "/users/7")
    assert (answer.status, answer.get("x-frame-options")) == (200, "DENY")
    assert b"GET /7 HTTP/1.1" in upstream.received


def test_the_tenant_plugin_of_the_readme_works(gateway, target) -> None:
    config = f"""
services: {{s: {{targets: ["{target().url}"]}}}}
routes: [{{name: r, match: {{path: /*}}, service: s}}]
plugins:
  - use: ./tenant.py:Tenant
    known: [blue, green]
"""
    running = gateway(config, files={"tenant.py": plugin_files("README.md")["tenant.py"]})
    assert get(running.port, "/", "X-Tenant: blue\r\n").status == 200
    refused = get(running.port, "/", "X-Tenant: red\r\n")
    assert (refused.status, b'"unknown_tenant"' in refused.body) == (403, True)


def test_the_reasons_page_is_complete() -> None:
    text = (ROOT / "docs/reasons.md").read_text()
    for reason in Reason:
        status = REASONS[reason].status
        assert f"| `{reason.value}` | {status or 'none'} | {REASONS[reason].title} |" in text


def test_the_metrics_page_is_complete() -> None:
    rows = []
    for family in families():
        name, kind = family.name, family.type
        if kind in ("counter", "info"):
            name, kind = f"{name}_{'total' if kind == 'counter' else 'info'}", kind.replace("info", "gauge")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        rows.append((name, kind, labels))
    text = (ROOT / "docs/metrics.md").read_text()
    page = re.findall(r"^\| `((?:gateway|http)_\w+)` \| (\w+) \|(.*?)\| .+ \|$", text, re.MULTILINE)
    assert len(page) == len(rows) > 15
    assert {(name, kind, frozenset(re.findall(r"\w+", labels))) for name, kind, labels in page} == {
        (name, kind, frozenset(labels)) for name, kind, labels in rows
    }


def families() -> list[Metric]:
    """Every metric that there is, with a sample each."""
    gauges = Gauges(
        targets=[TargetGauges("s", "t", True, {"open": 1})],
        discoveries=[DiscoveryGauges("s", 1.0, 0)],
        workers={"ready": 1},
        ages=[AgeGauge("jwks", {"url": "u"}, 1.0)],
        last_success=1.0,
        config_version="1",
    )
    plugins = [
        ["cache_requests", "result", "hit"],
        ["ratelimit_allowed", "limit", "default"],
        ["ratelimit_limited", "limit", "default", "mode", "shadow"],
        ["ratelimit_store_errors", "limit", "default"],
        ["jwks_refreshes", "result", "ok"],
    ]
    counted = Totals()
    counted.update(
        "1",
        [
            ["exchanges", ["r", "s", "GET", "200", "http"], [1] * LENGTH],
            ["reasons", ["r", "no_route"], [1]],
            *(["plugins", labels, [1]] for labels in plugins),
        ],
        {},
    )
    return list(parse_metrics(render(counted.rows(), gauges, "application/openmetrics-text")[0].decode()))


def test_every_built_in_plugin_has_its_section() -> None:
    text = (ROOT / "docs/plugins.md").read_text()
    assert [name for name in registry.BUILT_IN if f"\n## {name}\n" not in text] == []


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
