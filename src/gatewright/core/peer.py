"""Who is on the other end of a client connection, as far as the connection itself tells."""

import ipaddress
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Peer:
    """The client side of one connection. `address` is an IP as text, or "" on a Unix socket; ports are integers.

    `trusted` says that what the peer forwards about its own client may be believed.
    """

    __slots__ = ("address", "blocks", "local_port", "port", "scheme", "tls_version", "trusted", "trusted_networks")

    def __init__(
        self,
        address: str,
        port: int,
        local_port: int,
        scheme: str = "http",
        trusted_networks: Sequence[Network] = (),
        tls_version: str | None = None,
    ) -> None:
        self.address = address
        self.port = port
        self.local_port = local_port
        self.scheme = scheme
        self.tls_version = tls_version
        self.trusted_networks = trusted_networks
        self.trusted = bool(trusted_networks) and is_in(address, trusted_networks)
        self.blocks: dict[bytes, bytes] = {}  # forwarding fields by Host: the same for nearly every request


def is_in(address: str, networks: Sequence[Network]) -> bool:
    """Tell whether the IP `address` lies in one of `networks`; text that is no IP lies in none."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip in network for network in networks)


def client_behind(forwarded_for: Sequence[str], peer: str, trusted: Sequence[Network]) -> str:
    """Return the client's address: the rightmost entry of X-Forwarded-For that is not about a trusted proxy.

    The leftmost entry is whatever the client claimed, so the list is read from its right end (RFC 7239 section 8.1).
    """
    address = peer
    for entry in reversed(forwarded_for):
        if not is_in(address, trusted):
            break
        candidate = entry.strip().strip('"')
        if candidate.startswith("["):
            candidate = candidate[1:].partition("]")[0]
        elif candidate.count(":") == 1:
            candidate = candidate.partition(":")[0]
        try:
            ipaddress.ip_address(candidate)
        except ValueError:
            break
        address = candidate
    return address
