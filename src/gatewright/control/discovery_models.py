"""What a configuration says of service discovery: Consul, DNS, where answers are kept, and the gateway's own entry.

It owns names, defaults and rules of these sections; what is done with them, `control.discovery` knows. `service_models`
and `models` put them into the whole.
"""

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, ValidationInfo, WithJsonSchema

from gatewright.control.base import ConfigModel, Given, complaint, exactly_one
from gatewright.control.fields import (
    Address,
    ExistingFile,
    FieldValue,
    Flag,
    ProbePath,
    Text,
    Whole,
    parse_bind,
    parse_target_url,
    resolve_path,
)
from gatewright.core.units import Duration, DurationOrZero

DEFAULT_CONSUL = "http://127.0.0.1:8500"
_WORD = re.compile(r"[^\s\x00-\x1f\x7f/?#]{1,255}")
_DNS_NAME = re.compile(
    r"(?!.{254})(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_-]{1,63}\.?", re.ASCII
)
_LONGEST_WAIT = 600.0  # Consul shortens what is longer

Port = Annotated[Whole, Field(ge=1, le=65535)]


def _consul_address(value: str) -> str:
    """Return the URL of a Consul agent; "host:port", as CONSUL_HTTP_ADDR has it, is http. Empty is none."""
    if not value:
        return ""
    return parse_target_url(value if "://" in value else f"http://{value}")


def _word(value: str) -> str:
    if not _WORD.fullmatch(value):
        raise complaint("must not be empty, and have no blanks and none of / ? #")
    return value


def _dns_name(value: str) -> str:
    if not _DNS_NAME.fullmatch(value):
        raise complaint('must be a DNS name such as "users.internal" or "_http._tcp.users.internal"')
    return value.rstrip(".").lower()


def _resolver(value: object) -> Address:
    if isinstance(value, str) and ":" not in value:
        value = f"{value}:53"
    address = parse_bind(value)
    if not address.port or not re.fullmatch(r"[0-9.]+|[0-9a-f:]+", address.host):
        raise complaint('must be an address, with or without a port, such as "10.0.0.2" or "127.0.0.1:8600"')
    return address


ConsulAddress = Annotated[
    Text,
    AfterValidator(_consul_address),
    WithJsonSchema({"type": "string", "examples": [DEFAULT_CONSUL, "consul.internal:8500", ""]}),
]
Word = Annotated[Text, AfterValidator(_word), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 255})]
DnsName = Annotated[
    Text,
    AfterValidator(_dns_name),
    WithJsonSchema({"type": "string", "examples": ["users.internal", "_http._tcp.users.internal"]}),
]
Resolver = Annotated[
    Address,
    PlainValidator(_resolver),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.2", "127.0.0.1:8600", "[::1]:53"]}),
]


def _yes(value: object) -> bool:
    if value is not True:
        raise complaint("must be true; for addresses without SRV records write `port` instead")
    return True


Yes = Annotated[bool, PlainValidator(_yes), WithJsonSchema({"const": True})]


def _wait(value: float) -> float:
    if value > _LONGEST_WAIT:
        raise complaint("must be at most 10m: Consul waits no longer")
    return value


class ConsulDiscovery(ConfigModel):
    """Instances that a Consul service has. What is left out of address, token, datacenter and ca, `consul` says."""

    service: Word = Field(description="Its name in Consul")
    address: Annotated[ConsulAddress | None, Given] = Field(
        None, description="The agent that is asked; empty: none, and `targets` are used"
    )
    token: Annotated[FieldValue | None, Given] = Field(None, description="ACL token that can read service and nodes")
    datacenter: Annotated[Word | None, Given] = Field(None, description="Another datacenter than the agent's")
    ca: Annotated[ExistingFile | None, Given] = Field(
        None, description="PEM file with the authorities that an https agent is believed by"
    )
    tags: tuple[Word, ...] = Field((), description="Tags that an instance must have, all of them")
    passing: Flag = Field(True, description="Only instances whose checks in Consul all pass; false: every one")
    stale: Flag = Field(False, description="Whether any Consul server may answer, also one without a leader")
    wait: Annotated[Duration, AfterValidator(_wait)] = Field(
        60.0, description="How long a blocking query waits for news, at most 10m"
    )
    keep: DurationOrZero = Field(
        0.0, description="How long the last instances are used after Consul has said that there are none"
    )
    scheme: Literal["http", "https"] = Field("http", description="How instances are spoken to")


class DnsDiscovery(ConfigModel):
    """Instances that a name has in the DNS."""

    model_config = ConfigDict(json_schema_extra=exactly_one("port", "srv"))

    name: DnsName = Field(description="The whole name, without a search list")
    port: Annotated[Port | None, Given] = Field(None, description="Port of all addresses (A and AAAA records)")
    srv: Annotated[Yes | None, Given] = Field(
        None, description="true: SRV records, which have ports and weights; of the best priority that has addresses"
    )
    ipv6: Flag = Field(True, description="Whether IPv6 addresses (AAAA records) are used too")
    resolver: Annotated[Resolver | None, Given] = Field(
        None, description="The server that is asked, by default those of the system"
    )
    tcp: Flag = Field(
        False, description="Ask by TCP only: for servers whose UDP answers leave records out, as Consul's"
    )
    interval: Duration = Field(5.0, description="Shortest time between two questions; a longer TTL is respected")
    keep: DurationOrZero = Field(
        30.0, description="How long the last addresses are used after the name is said to have none"
    )
    scheme: Literal["http", "https"] = Field("http", description="How instances are spoken to")

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Ask for exactly one of port and srv."""
        if "port" in data and "srv" in data:
            yield "srv", "SRV records say ports themselves: write `port` or `srv: true`, not both"
        elif "port" not in data and "srv" not in data:
            yield "", "needs `port` or `srv: true`"


class DiscoverConfig(ConfigModel):
    """Where a service's instances are found out; `targets` beside it are used until the first answer."""

    model_config = ConfigDict(json_schema_extra=exactly_one("consul", "dns"))

    consul: Annotated[ConsulDiscovery | None, Given] = Field(None, description="From Consul's catalogue and checks")
    dns: Annotated[DnsDiscovery | None, Given] = Field(None, description="From A, AAAA or SRV records")

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Ask for exactly one."""
        if "consul" in data and "dns" in data:
            yield "dns", "a service has `consul` or `dns`, not both"
        elif "consul" not in data and "dns" not in data:
            yield "", "needs `consul` or `dns`"

    @property
    def scheme(self) -> str:
        """http or https."""
        return (self.consul or self.dns or DnsDiscovery(name="-", port=1)).scheme


class CheckConfig(ConfigModel):
    """How Consul finds out whether the gateway is well."""

    path: Annotated[ProbePath | None, Given] = Field(
        None, description="Path that Consul asks the first listener for; by default it asks the admin API's /readyz"
    )
    interval: Duration = Field(10.0, description="Time between two checks")
    timeout: Duration = Field(2.0, description="Time that an answer may take")
    remove_after: DurationOrZero = Field(
        3600.0, description="How long the check may fail before Consul forgets the gateway; 0: for ever"
    )


class RegisterConfig(ConfigModel):
    """The gateway's own entry in Consul; it goes when the gateway ends."""

    name: Word = Field("gateway", description="Name of the service")
    id: Annotated[Word | None, Given] = Field(
        None, description="What tells it from other instances; by default name, host and port"
    )
    address: Annotated[Word | None, Given] = Field(
        None, description="Where clients reach it; by default where the first listener binds, else the node's address"
    )
    port: Annotated[Port | None, Given] = Field(None, description="Its port; by default the first listener's")
    tags: tuple[Word, ...] = Field((), description="Its tags")
    meta: dict[Word, Text] = Field({}, description="Its metadata")
    check: CheckConfig = Field(
        CheckConfig.model_construct(), description="How Consul finds out whether the gateway is well"
    )


with warnings.catch_warnings():
    # Every model class has a `register` from its metaclass, of which instances know nothing.
    warnings.filterwarnings("ignore", 'Field name "register"')

    class ConsulConfig(ConfigModel):
        """The Consul agent that services are discovered by, unless they name another, and that may list the gateway."""

        address: ConsulAddress = Field(DEFAULT_CONSUL, description="http(s)://host:port or host:port; empty: none")
        token: FieldValue = Field("", repr=False, description="ACL token; empty: none")
        datacenter: Annotated[Word | None, Given] = Field(
            None, description="The datacenter that is asked about, by default the agent's"
        )
        ca: Annotated[ExistingFile | None, Given] = Field(
            None, description="PEM file with the authorities that an https agent is believed by"
        )
        register: Annotated[RegisterConfig | None, Given] = Field(
            None, description="Enter the gateway itself as a service"
        )

        @classmethod
        def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
            """Ask for an agent where there is something to tell it."""
            if data.get("address") == "" and "register" in data:
                yield "register", "there is no agent to tell: `address` is empty"


def default_folder() -> Path | None:
    """Return where a gateway may keep state: systemd's StateDirectory, else the user's folder for it; None: nowhere."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", "gatewright")
    except RuntimeError:  # nobody's home
        return None


def _folder(value: object, info: ValidationInfo) -> Path | None:
    return None if value is False else resolve_path(value, info)


class DiscoveryConfig(ConfigModel):
    """What is the same for all discovery."""

    folder: Annotated[
        Path | None,
        PlainValidator(_folder),
        WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, {"const": False}]}),
    ] = Field(
        default_factory=default_folder,
        description="Folder for the last good answers, which a restart begins with; false: they are not kept. "
        "By default $STATE_DIRECTORY, else ~/.local/state/gatewright",
    )
