"""Who is measured: one record per proxy, with its configuration, how to find it and what it does per request.

Owns the configuration templates and the rules that make the work comparable: one worker, keep-alive on both
sides, no access log, a request ID and `X-Forwarded-For/Proto/Host/Port` on every forwarded request. It
starts nothing. Called by lab. To add a proxy, add a record to PEERS. In templates @PORT@, @UPSTREAM@, @ADMIN@
(ports of 127.0.0.1) and @DIR@ (the proxy's own directory) are filled in.
"""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
_WHEELS = "benchmarks/install.sh, or pip install -r benchmarks/requirements.txt"
_PACKAGES = "benchmarks/install.sh, or apt-get install nginx haproxy wrk"


@dataclass(frozen=True, slots=True)
class Peer:
    """One proxy that can be measured."""

    name: str
    find: Callable[[], str | None]
    """Gives the path of the program, None if it is not installed."""
    install: str
    """What a person does to install it."""
    does: str
    """What it does with each request, for the report."""
    config: str
    arguments: tuple[str, ...]
    version: tuple[str, ...]
    """Arguments that make it print its version."""
    config_name: str = "proxy.conf"
    env: Mapping[str, str] = field(default_factory=dict)
    requests: tuple[Mapping[str, str], ...] = ({},)
    """Header fields that the requests to it carry: those of one request after the other, and then again."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Further files beside the configuration, by name."""


def filled(template: str, places: Mapping[str, object]) -> str:
    """`template` with `places` filled in: the value of PORT in place of @PORT@."""
    for name, value in places.items():
        template = template.replace(f"@{name}@", str(value))
    return template


def version_of(peer: Peer, command: list[str]) -> str:
    """The line with digits and dots that `command` prints for its version; 'unknown' if it prints none."""
    try:
        done = subprocess.run([*command, *peer.version], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    for line in (done.stdout + done.stderr).splitlines():
        words = line.replace("/", " ").split()
        numbers = [word for word in words if word.lstrip("v")[:1].isdigit() and "." in word]
        if numbers:
            return numbers[0].lstrip("v")
    return "unknown"


def _program(name: str) -> Callable[[], str | None]:
    """Look in the running Python's environment, then on PATH, then where Debian puts servers."""

    def find() -> str | None:
        beside_python = Path(sys.prefix, "bin", name)
        if beside_python.is_file():
            return str(beside_python)
        return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")

    return find


def _envoy() -> str | None:
    # The wheel puts a Python launcher on PATH; the program to be measured lies in the package.
    package = importlib.util.find_spec("envoy")
    for location in (package.submodule_search_locations or []) if package else []:
        program = Path(location, "_bin", "envoy")
        if program.is_file():
            return str(program)
    return shutil.which("envoy")


GATEWRIGHT = Peer(
    name="gatewright",
    find=_program("gatewright"),
    install="pip install -e . in the project's directory",
    does="workers: 1, no plugins; new X-Request-ID, X-Forwarded-For/Proto/Host/Port, Forwarded and Via; "
    "normalises the path; access log and tracing off",
    config=(HERE / "gateway.yaml").read_text(encoding="utf-8"),
    config_name="gateway.yaml",
    arguments=("run", "@DIR@/gateway.yaml"),
    version=("version",),
    # Bytecode is kept, as in every installation: it may have been turned off where the benchmark runs.
    env={"PORT": "@PORT@", "UPSTREAM_URL": "http://127.0.0.1:@UPSTREAM@", "PYTHONDONTWRITEBYTECODE": ""},
)

NGINX = Peer(
    name="nginx",
    find=_program("nginx"),
    install=_PACKAGES,
    does="worker_processes 1 (and a master that sleeps); new X-Request-ID, X-Forwarded-For/Proto/Host/Port; "
    "normalises the path",
    config="""\
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid @DIR@/nginx.pid;
error_log stderr error;
events { worker_connections 16384; }
http {
    access_log off;
    client_body_temp_path @DIR@/body; proxy_temp_path @DIR@/proxy; fastcgi_temp_path @DIR@/fastcgi;
    uwsgi_temp_path @DIR@/uwsgi; scgi_temp_path @DIR@/scgi;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    upstream service {
        server 127.0.0.1:@UPSTREAM@;
        keepalive 256;
        keepalive_requests 1000000000;
    }
    server {
        listen 127.0.0.1:@PORT@ backlog=4096;
        location / {
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Request-ID $request_id;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Port $server_port;
        }
    }
}
""",
    arguments=("-p", "@DIR@", "-e", "stderr", "-c", "@DIR@/proxy.conf"),
    version=("-v",),
)

HAPROXY = Peer(
    name="haproxy",
    find=_program("haproxy"),
    install=_PACKAGES,
    does="nbthread 1; new X-Request-ID (uuid), X-Forwarded-For/Proto/Host/Port; http-reuse always",
    config="""\
global
    nbthread 1
defaults
    mode http
    timeout connect 3s
    timeout client 75s
    timeout server 60s
    timeout http-keep-alive 75s
    http-reuse always
frontend bench
    bind 127.0.0.1:@PORT@ backlog 4096
    unique-id-format %[uuid()]
    unique-id-header X-Request-ID
    option forwardfor
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]
    default_backend service
backend service
    server one 127.0.0.1:@UPSTREAM@
""",
    arguments=("-db", "-f", "@DIR@/proxy.conf"),
    version=("-v",),
)

ENVOY = Peer(
    name="envoy",
    find=_envoy,
    install=_WHEELS,
    does="--concurrency 1; new X-Request-ID (uuid), X-Forwarded-For/Proto/Host/Port, its own X-Envoy-*; "
    "normalises the path; statistics as by default",
    config="""\
static_resources:
  listeners:
  - name: bench
    address: {socket_address: {address: 127.0.0.1, port_value: @PORT@}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": @TYPES@.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          codec_type: HTTP1
          use_remote_address: true
          generate_request_id: true
          append_x_forwarded_port: true
          normalize_path: true
          merge_slashes: true
          route_config:
            virtual_hosts:
            - name: bench
              domains: ["*"]
              request_headers_to_add:
              - header: {key: X-Forwarded-Host, value: "%REQ(:AUTHORITY)%"}
              routes:
              - match: {prefix: /}
                route: {cluster: service}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": @TYPES@.http.router.v3.Router}
  clusters:
  - name: service
    type: STATIC
    connect_timeout: 3s
    load_assignment:
      cluster_name: service
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @UPSTREAM@}}}
""".replace("@TYPES@", "type.googleapis.com/envoy.extensions.filters"),
    config_name="proxy.yaml",
    arguments=(
        "--config-path", "@DIR@/proxy.yaml", "--concurrency", "1", "--disable-hot-restart",
        "--log-level", "error",
    ),
    version=("--version",),
)  # fmt: skip

TRAEFIK = Peer(
    name="traefik",
    find=_program("traefik"),
    install=_WHEELS,
    does="GOMAXPROCS=1; X-Forwarded-For/Proto/Host/Port/Server, X-Real-IP; it makes no request IDs: its "
    "headers middleware sets a fixed X-Request-ID instead, which is less work than the others do",
    config="""\
http:
  routers:
    bench:
      rule: PathPrefix(`/`)
      entryPoints: [bench]
      middlewares: [request-id]
      service: service
  middlewares:
    request-id:
      headers: {customRequestHeaders: {X-Request-ID: 00000000-0000-4000-8000-000000000000}}
  services:
    service:
      loadBalancer:
        servers: [{url: "http://127.0.0.1:@UPSTREAM@"}]
""",
    config_name="proxy.yaml",
    arguments=(
        "--entrypoints.bench.address=127.0.0.1:@PORT@",
        "--providers.file.filename=@DIR@/proxy.yaml",
        "--providers.file.watch=false",
        "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
        "--log.level=ERROR",
    ),
    version=("version",),
    env={"GOMAXPROCS": "1"},
)

CADDY = Peer(
    name="caddy",
    find=_program("caddy"),
    install=_WHEELS,
    does="GOMAXPROCS=1; new X-Request-ID (uuid), X-Forwarded-For/Proto/Host/Port, Via; "
    "256 idle upstream connections instead of 32, so that 64 clients do not reconnect",
    config="""\
{
    admin off
    auto_https off
    persist_config off
    storage file_system @DIR@/storage
    log {
        level ERROR
    }
    servers {
        protocols h1
    }
}
http://127.0.0.1:@PORT@ {
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:@UPSTREAM@ {
        header_up X-Request-ID {http.request.uuid}
        header_up X-Forwarded-Port {http.request.local.port}
        transport http {
            versions 1.1
            compression off
            keepalive_idle_conns_per_host 256
        }
    }
}
""",
    arguments=("run", "--adapter", "caddyfile", "--config", "@DIR@/proxy.conf"),
    version=("version",),
    env={"GOMAXPROCS": "1", "XDG_CONFIG_HOME": "@DIR@", "XDG_DATA_HOME": "@DIR@", "HOME": "@DIR@"},
)

# What a second worker costs. On one core like everybody else: what is shown is CPU time, not that throughput doubles.
GATEWRIGHT_2 = replace(
    GATEWRIGHT,
    name="gatewright-2",
    does="as gatewright, with workers: 2 that share the core",
    env={**GATEWRIGHT.env, "WORKERS": "2"},
)

PEERS = {peer.name: peer for peer in (GATEWRIGHT, GATEWRIGHT_2, NGINX, HAPROXY, ENVOY, TRAEFIK, CADDY)}

UPSTREAM = Peer(
    name="upstream",
    find=_program("nginx"),
    install=_PACKAGES,
    does="nginx that answers every request with 200 and the same small JSON body",
    config="""\
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid @DIR@/nginx.pid;
error_log stderr error;
events { worker_connections 16384; }
http {
    access_log off;
    client_body_temp_path @DIR@/body; proxy_temp_path @DIR@/proxy; fastcgi_temp_path @DIR@/fastcgi;
    uwsgi_temp_path @DIR@/uwsgi; scgi_temp_path @DIR@/scgi;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    default_type application/json;
    server_tokens off;
    server {
        listen 127.0.0.1:@PORT@ backlog=4096;
        return 200 '{"message": "This is the upstream of the benchmark", "items": [1, 2, 3], "ok": true}';
    }
}
""",
    arguments=("-p", "@DIR@", "-e", "stderr", "-c", "@DIR@/proxy.conf"),
    version=("-v",),
)
