"""How a service chooses a target, as a configuration says it: a name, or `hash` or `sticky` with options.

It owns these forms only; what they do, the balancers know. `service_models.py` uses `Balance`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, WithJsonSchema

from gatewright.control.base import ConfigModel, complaint
from gatewright.control.errors import closest, listed
from gatewright.control.fields import Text, parse_token
from gatewright.core.units import DurationOrZero

BALANCERS = ("p2c", "round_robin", "weighted", "least_requests")


def _hash_key(value: str) -> str:
    kind, colon, name = value.partition(":")
    if value in ("client_ip", "path"):
        return value
    if colon and kind in ("header", "cookie"):
        parse_token(name, "a header's name" if kind == "header" else "a cookie's name")
        return value
    raise complaint("must be header:<name>, cookie:<name>, client_ip or path")


HashKey = Annotated[
    Text,
    AfterValidator(_hash_key),
    WithJsonSchema(
        {"type": "string", "pattern": "^(header:.+|cookie:.+|client_ip|path)$", "examples": ["header:x-user"]}
    ),
]
CookieName = Annotated[
    Text,
    AfterValidator(lambda value: parse_token(value, "a cookie's name")),
    WithJsonSchema({"type": "string"}),
]


class HashOptions(ConfigModel):
    """The same key goes to the same target."""

    by: HashKey = Field(description="What of a request is the key")


class StickyOptions(ConfigModel):
    """A client stays with its target, by a cookie."""

    cookie: CookieName = Field("gw_sticky", description="Name of the cookie that is set")
    ttl: DurationOrZero = Field(0, description="How long the cookie lives; 0: as long as the browser's session")


class HashBalance(ConfigModel):
    """Consistent hashing."""

    hash: HashOptions = Field(description="The same key goes to the same target")


class StickyBalance(ConfigModel):
    """A cookie keeps a client with its target."""

    sticky: StickyOptions = Field(description="A client stays with its target, by a cookie")


def _balance(value: object) -> object:
    if value in ("sticky", {"sticky": None}):
        return {"sticky": {}}
    if value == "hash":
        raise complaint("hash needs to know by what: write hash: {by: header:x-user}")
    if isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in ("hash", "sticky"):
        return value
    if isinstance(value, str) and value in BALANCERS:
        return value
    word = next(iter(value), "") if isinstance(value, Mapping) else value
    known = (*BALANCERS, "hash: {by: ...}", "sticky")
    meant = closest(word, (*BALANCERS, "hash", "sticky")) if isinstance(word, str) else None
    raise complaint(f"must be {listed(known)}", meant)


def _balance_tag(value: Any) -> str:
    if isinstance(value, HashBalance | StickyBalance):
        return "\0hash" if isinstance(value, HashBalance) else "\0sticky"
    if isinstance(value, Mapping):
        return "\0hash" if "hash" in value else "\0sticky"
    return "\0name"


Balance = Annotated[
    Annotated[Literal["p2c", "round_robin", "weighted", "least_requests"], Tag("\0name")]
    | Annotated[HashBalance, Tag("\0hash")]
    | Annotated[StickyBalance, Tag("\0sticky")],
    Discriminator(_balance_tag),
    BeforeValidator(
        _balance,
        json_schema_input_type=Literal["p2c", "round_robin", "weighted", "least_requests", "sticky"]
        | HashBalance
        | StickyBalance,
    ),
]
