"""Instances from the DNS: A, AAAA and SRV records, asked for anew when their time to live is over.

It owns what records mean; how servers are asked, dnspython knows. A server that fails is an error; a name that is said
to have no records is an answer.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver

from gatewright.control.discovery.wanted import DiscoveryError, Instance, in_order, instance
from gatewright.control.discovery_models import DnsDiscovery
from gatewright.core.clock import Clock

_ASK_SECONDS = 5.0  # for one question, all servers and tries
_LONGEST = 300.0  # a record may live for days; the machine behind it may not
_JITTER = 0.1
_MAX_NAMES = 200  # of one SRV answer


class _Answer:
    """The records of one question, none if the name has none of the kind; `ttl` in seconds."""

    def __init__(self, records: Sequence[Any], ttl: float, additional: dict[tuple[str, str], list[str]]) -> None:
        self.records = records
        self.ttl = ttl
        self.additional = additional  # addresses that came along, by name and kind


class DnsSource:
    """The instances of one name."""

    def __init__(self, wanted: DnsDiscovery, clock: Clock) -> None:
        self._wanted = wanted
        self._clock = clock
        self._kinds = ("A", "AAAA") if wanted.ipv6 else ("A",)
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._due = 0.0  # when to ask again
        self._addresses: dict[tuple[str, str], list[str]] = {}  # last known, by name and kind

    async def next(self) -> tuple[Instance, ...]:
        """Return the instances once it is time to ask again. Raises DiscoveryError."""
        await asyncio.sleep(max(0.0, self._due - self._clock.now()))
        found, ttl = await (self._by_srv() if self._wanted.srv else self._by_address())
        # That there is nothing is not believed for its whole TTL: somebody may be about to enter the name.
        pause = min(max(ttl if found else 0.0, self._wanted.interval), _LONGEST)
        self._due = self._clock.now() + pause * random.uniform(1.0, 1.0 + _JITTER)
        return in_order(found)

    async def _by_address(self) -> tuple[list[Instance], float]:
        hosts, ttl = await self._hosts(self._wanted.name)
        assert self._wanted.port is not None
        return _instances(self._wanted.scheme, [(host, self._wanted.port, 1) for host in hosts]), ttl

    async def _by_srv(self) -> tuple[list[Instance], float]:
        answer = await self._ask(self._wanted.name, "SRV")
        ttl = answer.ttl
        best: list[tuple[str, int, int]] = []
        names: set[str] = set()
        tried = 0
        for priority in sorted({record.priority for record in answer.records}):
            group = [record for record in answer.records if record.priority == priority]
            # A weight of 0 beside others means a small share; the gateway's own 0 would be none.
            for record in group[: _MAX_NAMES - tried]:
                tried += 1
                name = record.target.to_text(omit_final_dot=True).lower()
                if name == ".":  # RFC 2782: "." says that there is no such service
                    continue
                names.add(name)
                hosts, lives = await self._hosts(name, answer.additional)
                ttl = min(ttl, lives)
                best += [(host, record.port, record.weight) for host in hosts]
            if best:
                break
        self._addresses = {key: hosts for key, hosts in self._addresses.items() if key[0] in names}
        return _instances(self._wanted.scheme, best), ttl

    async def _hosts(self, name: str, known: dict[tuple[str, str], list[str]] | None = None) -> tuple[list[str], float]:
        """Return a name's addresses and how long they live. What cannot be asked now stays what it was."""
        if known and (come := [host for kind in self._kinds for host in known.get((name, kind), ())]):
            return come, _LONGEST  # the SRV answer's own TTL counts
        found: list[str] = []
        ttl = _LONGEST
        failure: DiscoveryError | None = None
        answers = await asyncio.gather(*(self._ask(name, kind) for kind in self._kinds), return_exceptions=True)
        for kind, answer in zip(self._kinds, answers, strict=True):
            if isinstance(answer, DiscoveryError):
                failure = answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                ttl = min(ttl, answer.ttl)
                self._addresses[name, kind] = [record.address for record in answer.records]
            found += self._addresses.get((name, kind), ())
        if failure is not None and not found:
            raise failure
        if failure is not None:
            ttl = 0.0
        return found, ttl

    async def _ask(self, name: str, kind: str) -> _Answer:
        """Ask one question. Raises DiscoveryError when no server answers it."""
        try:
            resolver = self._resolver = self._resolver or _resolver(self._wanted)
            answer = await resolver.resolve(
                f"{name}.", kind, tcp=self._wanted.tcp, raise_on_no_answer=False, lifetime=_ASK_SECONDS
            )
        except dns.resolver.NXDOMAIN:
            return _Answer((), 0.0, {})
        except (dns.exception.DNSException, OSError, ValueError) as error:
            self._resolver = None  # the system's servers may be others by the next time
            raise DiscoveryError(f"{kind} of {name}: {str(error) or type(error).__name__}") from error
        ttl = float(answer.chaining_result.minimum_ttl)
        if answer.rrset is None:
            return _Answer((), ttl, {})
        additional: dict[tuple[str, str], list[str]] = {}
        for rrset in answer.response.additional:
            if rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
                key = (rrset.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(rrset.rdtype))
                additional.setdefault(key, []).extend(record.address for record in rrset)
        return _Answer(list(answer.rrset), ttl, additional)


def _resolver(wanted: DnsDiscovery) -> dns.asyncresolver.Resolver:
    if wanted.resolver is None:
        return dns.asyncresolver.Resolver()
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [wanted.resolver.host]
    resolver.port = wanted.resolver.port
    return resolver


def _instances(scheme: str, places: list[tuple[str, int, int]]) -> list[Instance]:
    """Return what can be used of the places; a record that names none (port 0, say) is left out."""
    found = []
    for host, port, weight in places:
        try:
            found.append(instance(scheme, host, port, weight))
        except ValueError:
            continue
    return found
