"""What a configuration says of a route: what it matches, and what happens to what matches.

It owns names, defaults and rules of these sections; what patterns mean, the routing package owns. What
concerns several sections (a route's service is there, no route shadows another) is checked in `references.py`
and `conflicts.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from gatewright.control.base import ConfigModel, Given, complaint, exactly_one
from gatewright.control.errors import listed
from gatewright.control.fields import (
    FieldName,
    FieldValue,
    HostPattern,
    Location,
    Method,
    Name,
    PathPattern,
    Prefix,
    Rewrite,
    Text,
    Whole,
    quiet_regex,
)
from gatewright.control.plugin_models import PluginList
from gatewright.core.units import BodyLimit
from gatewright.routing import predicates

ACTIONS = ("service", "split", "redirect", "respond", "health")
_ANSWERS = ("redirect", "respond", "health")
_FRAMING = ("content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer")


def _expected(value: object) -> str | Literal[True]:
    if value is True:
        return True
    if not isinstance(value, str):
        raise complaint('must be a text, "~" and a regular expression, or true for presence; put quotes round a number')
    with quiet_regex():
        predicates.query("value", value)  # for its check of the regular expression
    return value


Expected = Annotated[
    str | Literal[True],
    PlainValidator(_expected),
    WithJsonSchema({"anyOf": [{"type": "string", "examples": ["blue", "~^v[0-9]+$"]}, {"const": True}]}),
]


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


class MatchConfig(ConfigModel):
    """What a route takes: all that is said here must hold."""

    path: PathPattern = Field(
        "/*",
        description="/a/b exact; /items/{id} one segment; /a/{rest...} or /a/* any number; ~ a regex",
    )
    methods: tuple[Method, ...] = Field((), description="The methods; by default any. GET takes HEAD too")
    host: Annotated[
        tuple[HostPattern, ...],
        BeforeValidator(_one_or_many, json_schema_input_type=HostPattern | tuple[HostPattern, ...]),
    ] = Field((), description="A host or several: exact, or *.example.com for all below it; by default any")
    headers: dict[FieldName, Expected] = Field(
        {}, description="Header fields: a text, ~ and a regular expression, or true for presence"
    )
    query: dict[Text, Expected] = Field(
        {}, description="Query parameters: a text, ~ and a regular expression, or true for presence"
    )


class SplitEntry(ConfigModel):
    """One side of a split."""

    service: Text = Field(description="Name of a service")
    weight: Annotated[Whole, Field(ge=0, le=1_000_000)] = Field(description="Its share beside the others' weights")


class RedirectConfig(ConfigModel):
    """An answer that sends the client elsewhere."""

    to: Location = Field(description="A URL or path; {name} stands for a parameter of the path")
    status: Literal[301, 302, 303, 307, 308] = Field(308, description="308 and 307 keep the method")


class RespondConfig(ConfigModel):
    """A fixed answer."""

    status: Annotated[Whole, Field(ge=200, le=599)] = Field(200, description="Its status")
    body: Text = Field("", description="Its body, as text")
    content_type: FieldValue = Field("text/plain; charset=utf-8", description="What the body is")
    headers: dict[FieldName, FieldValue] = Field({}, description="Further header fields")

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Refuse what would contradict the answer's framing."""
        if data.get("status") in (204, 205, 304) and data.get("body"):
            yield "body", f"an answer with status {data['status']} has no body"
        headers = data.get("headers")
        for name in headers if isinstance(headers, Mapping) else ():
            if str(name).lower() in _FRAMING:
                yield "headers", f"the gateway sets {str(name).lower()!r} itself"
            elif str(name).lower() == "content-type":
                yield "headers", "write `content_type` instead of a content-type header"


class HealthRouteConfig(ConfigModel):
    """The services' health as JSON, as the health checks found it last; 503 when no service can serve."""

    services: tuple[Text, ...] = Field((), description="The services that count; by default all")


class RouteLimits(ConfigModel):
    """What this route allows instead of the gateway's limits."""

    body: BodyLimit = Field(description='Size of a body; past it 413; "unlimited" or 0 takes any')


class RouteConfig(ConfigModel):
    """A match, and one action: service, split, redirect, respond or health."""

    model_config = ConfigDict(json_schema_extra=exactly_one(*ACTIONS))

    name: Name = Field(description="What it is called in logs, metrics and answers; unique")
    match: MatchConfig = Field(description="What it takes")
    priority: Annotated[Whole, Field(ge=-1_000_000, le=1_000_000)] = Field(
        0, description="Decides between routes that are equally specific; higher goes first"
    )
    service: Annotated[Text | None, Given] = Field(None, description="Name of the service that answers")
    split: Annotated[Annotated[tuple[SplitEntry, ...], Field(min_length=1)] | None, Given] = Field(
        None, description="Several services, by weight"
    )
    redirect: Annotated[RedirectConfig | None, Given] = Field(
        None, description="An answer that sends the client elsewhere"
    )
    respond: Annotated[RespondConfig | None, Given] = Field(None, description="A fixed answer")
    health: Annotated[HealthRouteConfig | None, Given] = Field(
        None, description="An answer that says how the services fare; {} for all of them"
    )
    rewrite: Annotated[Rewrite | None, Given] = Field(
        None, description="The path for the target; {name} stands for a parameter of the path"
    )
    strip_prefix: Annotated[Prefix | None, Given] = Field(
        None,
        description="Beginning of the path that the target does not see; true: all before the parameters",
    )
    plugins: PluginList = Field((), description="Plugins for this route's exchanges; they run after the service's")
    limits: Annotated[RouteLimits | None, Given] = Field(
        None, description="What this route allows instead of the gateway's limits"
    )

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Ask for exactly one action, and for path changes only where a target sees the path."""
        actions = [key for key in ACTIONS if key in data]
        if not actions:
            yield "", f"needs an action: {listed(ACTIONS)}"
        for extra in actions[1:]:
            yield extra, f"a route has one action, and this one has `{actions[0]}`"
        if "rewrite" in data and "strip_prefix" in data:
            yield "strip_prefix", "a route has `rewrite` or `strip_prefix`, not both"
        if actions and actions[0] in _ANSWERS:
            for key in ("rewrite", "strip_prefix"):
                if key in data:
                    yield key, f"has no effect on a route with `{actions[0]}`"
