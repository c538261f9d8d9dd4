"""The listeners of a gateway: those that a configuration wants, matched with those that there are.

A listener stays when its `bind` does: with its address, its connections, and whatever of the rest has changed. Planning
does all that can fail; carrying a plan out cannot. The gateway holds one set of them.
"""

import logging
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gatewright.control.errors import StartError
from gatewright.control.models import GatewayConfig, ListenerConfig
from gatewright.control.services import digest_of_files
from gatewright.core.clock import Clock
from gatewright.core.errors import GatewayError
from gatewright.core.limits import Limits
from gatewright.core.tasks import background
from gatewright.net.answering import Handler
from gatewright.net.listener import Listener, bind
from gatewright.net.timers import Timers
from gatewright.net.tls import server_context

_log = logging.getLogger("gatewright")
_Key = tuple[str, int, int]  # host, port, and how many of the same came before


@dataclass(slots=True)
class Plan:
    """What is to become of one listener."""

    config: ListenerConfig
    tls: ssl.SSLContext | None
    credentials: bytes  # digest of its certificate and key
    sockets: list[socket.socket] = field(default_factory=list)  # that nobody serves yet
    renewed: bool = False  # it stays, and its TLS changes

    def discard(self) -> None:
        """Give up what was opened for it."""
        for sock in self.sockets:
            sock.close()
        self.sockets = []


class Listeners:
    """The listeners of the present configuration, and those that drain because it has them no more."""

    def __init__(self, clock: Clock, timers: Timers) -> None:
        self.present: list[Listener] = []
        self._clock = clock
        self._timers = timers
        self._by_key: dict[_Key, tuple[Listener, bytes]] = {}
        self._leaving: set[Listener] = set()

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return sum(len(listener.connections) for listener in self._all())

    def _all(self) -> list[Listener]:
        return [*self.present, *self._leaving]

    async def plan(self, config: GatewayConfig, opens: bool) -> list[Plan]:
        """Return what the listeners of `config` need, in their order; with `opens` new ones have their sockets then.

        Raises StartError; nothing is left open then.
        """
        plans: list[Plan] = []
        try:
            for index, (key, listener_config) in enumerate(_keyed(config).items()):
                known = self._by_key.get(key)
                plan = _plan(listener_config, index)
                plans.append(plan)
                if known is not None and known[1] != plan.credentials:
                    plan.renewed = True
                    plan.sockets = known[0].duplicates()
                elif known is None and opens:
                    plan.sockets = await _open(listener_config, index)
        except BaseException as error:
            for plan in plans:
                plan.discard()
            if isinstance(error, OSError):
                raise StartError(f"the listeners cannot be changed: {error}") from error
            raise
        return plans

    def change(self, config: GatewayConfig) -> None:
        """Let the limits and the trust of `config` hold for the listeners that stay, at once."""
        limits = limits_of(config)
        for key, listener_config in _keyed(config).items():
            if key in self._by_key:
                self._by_key[key][0].change(limits, listener_config.trusted_proxies)

    async def carry_out(
        self,
        config: GatewayConfig,
        plans: Sequence[Plan],
        handler: Handler,
        sockets: Mapping[int, Sequence[socket.socket]],
    ) -> None:
        """Serve new listeners, on the sockets of their plan and those given for their index; drain those that are not
        in `config`; renew TLS. What is given for one that stays is served beside what it has.
        """
        limits = limits_of(config)
        before, self._by_key = self._by_key, {}
        self.present = []
        for index, (key, plan) in enumerate(zip(_keyed(config), plans, strict=True)):
            known = before.pop(key, None)
            listener = known[0] if known is not None else self._listener(plan, handler, limits)
            self._by_key[key] = (listener, plan.credentials)
            self.present.append(listener)
            opened, plan.sockets = plan.sockets, []
            if plan.renewed:
                await listener.change_tls(plan.tls, opened)
                opened = []
            await listener.serve([*opened, *sockets.get(index, ())])
        for listener, _ in before.values():
            self._leaving.add(listener)
            listener.close()
            background(self._see_off(listener))

    async def serve(self, sockets: Mapping[int, Sequence[socket.socket]]) -> None:
        """Serve further sockets, by the listener's index."""
        for index, further in sockets.items():
            await self.present[index].serve(further)

    def _listener(self, plan: Plan, handler: Handler, limits: Limits) -> Listener:
        host, port = plan.config.bind
        return Listener(
            host,
            port,
            handler=handler,
            limits=limits,
            clock=self._clock,
            timers=self._timers,
            trusted=plan.config.trusted_proxies,
            tls=plan.tls,
        )

    async def _see_off(self, listener: Listener) -> None:
        await listener.emptied.wait()
        self._leaving.discard(listener)

    # The end

    def close(self) -> None:
        """Accept no more, and let every connection end."""
        for listener in self._all():
            listener.close()

    async def emptied(self) -> None:
        """Wait for the end of the last connection, after `close`."""
        for listener in self._all():
            await listener.emptied.wait()

    def break_off(self, error: GatewayError) -> None:
        """End what is under way by `error`."""
        for listener in self._all():
            listener.break_off(error)

    def abort(self) -> None:
        """Break what is left."""
        for listener in self._all():
            listener.abort()
        self.present = []
        self._leaving = set()
        self._by_key = {}


def _keyed(config: GatewayConfig) -> dict[_Key, ListenerConfig]:
    """Return the listeners by their address; of those with the same text (port 0), each has its number."""
    keyed: dict[_Key, ListenerConfig] = {}
    for listener in config.listeners:
        host, port = listener.bind
        number = sum(key[:2] == (host, port) for key in keyed)
        keyed[host, port, number] = listener
    return keyed


def _plan(config: ListenerConfig, index: int) -> Plan:
    if config.tls is None:
        return Plan(config, None, b"")
    credentials = digest_of_files(config.tls.cert, config.tls.key)
    try:
        return Plan(config, server_context(str(config.tls.cert), str(config.tls.key)), credentials)
    except OSError as error:  # ssl.SSLError is one
        message = f"the certificate or key of the listener on {config.bind} is no good: {error}"
        raise StartError(message) from error


async def _open(config: ListenerConfig, index: int) -> list[socket.socket]:
    try:
        return await bind(*config.bind)
    except OSError as error:
        reason = (os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)).lower()
        message = f"cannot listen on {config.bind} (listeners[{index}].bind): {reason}"
        raise StartError(message) from error


def limits_of(config: GatewayConfig) -> Limits:
    """Return the bounds that listeners put on their clients."""
    limits = config.limits
    return Limits(
        request_line=limits.request_line,
        headers=limits.headers,
        header_count=limits.header_count,
        body=limits.body,
        header_timeout=limits.header_timeout,
        body_timeout=limits.body_timeout or float("inf"),
        keepalive_timeout=limits.keepalive_timeout,
        write_timeout=limits.write_timeout or float("inf"),
    )
