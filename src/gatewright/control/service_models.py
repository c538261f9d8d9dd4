"""What a configuration says of a service: targets, balancing, health, timeouts, retries, breaker, pool.

It owns names, defaults and rules of these sections. Shorthands (a target as a bare URL, `balance: sticky`,
false for off) are brought into their long form here, so what reads the models sees one form only.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
)

from gatewright.control.balance_models import Balance
from gatewright.control.base import ConfigModel, Given, complaint
from gatewright.control.discovery_models import DiscoverConfig
from gatewright.control.errors import closest
from gatewright.control.fields import (
    ExistingFile,
    Flag,
    ImportPath,
    ProbePath,
    TargetUrl,
    Text,
    UpstreamHost,
    Whole,
)
from gatewright.control.plugin_models import PluginList
from gatewright.core.units import Duration, DurationOrZero, Share

Positive = Annotated[Whole, Field(ge=1, le=1_000_000)]


class TargetConfig(ConfigModel):
    """One instance of a service."""

    url: TargetUrl = Field(description="http:// or https://, host and port")
    weight: Annotated[Whole, Field(ge=0, le=65535)] = Field(
        1, description="Its share of the traffic beside the others' weights; 0 sends it nothing"
    )

    @property
    def scheme(self) -> str:
        """http or https."""
        return self.url.partition(":")[0]

    @property
    def host(self) -> str:
        """Host name or address, without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port; when the URL names none, its scheme's."""
        return urlsplit(self.url).port or (443 if self.scheme == "https" else 80)


def _target(value: object) -> object:
    if isinstance(value, str):
        return {"url": value}
    if not isinstance(value, Mapping | TargetConfig):
        raise complaint("must be a URL, or a mapping of url and weight")
    return value


Target = Annotated[TargetConfig, BeforeValidator(_target, json_schema_input_type=TargetUrl | TargetConfig)]


def _statuses(value: object) -> frozenset[int]:
    found: set[int] = set()
    for item in value if isinstance(value, list | tuple | set | frozenset) else [value]:
        match = re.fullmatch(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?", str(item), re.ASCII)
        if match is None or isinstance(item, bool | float):
            raise complaint('must be a status such as 200, a range such as "200-399", or a list of them')
        low, high = int(match.group(1)), int(match.group(2) or match.group(1))
        if low > high:
            raise complaint("a range of statuses goes upwards", f"{high}-{low}")
        found.update(range(low, high + 1))
    if not found:
        raise complaint("must not be empty")
    return frozenset(found)


_STATUS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 100, "maximum": 599},
        {"type": "string", "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$"},
    ]
}
Statuses = Annotated[
    frozenset[int],
    PlainValidator(_statuses),
    WithJsonSchema({"anyOf": [*_STATUS_SCHEMA["anyOf"], {"type": "array", "items": _STATUS_SCHEMA, "minItems": 1}]}),
]


class HealthConfig(ConfigModel):
    """Active health checks: every target is asked regularly."""

    path: ProbePath = Field(description="What is asked for, with GET")
    interval: Duration = Field(10.0, description="Time between two checks of a target")
    timeout: Duration = Field(2.0, description="Time that an answer may take")
    healthy: Positive = Field(2, description="Good answers in a row that bring a target back")
    unhealthy: Positive = Field(3, description="Bad answers in a row that take a target out")
    statuses: Statuses = Field(frozenset(range(200, 400)), description="Statuses of a good answer; by default 200-399")


class OutlierConfig(ConfigModel):
    """Passive checks: a target that keeps failing on real traffic is left alone for a while."""

    consecutive: Positive = Field(5, description="Failures in a row that eject a target")
    eject: Duration = Field(30.0, description="How long it stays out the first time; each further time longer")
    max_ejected: Share = Field(0.5, description="The most of the targets that may be out at a time")


class TimeoutsConfig(ConfigModel):
    """How long a service may take."""

    connect: Duration = Field(3.0, description="Until a connection stands, TLS included")
    response: DurationOrZero = Field(30.0, description="From the request's end to the answer's head; 0: any time")
    idle: DurationOrZero = Field(60.0, description="Longest pause within an answer's body; 0: any time")
    total: DurationOrZero = Field(
        60.0, description="From a request's head to its answer's head, retries included; 0: any time"
    )
    tunnel: DurationOrZero = Field(
        3600.0, description="How long a tunnel (a WebSocket) may carry nothing before it is closed; 0: any time"
    )


class BackoffConfig(ConfigModel):
    """The pause before a retry: a random time up to base, doubled for each further one, up to max."""

    base: DurationOrZero = Field(0.025, description="Longest pause before the first retry")
    max: DurationOrZero = Field(0.25, description="Longest pause before any retry")


RETRY_EVENTS = ("connect_failure", "reset", "timeout")


def _retry_condition(value: object) -> str | int:
    if value in RETRY_EVENTS:
        return str(value)
    if not isinstance(value, bool | float) and re.fullmatch(r"429|5[0-9]{2}", str(value), re.ASCII):
        return int(str(value))
    meant = closest(value, RETRY_EVENTS) if isinstance(value, str) else None
    raise complaint("must be connect_failure, reset, timeout, 429 or a 5xx status", meant)


RetryCondition = Annotated[
    str | int,
    PlainValidator(_retry_condition),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": [*RETRY_EVENTS, "502", "503", "504"]},
                {"type": "string", "pattern": "^(429|5[0-9]{2})$"},
                {"enum": [429, *range(500, 600)]},
            ]
        }
    ),
]


class RetryConfig(ConfigModel):
    """When another try is made; only where it is safe: idempotent methods, bodies that can be sent again.

    A request that could not be sent, since connecting failed, goes on to every other target first.
    """

    attempts: Annotated[Whole, Field(ge=0, le=10)] = Field(
        1,
        description="Tries after the first one; 0 turns retries off. Going on to a target not met yet is none",
    )
    on: tuple[RetryCondition, ...] = Field(
        ("connect_failure", "reset", 502, 503, 504), description="What another try is made for"
    )
    budget: Share = Field(0.2, description="The most of a service's requests that may be retries (three always may)")
    backoff: BackoffConfig = Field(BackoffConfig.model_construct(), description="The pause before a retry")


class BreakerConfig(ConfigModel):
    """A target that fails too often is not asked for a while, then probed with one request."""

    failure_rate: Share = Field(0.5, description="The share of failures that opens the circuit")
    minimum: Positive = Field(20, description="Requests within the window before the share counts")
    window: Duration = Field(10.0, description="How far back the share looks")
    open: Duration = Field(10.0, description="How long the circuit stays open before it is probed")


class PoolConfig(ConfigModel):
    """Connections to each target."""

    max_connections: Positive = Field(1024, description="Connections to one target at a time")
    max_idle: Annotated[Whole, Field(ge=0, le=1_000_000)] = Field(
        128, description="Idle connections kept to one target"
    )
    idle_timeout: Duration = Field(60.0, description="How long an idle connection is kept")
    max_age: Duration = Field(3600.0, description="Age at which a connection is not used again")


class UpstreamTls(ConfigModel):
    """TLS towards https targets."""

    verify: Flag = Field(True, description="Whether the target's certificate and name are checked; false is for tests")
    ca: Annotated[ExistingFile | None, Given] = Field(
        None, description="PEM file with the authorities that are believed instead of the system's"
    )
    cert: Annotated[ExistingFile | None, Given] = Field(
        None, description="PEM file with the certificate that the gateway shows"
    )
    key: Annotated[ExistingFile | None, Given] = Field(None, description="PEM file with that certificate's private key")
    server_name: Annotated[Text | None, Given] = Field(
        None, description="Name that is asked for (SNI) and checked, instead of the target's host"
    )

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Ask for certificate and key together."""
        for one, other in (("cert", "key"), ("key", "cert")):
            if one in data and other not in data:
                yield one, f"needs `{other}` beside it"


def _off(value: object) -> object:
    if value is False:
        return None
    if value is None or value is True:
        raise complaint("must be false or a mapping")
    return value


def _switch(model: type[ConfigModel]) -> BeforeValidator:
    return BeforeValidator(_off, json_schema_input_type=model | Literal[False])


_NOT_FOR_APPS = ("discover", "balance", "host", "health", "outlier", "pool", "tls")


class ServiceConfig(ConfigModel):
    """A logical backend: targets that are written down or discovered, or one ASGI application in this process."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["app"]}, {"anyOf": [{"required": ["targets"]}, {"required": ["discover"]}]}]
        }
    )

    targets: Annotated[Annotated[tuple[Target, ...], Field(min_length=1)] | None, Given] = Field(
        None, description="Its instances: URLs, or mappings of url and weight"
    )
    discover: Annotated[DiscoverConfig | None, Given] = Field(
        None, description="Where its instances are found out; `targets` then serve until the first answer"
    )
    app: Annotated[ImportPath | None, Given] = Field(
        None, description="An ASGI application that is served in process, by its import path"
    )
    balance: Balance = Field("p2c", description="How a target is chosen")
    host: UpstreamHost = Field(
        "preserve",
        description="What targets see as Host: the client's (preserve), their own (target), or this one",
    )
    health: Annotated[HealthConfig | None, _switch(HealthConfig)] = Field(
        None, description="Active health checks; by default none"
    )
    outlier: Annotated[OutlierConfig | None, _switch(OutlierConfig)] = Field(
        OutlierConfig.model_construct(), description="Passive checks; false turns them off"
    )
    timeouts: TimeoutsConfig = Field(TimeoutsConfig.model_construct(), description="How long it may take")
    retry: RetryConfig = Field(RetryConfig.model_construct(), description="When another try is made")
    breaker: Annotated[BreakerConfig | None, _switch(BreakerConfig)] = Field(
        BreakerConfig.model_construct(), description="Circuit breaker of each target; false turns it off"
    )
    max_in_flight: Positive = Field(1024, description="Requests at a time; past it 503 with Retry-After")
    pool: PoolConfig = Field(PoolConfig.model_construct(), description="Connections to each target")
    tls: UpstreamTls = Field(UpstreamTls.model_construct(), description="TLS towards https targets")
    plugins: PluginList = Field((), description="Plugins for every exchange with it; they run after the global ones")

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Ask for targets, discover or app, and for nothing beside app that has no effect there."""
        if "targets" in data and "app" in data:
            yield "app", "a service has `targets` or `app`, not both"
        elif "app" in data:
            for key in _NOT_FOR_APPS:
                if key in data:
                    yield key, "has no effect on a service with `app`"
        elif "targets" not in data and "discover" not in data:
            yield "", "needs `targets`, `discover` or `app`"
