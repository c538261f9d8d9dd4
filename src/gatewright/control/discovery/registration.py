"""The gateway's own entry in Consul: made when it is ready, made again when the agent has lost it, removed at the end.

It knows what an entry says, and no more of the gateway than the places that it is told. The supervisor calls it.
"""

import asyncio
import logging
import random
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from gatewright.control.discovery.agent import ConsulAgent, Refused
from gatewright.control.discovery.wanted import DiscoveryError
from gatewright.control.discovery.watch import pause_after
from gatewright.control.discovery_models import ConsulConfig, RegisterConfig
from gatewright.control.models import GatewayConfig
from gatewright.core.clock import Clock
from gatewright.core.tasks import background, spawn
from gatewright.net.timers import Timers

_log = logging.getLogger("gatewright.discovery")
_LOOK_SECONDS = 30.0  # between two looks at whether the entry is still there
_ASK_SECONDS = 5.0
_LEAVE_SECONDS = 2.0
_ANYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Places:
    """Where the gateway is: each host:port, and whether clients speak TLS. `admin` None: there is no admin API."""

    listener: str
    tls: bool
    admin: str | None


class _Entry:
    """One entry at one agent."""

    def __init__(self, consul: ConsulConfig, data: dict[str, Any], clock: Clock, timers: Timers) -> None:
        ca = str(consul.ca) if consul.ca is not None else None
        self.terms = (consul.address, consul.token, ca, data)
        self.place = (consul.address, data["ID"])
        self._data = data
        self._path = quote(str(data["ID"]), safe="")
        self._agent = ConsulAgent(consul.address, consul.token, ca, clock, timers)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = spawn(self._keep())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _keep(self) -> None:
        """Enter it, and look from time to time whether it is there."""
        failures, there, said = 0, False, ""
        while True:
            try:
                if not there or not await self._is_there():
                    query = [("replace-existing-checks", "true")]
                    await self._agent.ask("/v1/agent/service/register", query, _ASK_SECONDS, "PUT", self._data)
                    _log.info("entered in Consul as %s (%s)", self._data["Name"], self._data["ID"])
                there, failures, said = True, 0, ""
                pause = random.uniform(_LOOK_SECONDS / 2, _LOOK_SECONDS)
            except DiscoveryError as error:
                if str(error) != said:
                    _log.warning("the gateway's entry in Consul cannot be made or seen: %s", error)
                failures, said = failures + 1, str(error)
                pause = pause_after(failures)
            await asyncio.sleep(pause)

    async def _is_there(self) -> bool:
        try:
            await self._agent.ask(f"/v1/agent/service/{self._path}", [], _ASK_SECONDS)
        except Refused as error:
            if error.status == 404:
                return False
            raise
        return True

    async def remove(self) -> None:
        """Take it out; what goes wrong is logged, and Consul's check then does it."""
        self.stop()
        try:
            await self._agent.ask(f"/v1/agent/service/deregister/{self._path}", [], _LEAVE_SECONDS, "PUT")
        except DiscoveryError as error:
            _log.warning("the gateway's entry in Consul cannot be removed: %s", error)


class Registration:
    """Keeps the entry as the configuration says."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timers = Timers(clock)
        self._entry: _Entry | None = None

    def update(self, config: GatewayConfig, places: Places) -> None:
        """Have the entry that `config` asks for, if it does, from now on."""
        register, former = config.consul.register, self._entry
        entry: _Entry | None = None
        if register is not None and config.consul.address:
            entry = _Entry(config.consul, entry_of(register, places), self._clock, self._timers)
        if former is not None and entry is not None and former.terms == entry.terms:
            return
        self._entry = entry
        if former is not None:
            if entry is not None and former.place == entry.place:
                former.stop()  # the new one takes its place
            else:
                background(former.remove())
        if entry is not None:
            entry.start()

    async def leave(self) -> None:
        """Remove the entry, within two seconds or so."""
        entry, self._entry = self._entry, None
        if entry is not None:
            await entry.remove()

    def stop(self) -> None:
        """Do nothing any more; an entry that is there stays."""
        if self._entry is not None:
            self._entry.stop()
        self._timers.close()


def entry_of(register: RegisterConfig, places: Places) -> dict[str, Any]:
    """Return the entry as Consul's agent takes it."""
    host, _, port = places.listener.rpartition(":")
    bare = host.strip("[]")
    address = register.address or ("" if bare in _ANYWHERE else bare)
    name = address or socket.gethostname()
    entry: dict[str, Any] = {
        "Name": register.name,
        "ID": register.id or f"{register.name}-{name}-{register.port or port}",
        "Port": register.port or int(port),
        "Tags": list(register.tags),
        "Meta": dict(register.meta),
        "Check": _check(register, places),
    }
    if address:
        entry["Address"] = address
    return entry


def _check(register: RegisterConfig, places: Places) -> dict[str, Any]:
    config = register.check
    check: dict[str, Any] = {
        "Name": "gateway",
        "Interval": f"{config.interval:g}s",
        "Timeout": f"{config.timeout:g}s",
        "Status": "passing",  # it is entered when it is ready: clients need not wait for the first check
    }
    if config.remove_after:
        check["DeregisterCriticalServiceAfter"] = f"{config.remove_after:g}s"
    if config.path is not None:
        check["HTTP"] = f"{'https' if places.tls else 'http'}://{_reachable(places.listener)}{config.path}"
        if places.tls:
            check["TLSSkipVerify"] = True  # the address is no name that the certificate would have
    elif places.admin is not None:
        check["HTTP"] = f"http://{_reachable(places.admin)}/readyz"
    else:
        check["TCP"] = _reachable(places.listener)
    return check


def _reachable(place: str) -> str:
    """Return a place as the agent on this machine reaches it."""
    host, _, port = place.rpartition(":")
    return {"0.0.0.0": f"127.0.0.1:{port}", "[::]": f"[::1]:{port}"}.get(host, place)
