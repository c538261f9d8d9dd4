"""What is looked for, and what is found: the words that all of discovery shares.

`wanted` reads a service's `discover` section together with the gateway's `consul`. Nothing here does I/O.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

from pydantic_core import PydanticCustomError

from gatewright.control.discovery_models import ConsulDiscovery, DnsDiscovery
from gatewright.control.fields import parse_target_url
from gatewright.control.models import GatewayConfig
from gatewright.control.service_models import ServiceConfig

MAX_WEIGHT = 65535


class DiscoveryError(Exception):
    """There is no answer now, or none that can be used; the message says why."""


class Instance(NamedTuple):
    """One place where a service can be reached."""

    url: str
    weight: int = 1


Wanted = ConsulDiscovery | DnsDiscovery


class Found(NamedTuple):
    """The instances of a service, by what its configuration of the given identity looks for."""

    service: str
    identity: str
    instances: tuple[Instance, ...]


def wanted(config: GatewayConfig, service: ServiceConfig) -> Wanted | None:
    """Return what a service's instances are found by, complete; None for one whose targets are written down."""
    discover = service.discover
    if discover is None or discover.dns is not None:
        return discover.dns if discover is not None else None
    consul, common = discover.consul, config.consul
    assert consul is not None, "`discover` has one of the two"
    address = common.address if consul.address is None else consul.address
    if not address:
        return None
    inherited = {
        "address": address,
        "token": common.token if consul.token is None else consul.token,
        "datacenter": consul.datacenter or common.datacenter,
        "ca": consul.ca or common.ca,
    }
    return consul.model_copy(update=inherited)


def identity(wanted: Wanted) -> str:
    """Return what tells one thing that is looked for from any other, however it is asked for."""
    if isinstance(wanted, ConsulDiscovery):
        parts = [wanted.address, wanted.datacenter, wanted.service, sorted(wanted.tags), wanted.passing, wanted.scheme]
    else:
        parts = [str(wanted.resolver), wanted.name, str(wanted.port), bool(wanted.srv), wanted.scheme]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def in_words(wanted: Wanted) -> str:
    """Return what is looked for as logs say it."""
    return f"Consul service {wanted.service}" if isinstance(wanted, ConsulDiscovery) else f"DNS name {wanted.name}"


def instance(scheme: str, host: object, port: object, weight: object = 1) -> Instance:
    """Return the instance at a place that somebody else wrote down. Raises ValueError, which says what is wrong."""
    if not isinstance(host, str) or not host:
        raise ValueError("it has no address")
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise ValueError("it has no port")
    if not isinstance(weight, int) or isinstance(weight, bool):
        raise ValueError("its weight is not a number")
    try:
        url = parse_target_url(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")
    except PydanticCustomError:
        raise ValueError("its address is not one") from None
    return Instance(url, min(max(weight, 1), MAX_WEIGHT))


def in_order(found: Iterable[Instance]) -> tuple[Instance, ...]:
    """Return instances in an order of their own, each address once: the same answer is then equal to itself."""
    return tuple(sorted({each.url: each for each in found}.values()))


def configured(service: ServiceConfig) -> tuple[Instance, ...]:
    """Return the targets that are written down."""
    return tuple(Instance(target.url, target.weight) for target in service.targets or ())
