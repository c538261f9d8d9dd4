"""The configuration as a whole: processes, listeners, limits, access log, services, routes, plugins.

These models are the contract with users: names, defaults, descriptions; the JSON Schema is made from them.
Nothing here reads a file. The loader validates with `GatewayConfig`, the snapshot is compiled from it.
"""

from typing import Annotated

from pydantic import BeforeValidator, Field

from gatewright.control.base import ConfigModel, Given
from gatewright.control.discovery_models import ConsulConfig, DiscoveryConfig
from gatewright.control.fields import Bind, Cidr, ExistingFile, Flag, Name, Whole, parse_bind
from gatewright.control.logging_models import AccessLogConfig, AccessLogSection, Debug, LogConfig
from gatewright.control.plugin_models import PluginList
from gatewright.control.process_models import Admin, AdminConfig, ShutdownConfig, StateConfig, Workers
from gatewright.control.route_models import RouteConfig
from gatewright.control.service_models import ServiceConfig
from gatewright.control.tracing_models import TracingConfig
from gatewright.core.limits import Limits
from gatewright.core.units import BodyLimit, Duration, DurationOrZero, Size

_DEFAULTS = Limits()


class ListenerTls(ConfigModel):
    """What a listener proves itself with."""

    cert: ExistingFile = Field(description="PEM file with the certificate and its chain, from this file's folder on")
    key: ExistingFile = Field(description="PEM file with the certificate's private key")


class ListenerConfig(ConfigModel):
    """An address that clients connect to."""

    bind: Bind = Field(description="host:port; an IPv6 address stands in brackets; port 0 lets the system choose")
    tls: Annotated[ListenerTls | None, Given] = Field(
        None, description="Certificate and key; without them the listener speaks plain HTTP"
    )
    trusted_proxies: tuple[Cidr, ...] = Field(
        (),
        description="Networks whose X-Forwarded-*, Forwarded and X-Request-ID are believed; by default none",
    )


class LimitsConfig(ConfigModel):
    """What one client may take."""

    request_line: Annotated[Size, Field(ge=64, le=1024**2)] = Field(
        _DEFAULTS.request_line, description="Longest request line; past it 414"
    )
    headers: Annotated[Size, Field(ge=256, le=16 * 1024**2)] = Field(
        _DEFAULTS.headers, description="Size of all header fields together; past it 431"
    )
    header_count: Annotated[Whole, Field(ge=1, le=100_000)] = Field(
        _DEFAULTS.header_count, description="Number of header fields; past it 431"
    )
    body: BodyLimit = Field(_DEFAULTS.body, description='Size of a body; past it 413; "unlimited" or 0 takes any')
    header_timeout: Duration = Field(_DEFAULTS.header_timeout, description="Time for a whole request head; past it 408")
    body_timeout: DurationOrZero = Field(
        _DEFAULTS.body_timeout,
        description="Longest pause within a request's body; past it 408; 0 waits for ever",
    )
    keepalive_timeout: Duration = Field(
        _DEFAULTS.keepalive_timeout, description="How long a connection stays open between requests"
    )
    write_timeout: DurationOrZero = Field(
        _DEFAULTS.write_timeout,
        description="How long a client may take nothing of its answer; 0 waits for ever",
    )


def _default_listeners() -> tuple[ListenerConfig, ...]:
    return (ListenerConfig(bind=parse_bind("0.0.0.0:8080")),)


def _none_as_empty(kind: type) -> BeforeValidator:
    """Take a section whose entries are all commented out as one without entries."""
    return BeforeValidator(lambda value: kind() if value is None else value)


class GatewayConfig(ConfigModel):
    """A gateway's configuration."""

    listeners: Annotated[tuple[ListenerConfig, ...], Field(min_length=1)] = Field(
        default_factory=_default_listeners,
        description="Addresses that clients connect to; by default 0.0.0.0:8080",
    )
    workers: Workers = Field(
        1, description='Number of worker processes; "auto": as many as the CPUs that the gateway may use'
    )
    admin: Admin = Field(
        default_factory=AdminConfig, description="The admin API; by default on 127.0.0.1:9901; false turns it off"
    )
    shutdown: ShutdownConfig = Field(ShutdownConfig.model_construct(), description="How the gateway ends")
    watch: Flag = Field(True, description="Reload when this file, or one that it names, changes")
    state: StateConfig = Field(StateConfig.model_construct(), description="What several gateways share")
    limits: LimitsConfig = Field(
        LimitsConfig.model_construct(), description="What one client may take; a route may change the body's"
    )
    debug: Debug = Field(False, description="Logs for people, the gateway's own from level debug on")
    access_log: AccessLogSection = Field(
        AccessLogConfig.model_construct(), description="One line for each exchange; false turns it off"
    )
    log: LogConfig = Field(LogConfig.model_construct(), description="The gateway's own log, to stderr")
    consul: ConsulConfig = Field(
        default_factory=ConsulConfig, description="The Consul agent for discovery and for the gateway's own entry"
    )
    discovery: DiscoveryConfig = Field(
        default_factory=DiscoveryConfig, description="What is the same for all discovery"
    )
    tracing: TracingConfig = Field(
        TracingConfig.model_construct(), description="Spans by OpenTelemetry, sent to a collector"
    )
    services: Annotated[dict[Name, ServiceConfig], _none_as_empty(dict)] = Field({}, description="Backends, by name")
    routes: Annotated[tuple[RouteConfig, ...], _none_as_empty(list)] = Field(
        (), description="What requests match, and what happens to them; the order decides only between equals"
    )
    plugins: PluginList = Field((), description="Plugins for every exchange, in the order in which they run")
