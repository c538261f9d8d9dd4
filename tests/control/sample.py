"""Configurations that several tests of the control plane use."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gatewright.control.loader import Loaded, load
from gatewright.plugins.base import Plugin, PluginConfig

FULL = """\
workers: ${WORKERS:-1}
admin: {bind: "127.0.0.1:9901", token: "${ADMIN_TOKEN:-}"}
shutdown: {delay: 5s, grace: 30s}
watch: true
listeners:
  - bind: ${HOST:-0.0.0.0}:${PORT:-8080}
    trusted_proxies: [10.0.0.0/8]
limits:
  {request_line: 8KiB, headers: 32KiB, header_count: 100, body: 10MiB, header_timeout: 10s, body_timeout: 30s}
access_log: {format: json, destination: stdout}
services:
  service-a:
    targets: ["${SERVICE_A_URL:-http://127.0.0.1:8001}", {url: "https://[::1]:8443/", weight: 3}]
    balance: p2c
    health: {path: /health, interval: 10s, timeout: 2s, healthy: 2, unhealthy: 3}
    outlier: {consecutive: 5, eject: 30s, max_ejected: 50%}
    timeouts: {connect: 3s, response: 30s, idle: 60s, total: 60s}
    retry: {attempts: 1, on: [connect_failure, reset, 502, "503", 504], budget: 20%}
    breaker: {failure_rate: 50%, minimum: 20, window: 10s, open: 10s}
    max_in_flight: 1024
  items: {app: services.items.main:app}
  hashed: {targets: [http://a], balance: {hash: {by: header:x-user}}, breaker: false, health: false}
  stuck: {targets: [http://a], balance: sticky}
routes:
  - name: service-a
    match: {path: "/service-a/{rest...}", methods: [GET, POST, PUT, PATCH, DELETE]}
    service: service-a
    rewrite: /{rest}
    plugins: [plain, settled: {size: 5}, {use: "somewhere:Settled", size: 6}]
    limits: {body: unlimited}
  - name: canary
    match: {path: /canary/*, host: "*.Example.com", headers: {X-Canary: true, x-v: "~^v[0-9]+$"}, query: {debug: "1"}}
    split: [{service: service-a, weight: 90}, {service: stuck, weight: 10}]
    strip_prefix: true
  - {name: old, match: {path: "~^/v[0-9]+/(?P<id>[0-9]+)$"}, redirect: {to: "https://example.com/{id}", status: 301}}
  - {name: hello, match: {path: /hello}, respond: {body: "hi", headers: {X-A: b}}, priority: 3}
plugins:
  - settled: {size: 7}
"""


class PlainPlugin(Plugin[PluginConfig], name="plain"):
    """A plugin without settings."""


class SettledConfig(PluginConfig):
    """Settings of a plugin, one of them nested."""

    class Inner(PluginConfig):
        """A nested mapping."""

        deep: int = 0

    size: int
    secret: str = ""
    inner: Inner = Inner()


class SettledPlugin(Plugin[SettledConfig], name="settled"):
    """A plugin that refuses what its model cannot see."""

    def __init__(self, config: SettledConfig) -> None:
        super().__init__(config)
        if config.size == 13:
            raise ValueError(f"will not take 13 with {config.secret}")
        if config.size == 14:
            raise RuntimeError("a fault in the plugin")


class Plugins:
    """A source of plugins that counts its look-ups."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, str | None]] = []

    def known_names(self) -> Iterable[str]:
        """The two above."""
        return ["plain", "settled"]

    def resolve(self, name: str | None, use: str | None, base_dir: Path) -> type[Plugin[Any]]:
        """Return a class; a module named "broken" fails as user code may."""
        self.asked.append((name, use))
        if use is not None and use.startswith("broken"):
            raise ZeroDivisionError("at import")
        found: dict[str | None, type[Plugin[Any]]] = {"plain": PlainPlugin, "settled": SettledPlugin}
        return SettledPlugin if use is not None else found[name]


def load_text(
    folder: Path, text: str | bytes, environ: Mapping[str, str] | None = None, plugins: Plugins | None = None
) -> Loaded:
    """Load `text` as a file in `folder`."""
    path = folder / "gateway.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(path, environ or {}, plugins or Plugins())


def messages(loaded: Loaded) -> list[str]:
    """Return the errors as users see them, without the folder."""
    return [str(error).removeprefix(f"{loaded.base_dir}/") for error in loaded.errors]
