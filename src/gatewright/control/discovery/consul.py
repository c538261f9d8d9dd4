"""Instances from Consul: blocking queries on the health endpoint, by the rules of Consul's documentation.

It owns the index, what an answer must look like, and which of its entries can be used. When to ask again after a
failure, `watch` decides.
"""

import asyncio
import logging
import random
from typing import Any
from urllib.parse import quote

from gatewright.control.discovery.agent import ConsulAgent, content_of
from gatewright.control.discovery.wanted import DiscoveryError, Instance, in_order, instance
from gatewright.control.discovery_models import ConsulDiscovery
from gatewright.core.clock import Clock
from gatewright.core.messages import Response
from gatewright.net.timers import Timers

_log = logging.getLogger("gatewright.discovery")
_MARGIN = 10.0  # seconds beyond the longest time that Consul may take over a blocking query
_FIRST_WAIT = 10.0  # for an answer that Consul has at once
_QUICK = 0.5  # an answer that came sooner after the one before counts as quick
_FREE = 5  # quick answers in a row without a pause: news must get through
_PAUSE = 0.1  # more for each further one
_LONGEST_PAUSE = 1.0


class ConsulSource:
    """The instances of one Consul service."""

    def __init__(self, service: str, wanted: ConsulDiscovery, clock: Clock, timers: Timers) -> None:
        """`wanted` is complete, `service` the name to log under."""
        self._service = service
        self._wanted = wanted
        self._clock = clock
        ca = str(wanted.ca) if wanted.ca is not None else None
        self._agent = ConsulAgent(wanted.address or "", wanted.token or "", ca, clock, timers)
        self._index = 0
        self._quick = 0
        self._malformed: frozenset[str] = frozenset()

    async def next(self) -> tuple[Instance, ...]:
        """Return the instances once there is news of them, or `wait` is over. Raises DiscoveryError."""
        index, self._index = self._index, 0  # after a failure nothing is known of the agent: it may be another by now
        began = self._clock.now()
        wait = self._wanted.wait
        timeout = wait + wait / 16 + _MARGIN if index else _FIRST_WAIT
        path = f"/v1/health/service/{quote(self._wanted.service, safe='')}"
        response = await self._agent.ask(path, self._query(index), timeout)
        found = self._read(response)
        self._index = _next_index(index, response)
        await self._slow_down(began)
        return found

    def _query(self, index: int) -> list[tuple[str, str]]:
        wanted = self._wanted
        query = [("tag", tag) for tag in wanted.tags]
        if wanted.passing:
            query.append(("passing", "true"))
        if wanted.datacenter:
            query.append(("dc", wanted.datacenter))
        if wanted.stale:
            query.append(("stale", "true"))
        if index:
            query += [("index", str(index)), ("wait", f"{max(1, round(wanted.wait * 1000))}ms")]
        return query

    async def _slow_down(self, began: float) -> None:
        """Wait a little if answers come one after the other: a busy catalogue, or an agent that does not block."""
        quick = self._clock.now() - began < _QUICK
        self._quick = self._quick + 1 if quick else 0
        if self._quick > _FREE:
            pause = min((self._quick - _FREE) * _PAUSE, _LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.75, 1.0))

    # Reading an answer

    def _read(self, response: Response) -> tuple[Instance, ...]:
        entries = content_of(response)
        if not isinstance(entries, list):
            raise DiscoveryError("Consul's answer is not a list of instances")
        if not entries and response.headers.get("x-consul-results-filtered-by-acls") == "true":
            raise DiscoveryError("the token may not see the service's instances")
        found: list[Instance] = []
        malformed: dict[str, str] = {}
        for number, entry in enumerate(entries):
            try:
                if self._is_meant(entry):
                    found.append(self._instance(entry))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                malformed[_name_of(entry, number)] = str(error) if isinstance(error, ValueError) else "it is incomplete"
        for name, why in malformed.items():
            if name not in self._malformed:
                _log.warning("service %s: instance %s in Consul is left out: %s", self._service, name, why)
        self._malformed = frozenset(malformed)
        if malformed and len(malformed) == len(entries):
            raise DiscoveryError("no instance in Consul's answer can be read")
        return in_order(found)

    def _is_meant(self, entry: Any) -> bool:
        """Tell whether the entry has what the query asked for; an agent or a cache between may not have looked."""
        wanted = self._wanted
        if wanted.passing and any(check["Status"] != "passing" for check in entry.get("Checks") or ()):
            return False
        return set(wanted.tags) <= set(entry["Service"].get("Tags") or ())

    def _instance(self, entry: Any) -> Instance:
        service = entry["Service"]
        host = service.get("Address") or entry["Node"]["Address"]
        weights = service.get("Weights")
        weight = 1 if weights is None else weights.get("Passing", 1)
        return instance(self._wanted.scheme, host, service["Port"], weight)


def _next_index(index: int, response: Response) -> int:
    """Return what the next query waits for news since; 0: it does not wait."""
    text = response.headers.get("x-consul-index") or ""
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise DiscoveryError("the answer has no X-Consul-Index: is this a Consul agent?")
    new = max(1, int(text))  # 0 would be answered at once, over and over
    return new if new >= index else 0


def _name_of(entry: Any, number: int) -> str:
    try:
        name = entry["Service"]["ID"]
    except (TypeError, KeyError):
        name = None
    return ascii(name)[:80] if isinstance(name, str) else f"number {number + 1}"
