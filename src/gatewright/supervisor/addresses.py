"""The addresses of a configuration: those that there are and stay, and new ones, opened before it runs.

Two addresses may overlap (0.0.0.0:80 and 127.0.0.1:80), also one that goes and one that comes: the kernel gives a
connection to the more specific. The same one twice is an error.
"""

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field

from gatewright.control.fields import Address
from gatewright.control.models import GatewayConfig
from gatewright.supervisor.messages import Fault
from gatewright.supervisor.plan import StartFailed
from gatewright.supervisor.sockets import Listening, Place, open_address

_Path = list[str | int]


@dataclass(slots=True)
class Addresses:
    """The sockets that a configuration needs, by address; `opened` are those that were opened for it."""

    listeners: dict[str, Listening] = field(default_factory=dict)
    admin: dict[str, Listening] = field(default_factory=dict)  # one at the most
    opened: list[tuple[_Path, Address, Listening]] = field(default_factory=list)

    def all(self) -> list[Listening]:
        """Return all sockets, new and old."""
        return [*self.listeners.values(), *self.admin.values()]

    def listen(self) -> None:
        """Have connections come to what was opened. Raises StartFailed."""
        for path, bind, listening in self.opened:
            try:
                listening.listen()
            except OSError as error:
                raise _failed(path, bind, error) from error

    def give_up_opened(self) -> None:
        """Close what was opened."""
        close_all(listening for _, _, listening in self.opened)


def open_addresses(config: GatewayConfig, workers: int, known: Addresses, inherited: list[socket.socket]) -> Addresses:
    """Return the sockets for each address of `config`, those of `known` and new ones, which do not listen yet.

    `inherited` sockets that are used are taken out. Raises StartFailed, and nothing is left open.
    """
    addresses = Addresses()
    wanted: list[tuple[dict[str, Listening], dict[str, Listening], Address, _Path, int]] = [
        (known.listeners, addresses.listeners, listener.bind, ["listeners", index, "bind"], workers)
        for index, listener in enumerate(config.listeners)
    ]
    if config.admin is not None:
        wanted.append((known.admin, addresses.admin, config.admin.bind, ["admin", "bind"], 1))
    ours = [place for listening in known.all() for place in listening.places]
    owners: dict[Place, _Path] = {}
    try:
        for before, now, bind, path, count in wanted:
            key = str(bind)
            while key in now:  # port 0 may stand there twice
                key += "+"
            if key in before:
                now[key] = before[key]
                now[key].grow(count)
            else:
                try:
                    now[key] = open_address(bind, count, inherited, ours)
                except OSError as error:
                    raise _failed(path, bind, error) from error
                addresses.opened.append((path, bind, now[key]))
                ours += now[key].places
            for place in now[key].places:
                _own(owners, place, path, bind)
    except StartFailed:
        addresses.give_up_opened()
        raise
    return addresses


def _own(owners: dict[Place, _Path], place: Place, path: _Path, bind: Address) -> None:
    other = owners.setdefault(place, path)
    if other is not path:
        raise StartFailed([Fault(path, f"cannot listen on {bind}: listeners[{other[1]}] has that address as well")])


def _failed(path: _Path, bind: Address, error: OSError) -> StartFailed:
    reason = (os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)).lower()
    hint = "; `admin: false` turns the admin API off" if path[0] == "admin" else ""
    return StartFailed([Fault(path, f"cannot listen on {bind}: {reason}{hint}")])


def close_all(listeners: Iterable[Listening]) -> None:
    """Give addresses up."""
    for listening in listeners:
        listening.close()
