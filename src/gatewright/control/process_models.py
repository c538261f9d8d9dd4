"""What a configuration says of the processes around the data plane: workers, admin API, shutdown.

It owns names, defaults and rules of these keys; `models.py` puts them into the whole. The supervisor reads them; a
gateway inside another server has no processes of its own and leaves them alone.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, StrictStr, WithJsonSchema
from pydantic_core import PydanticCustomError

from gatewright.control.base import ConfigModel, complaint
from gatewright.control.fields import Address, Bind, Flag, parse_bind
from gatewright.core.units import DurationOrZero

DEFAULT_ADMIN = Address("127.0.0.1", 9901)
MAX_WORKERS = 256
_SHORTEST_TOKEN, _LONGEST_TOKEN = 16, 512
_TOKEN_PATTERN = rf"^([!-~]{{{_SHORTEST_TOKEN},{_LONGEST_TOKEN}}})?$"
_WORKERS_HINT = f'must be a whole number from 1 to {MAX_WORKERS}, or "auto"'
_OPEN_ADMIN = (
    "this address can be reached from other machines, so it needs `admin.token` (`openssl rand -hex 32` makes one); "
    "or bind to 127.0.0.1"
)


def parse_workers(value: object) -> int | Literal["auto"]:
    """Return the number of workers, or "auto". Raises an error with a sentence for the user."""
    if value == "auto":
        return "auto"
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}", value, re.ASCII):
        raise complaint(f"{_WORKERS_HINT}, without quotes")
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_WORKERS:
        raise complaint(_WORKERS_HINT)
    return value


Workers = Annotated[
    int | Literal["auto"],
    PlainValidator(parse_workers),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_WORKERS}, {"const": "auto"}]}),
]


def is_loopback(host: str) -> bool:
    """Tell whether what binds to `host` can be reached from this machine alone."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    # An IPv4 address that is written as IPv6 is not taken: whether it is loopback differs between Python versions.
    return address.is_loopback and getattr(address, "ipv4_mapped", None) is None


def parse_token(value: str) -> str:
    """Check the token of the admin API; empty is none. Raises an error with a sentence for the user."""
    if not value:
        return value
    if not re.fullmatch(r"[!-~]+", value):
        raise complaint("must be visible ASCII characters without blanks, as it is sent in a header")
    if len(value) < _SHORTEST_TOKEN:
        raise complaint(f"must have at least {_SHORTEST_TOKEN} characters; `openssl rand -hex 32` makes a good one")
    if len(value) > _LONGEST_TOKEN:
        raise complaint(f"must have at most {_LONGEST_TOKEN} characters")
    return value


Token = Annotated[StrictStr, AfterValidator(parse_token), WithJsonSchema({"type": "string", "pattern": _TOKEN_PATTERN})]


class AdminConfig(ConfigModel):
    """The admin API: it shows what the gateway does, and changes it."""

    bind: Bind = Field(
        default_factory=lambda: DEFAULT_ADMIN,
        description="host:port; one that other machines can reach needs a token",
        json_schema_extra={"default": str(DEFAULT_ADMIN)},
    )
    token: Token = Field(
        "",
        repr=False,
        description="What callers prove themselves with (Authorization: Bearer ...); empty: whoever is on this machine",
    )

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """See `ConfigModel.rules`."""
        try:
            host = parse_bind(data["bind"]).host
        except (KeyError, PydanticCustomError):
            return
        if not data.get("token") and not is_loopback(host):
            yield "bind", _OPEN_ADMIN


def _admin(value: object) -> object:
    if isinstance(value, bool):
        return AdminConfig() if value else None
    if value is None:
        raise complaint("must be true, false or a mapping")
    return value


Admin = Annotated[AdminConfig | None, BeforeValidator(_admin, json_schema_input_type=AdminConfig | Flag)]
"""None: there is no admin API."""


class ShutdownConfig(ConfigModel):
    """How the gateway ends."""

    delay: DurationOrZero = Field(
        0.0, description="How long it still accepts after /readyz has begun to fail, so that balancers can look away"
    )
    grace: DurationOrZero = Field(
        30.0, description="How long exchanges under way may take after that; what is left then is broken off"
    )


def parse_redis(value: str) -> str:
    """Check the URL of a Redis; empty is none. Raises an error with a sentence for the user."""
    if value:
        from gatewright.state.redis_url import parse_redis_url  # here: it takes 0.1 s that most gateways do not need

        try:
            parse_redis_url(value)
        except ValueError as error:
            raise complaint(str(error)) from None
    return value


RedisUrl = Annotated[StrictStr, AfterValidator(parse_redis), WithJsonSchema({"type": "string"})]


class StateConfig(ConfigModel):
    """What several gateways share."""

    redis: RedisUrl = Field(
        "",
        repr=False,
        description="URL of a Redis that counts limits, and keeps answers of caches with `store: redis`, for several "
        "gateways; empty: the workers of this machine share their own counts",
    )
