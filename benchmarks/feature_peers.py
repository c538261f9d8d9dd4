"""Who is measured with features on: records like those of `peers`, for proxies that refuse, limit, log and trace.

Owns the configurations with JWT, rate limit, JSON access log, tracing and metrics. They start nothing. Called by
features. In these templates also @COLLECTOR@ (a port of 127.0.0.1 that takes spans at /NAME/v1/traces), @NAME@ (the
proxy's own name) and @LIMIT@ (requests a second) are filled in.
"""

from dataclasses import dataclass, replace

from benchmarks import bearer, peers

_TYPES = "type.googleapis.com/envoy.extensions"
_REQUESTS = (bearer.field(bearer.token()),)


def _without(config: str, *settings: str) -> str:
    """`config` without the lines that name one of `settings`."""
    return "".join(line for line in config.splitlines(keepends=True) if not any(name in line for name in settings))


GATEWRIGHT = replace(
    peers.GATEWRIGHT,
    does="jwt (HS256, remembers tokens), rate_limit (in memory, exact across workers, by client), JSON access log, "
    "spans of exchange and attempt (OTLP/HTTP, protobuf), metrics, retries; the rest as without these",
    requests=_REQUESTS,
    env={},
    config="""\
listeners:
  - bind: 127.0.0.1:@PORT@
access_log: {format: json, destination: "@DIR@/access.log"}
tracing: {endpoint: "http://127.0.0.1:@COLLECTOR@/@NAME@", sample: 1.0}
admin: {bind: "127.0.0.1:@ADMIN@"}
workers: 1

plugins:
  - jwt: {algorithms: [HS256], secret: "@SECRET@"}
  - rate_limit: {limit: "@LIMIT@/second", by: client}

services:
  upstream:
    targets: ["http://127.0.0.1:@UPSTREAM@"]

routes:
  - name: bench
    match: {path: "/{rest...}"}
    service: upstream
""".replace("@SECRET@", bearer.SECRET),
)

ENVOY_TUNED = replace(
    peers.ENVOY,
    name="envoy-tuned",
    does="jwt_authn (HS256, with its cache of tokens), local_ratelimit (one bucket for all clients), JSON access log "
    "with the fields of gatewright's, spans of request and attempt (OTLP/HTTP, protobuf, 512 at once), statistics as "
    "by default",
    requests=_REQUESTS,
    config="""\
admin: {address: {socket_address: {address: 127.0.0.1, port_value: @ADMIN@}}}
static_resources:
  listeners:
  - name: bench
    address: {socket_address: {address: 127.0.0.1, port_value: @PORT@}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": @TYPES@.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          codec_type: HTTP1
          use_remote_address: true
          generate_request_id: true
          append_x_forwarded_port: true
          normalize_path: true
          merge_slashes: true
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": @TYPES@.access_loggers.file.v3.FileAccessLog
              path: @DIR@/access.log
              log_format:
                json_format:
                  time: "%START_TIME%"
                  request_id: "%REQ(X-REQUEST-ID)%"
                  trace_id: "%TRACE_ID%"
                  client_ip: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
                  scheme: "%REQ(:SCHEME)%"
                  host: "%REQ(:AUTHORITY)%"
                  method: "%REQ(:METHOD)%"
                  path: "%REQ(:PATH)%"
                  protocol: "%PROTOCOL%"
                  status: "%RESPONSE_CODE%"
                  duration_ms: "%DURATION%"
                  upstream_duration_ms: "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"
                  bytes_in: "%BYTES_RECEIVED%"
                  bytes_out: "%BYTES_SENT%"
                  route: "%ROUTE_NAME%"
                  service: "%UPSTREAM_CLUSTER%"
                  upstream_addr: "%UPSTREAM_HOST%"
                  attempts: "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"
                  reason: "%RESPONSE_FLAGS%"
          tracing:
            spawn_upstream_span: true
            provider:
              name: envoy.tracers.opentelemetry
              typed_config:
                "@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                service_name: @NAME@
                http_service:
                  http_uri: {uri: "http://127.0.0.1:@COLLECTOR@/@NAME@/v1/traces", cluster: collector, timeout: 10s}
          route_config:
            virtual_hosts:
            - name: bench
              domains: ["*"]
              request_headers_to_add:
              - header: {key: X-Forwarded-Host, value: "%REQ(:AUTHORITY)%"}
              routes:
              - name: bench
                match: {prefix: /}
                route: {cluster: service}
          http_filters:
          - name: envoy.filters.http.jwt_authn
            typed_config:
              "@type": @TYPES@.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                bench:
                  local_jwks: {inline_string: '@JWKS@'}
                  forward: true
                  jwt_cache_config: {jwt_cache_size: 1000}
              rules:
              - match: {prefix: /}
                requires: {provider_name: bench}
          - name: envoy.filters.http.local_ratelimit
            typed_config:
              "@type": @TYPES@.filters.http.local_ratelimit.v3.LocalRateLimit
              stat_prefix: bench
              token_bucket: {max_tokens: @LIMIT@, tokens_per_fill: @LIMIT@, fill_interval: 1s}
              filter_enabled: {default_value: {numerator: 100}}
              filter_enforced: {default_value: {numerator: 100}}
          - name: envoy.filters.http.router
            typed_config: {"@type": @TYPES@.filters.http.router.v3.Router}
  clusters:
  - name: service
    type: STATIC
    connect_timeout: 3s
    load_assignment:
      cluster_name: service
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @UPSTREAM@}}}
  - name: collector
    type: STATIC
    connect_timeout: 3s
    load_assignment:
      cluster_name: collector
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @COLLECTOR@}}}
layered_runtime:
  layers:
  - name: bench
    static_layer: {tracing.opentelemetry.min_flush_spans: 512}
""".replace("@TYPES@", _TYPES).replace("@JWKS@", bearer.JWKS),
)

# The same spans as the gateway's, and the settings that Envoy comes with for the rest.
ENVOY_SPANS = replace(
    ENVOY_TUNED,
    name="envoy-spans",
    does="as envoy-tuned, but each token is checked anew, and five spans are sent at once, which is how it comes",
    config=_without(ENVOY_TUNED.config.partition("layered_runtime")[0], "jwt_cache_config"),
)

ENVOY = replace(
    ENVOY_SPANS,
    name="envoy",
    does="as envoy-spans, but with one span a request, which is how it comes",
    config=_without(ENVOY_SPANS.config, "spawn_upstream_span"),
)

TRAEFIK = replace(
    peers.TRAEFIK,
    does="rateLimit (by client), retry, JSON access log and spans as by default (OTLP/HTTP, protobuf, of request and "
    "attempt), metrics for Prometheus; no JWT, which its open version does not have; a fixed X-Request-ID instead of "
    "new ones",
    requests=_REQUESTS,
    config="""\
http:
  routers:
    bench:
      rule: PathPrefix(`/`)
      entryPoints: [bench]
      middlewares: [limit, retry, request-id]
      service: service
  middlewares:
    limit:
      rateLimit: {average: @LIMIT@, burst: @LIMIT@, period: 1s}
    retry:
      retry: {attempts: 3, initialInterval: 25ms}
    request-id:
      headers: {customRequestHeaders: {X-Request-ID: 00000000-0000-4000-8000-000000000000}}
  services:
    service:
      loadBalancer:
        servers: [{url: "http://127.0.0.1:@UPSTREAM@"}]
""",
    arguments=(
        *peers.TRAEFIK.arguments,
        "--accesslog.filepath=@DIR@/access.log",
        "--accesslog.format=json",
        "--tracing.otlp.http.endpoint=http://127.0.0.1:@COLLECTOR@/@NAME@/v1/traces",
        "--tracing.samplerate=1.0",
        "--entrypoints.metrics.address=127.0.0.1:@ADMIN@",
        "--metrics.prometheus.entrypoint=metrics",
    ),
)

PEERS = {peer.name: peer for peer in (GATEWRIGHT, ENVOY, ENVOY_SPANS, ENVOY_TUNED, TRAEFIK)}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What shows that a proxy did what its record says."""

    metrics: str
    """Path on the admin port where Prometheus finds its metrics."""
    counter: str
    """The metric that counts requests."""
    spans: int
    """Spans a request."""
    jwt: bool = True
    """Whether it refuses requests without a good token."""


EVIDENCE = {
    GATEWRIGHT.name: Evidence("/metrics", "gateway_requests_total", spans=2),
    ENVOY.name: Evidence("/stats/prometheus", "envoy_http_downstream_rq_completed", spans=1),
    ENVOY_SPANS.name: Evidence("/stats/prometheus", "envoy_http_downstream_rq_completed", spans=2),
    ENVOY_TUNED.name: Evidence("/stats/prometheus", "envoy_http_downstream_rq_completed", spans=2),
    TRAEFIK.name: Evidence("/metrics", "traefik_service_requests_total", spans=2, jwt=False),
}
