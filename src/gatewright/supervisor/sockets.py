"""The listening sockets. The supervisor holds them, so that no worker's end closes an address or loses what waits in
its queue; workers serve duplicates.

An address has one socket for each worker (SO_REUSEPORT: the kernel spreads connections), or those that systemd has
opened. With more workers than sockets, some share one. Sockets are never closed while the address is wanted, and never
taken from a worker: one whose worker is gone goes to another as well.
"""

import os
import socket
from collections.abc import Sequence

from gatewright.control.fields import Address

_BACKLOG = 2048
_FIRST_FD = 3  # SD_LISTEN_FDS_START


class Listening:
    """One listener's sockets: for each address that its name stands for, a group of them."""

    def __init__(self, groups: list[list[socket.socket]]) -> None:
        self._groups = groups

    @property
    def place(self) -> str:
        """host:port as text, with the port that the system chose."""
        host, port = self._groups[0][0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def share(self, index: int, workers: int) -> list[socket.socket]:
        """Return the sockets that worker `index` of so many serves."""
        shared: list[socket.socket] = []
        for group in self._groups:
            mine = [sock for place, sock in enumerate(group) if place % workers == index]
            shared += mine or [group[index % len(group)]]
        return shared

    def close(self) -> None:
        """Give the address up."""
        for group in self._groups:
            for sock in group:
                sock.close()


def open_address(bind: Address, workers: int, inherited: list[socket.socket]) -> Listening:
    """Listen on `bind`, or take those of `inherited` that do (and out of that list). Raises OSError."""
    found = socket.getaddrinfo(bind.host or None, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    places = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    taken = [sock for sock in inherited if any(_serves(sock, family, address) for family, address in places)]
    if taken:
        for sock in taken:
            inherited.remove(sock)
        return Listening([taken])
    groups: list[list[socket.socket]] = []
    try:
        for family, place in places:
            if place[1]:
                _refuse_if_taken(family, place)
            group = [_listen(family, place)]
            groups.append(group)
            group += [_listen(family, group[0].getsockname()) for _ in range(workers - 1)]
    except OSError:
        Listening(groups).close()
        raise
    return Listening(groups)


def _refuse_if_taken(family: int, place: tuple[object, ...]) -> None:
    """Raise OSError when somebody listens there: with SO_REUSEPORT alone two gateways would share the connections."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        _set_up(probe)
        probe.bind(place)


def _listen(family: int, place: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        _set_up(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(place)
        sock.listen(_BACKLOG)
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
    """Return the listening sockets that systemd passes on (socket activation), once.

    https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
            sock.close()
            continue
        sock.setblocking(False)
        sockets.append(sock)
    return sockets
