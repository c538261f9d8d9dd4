"""What a configuration says of tracing: where spans go, how many are recorded, whose context counts.

It owns names, defaults and rules of the section `tracing`; `models.py` puts it into the whole. The composition root
makes a tracer of it.
"""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, PlainValidator, StrictStr, WithJsonSchema

from gatewright.control.base import ConfigModel, complaint
from gatewright.control.fields import FieldName, FieldValue
from gatewright.telemetry.tracing import Parents

Propagator = Literal["tracecontext", "b3", "b3multi", "jaeger"]
_HINT = 'must be an http or https URL, such as "http://127.0.0.1:4318"'


def parse_endpoint(value: str) -> str:
    """Check the URL of a collector; without a host it is none. Raises an error with a sentence for the user."""
    if not value:
        return ""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise complaint(_HINT) from None
    if parts.scheme not in ("http", "https") or port == 0 or any(not "!" <= char <= "~" for char in value):
        raise complaint(_HINT)
    if parts.username is not None:
        raise complaint("holds no user or password: put credentials into `tracing.headers`")
    if parts.query or parts.fragment:
        raise complaint("is a base URL: without query and fragment")
    return value if parts.hostname else ""


def parse_endpoints(value: object) -> str:
    """Return the first of several URLs that names a host, or the only one. Raises an error as `parse_endpoint`."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    texts = [each for each in values if isinstance(each, str)]
    if len(texts) < len(values):
        raise complaint(f"{_HINT}; or a list of such")
    return next(filter(None, [parse_endpoint(text) for text in texts]), "")


_URL = {"type": "string", "pattern": "^(https?://.*)?$", "examples": ["http://127.0.0.1:4318"]}
Endpoint = Annotated[
    str, PlainValidator(parse_endpoints), WithJsonSchema({"anyOf": [_URL, {"type": "array", "items": _URL}]})
]


class TracingConfig(ConfigModel):
    """Spans by OpenTelemetry."""

    endpoint: Endpoint = Field(
        "",
        description="Base URL of a collector that takes OTLP over HTTP, /v1/traces is added; empty, or without a host, "
        "turns tracing off; of several the first with a host counts",
    )
    sample: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        1.0, description="Share, 0 to 1, of the traces that begin here which is recorded; others' decisions are kept"
    )
    service_name: Annotated[StrictStr, Field(min_length=1, max_length=255)] = Field(
        "gatewright", description="What the gateway is called in traces"
    )
    headers: dict[FieldName, FieldValue] = Field(
        {}, repr=False, description="Header fields for the collector, such as its Authorization"
    )
    propagate: Annotated[tuple[Propagator, ...], Field(min_length=1)] = Field(
        ("tracecontext",), description="The formats in which targets are told of the trace"
    )
    parents: Parents = Field(
        Parents.ALL, description="Whose traces are continued: those of all clients, of trusted proxies alone, of none"
    )
