"""The listening sockets. The supervisor holds them, so that no worker's end closes an address or loses what waits in
its queue; workers serve duplicates.

An address has one socket for each worker (SO_REUSEPORT: the kernel spreads connections), or those that systemd has
opened, which workers share. Sockets are never closed while the address is wanted, and never taken from a worker: one
whose worker is gone goes to another as well. Before anybody will serve a socket it is bound and does not listen: the
kernel would give it connections.
"""

import contextlib
import os
import re
import socket
from collections.abc import Collection, Sequence
from typing import NamedTuple

from gatewright.control.errors import StartError
from gatewright.control.fields import Address

_BACKLOG = 2048
_FIRST_FD = 3  # SD_LISTEN_FDS_START
_ANY = ("0.0.0.0", "::")


class Place(NamedTuple):
    """What a socket is bound to. Two that have a host in common are spread by the kernel to the more specific one."""

    family: int
    host: str
    port: int

    def overlaps(self, other: "Place") -> bool:
        """Tell whether both cannot be bound unless both allow it."""
        if (self.family, self.port) != (other.family, other.port):
            return False
        return self.host == other.host or self.host in _ANY or other.host in _ANY


class Listening:
    """One listener's sockets: for each address that its name stands for, a group of them."""

    def __init__(self, groups: list[list[socket.socket]], inherited: list[socket.socket] | None = None) -> None:
        """`inherited`: there can be no more of them, and they go into that list when the address is given up: who has
        opened them still has them, and keeps anybody from opening them anew.
        """
        self._groups = groups
        self._inherited = inherited
        self.places = [Place(group[0].family, *group[0].getsockname()[:2]) for group in groups]  # what it is bound to
        self._shared = 1  # of each group so many have been given to workers, or listen

    @property
    def place(self) -> str:
        """host:port as text, with the port that the system chose."""
        _, host, port = self.places[0]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def listen(self) -> None:
        """Have connections come. Raises OSError."""
        for group in self._groups:
            for sock in group:
                sock.listen(_BACKLOG)
            self._shared = max(self._shared, len(group))

    def grow(self, workers: int) -> None:
        """Have a socket for each of so many workers, if that can be had; else some share one. Who is given a new one
        has it listen.
        """
        if self._inherited is not None:
            return
        for group in self._groups:
            with contextlib.suppress(OSError):
                while len(group) < workers:
                    group.append(_bind(group[0].family, group[0].getsockname()))

    def share(self, index: int, workers: int) -> list[socket.socket]:
        """Return the sockets that worker `index` of so many serves."""
        self._shared = max(self._shared, workers)
        shared: list[socket.socket] = []
        for group in self._groups:
            used = group if self._inherited is not None else group[: self._shared]
            mine = [sock for place, sock in enumerate(used) if place % workers == index]
            shared += mine or [used[index % len(used)]]
        return shared

    def close(self) -> None:
        """Give the address up."""
        for group in self._groups:
            if self._inherited is not None:
                self._inherited.extend(group)
                continue
            for sock in group:
                sock.close()


def open_address(
    bind: Address, workers: int, inherited: list[socket.socket], ours: Collection[Place] = ()
) -> Listening:
    """Bind to `bind`, or take those of `inherited` that listen there (and out of that list). Raises OSError, also where
    another socket is bound that is not of `ours`.
    """
    found = socket.getaddrinfo(bind.host or None, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    places = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    taken = [sock for sock in inherited if any(_serves(sock, family, address) for family, address in places)]
    if taken:
        for sock in taken:
            inherited.remove(sock)
        return Listening([taken], inherited)
    groups: list[list[socket.socket]] = []
    try:
        for family, address in places:
            if groups and not bind.port:  # one port for all that a name stands for
                address = (address[0], groups[0][0].getsockname()[1], *address[2:])
            place = Place(family, str(address[0]), int(address[1]))
            if place.port and not any(place.overlaps(other) for other in ours):
                _refuse_if_taken(family, address)
            groups.append([_bind(family, address)])
    except OSError:
        Listening(groups).close()
        raise
    listening = Listening(groups)
    listening.grow(workers)
    return listening


def _refuse_if_taken(family: int, address: tuple[object, ...]) -> None:
    """Raise OSError when somebody listens there: with SO_REUSEPORT alone two gateways would share the connections."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        _set_up(probe)
        probe.bind(address)


def _bind(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        _set_up(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _set_up(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _serves(sock: socket.socket, family: int, place: Sequence[object]) -> bool:
    """Tell whether an inherited socket listens at an address; [::] of systemd stands for 0.0.0.0 as well."""
    host, port = sock.getsockname()[:2]
    if port != place[1]:
        return False
    return host == place[0] or (host == "::" and place[0] == "0.0.0.0")


def inherited_sockets() -> list[socket.socket]:
    """Return the listening sockets that systemd passes on (socket activation), once. Raises StartError.

    https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not re.fullmatch("[0-9]{1,6}", count):
        return []
    sockets = []
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        try:
            if not os.get_inheritable(fd):
                raise OSError  # it was opened here
            os.set_inheritable(fd, False)
            sock = socket.socket(fileno=fd)
        except OSError as error:
            raise StartError(f"LISTEN_FDS is {count}, but descriptor {fd} is no socket that was passed on") from error
        if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
            sock.close()
            continue
        sock.setblocking(False)
        sockets.append(sock)
    return sockets
