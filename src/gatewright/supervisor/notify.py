"""Telling systemd how things stand (sd_notify): a datagram to the socket that NOTIFY_SOCKET names.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html. Outside systemd nothing happens.
"""

import contextlib
import os
import socket
import time


class Notifier:
    """Sends states to the service manager, if there is one."""

    def __init__(self) -> None:
        """Takes NOTIFY_SOCKET out of the environment. Workers are launched without it: none reports in this process's
        place.
        """
        self._address = os.environ.pop("NOTIFY_SOCKET", "")

    def ready(self) -> None:
        """It serves (also: the reload is over)."""
        self._send("READY=1\nSTATUS=serving")

    def reloading(self) -> None:
        """A reload has begun; `Type=notify-reload` wants the time of it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=reloading")

    def stopping(self) -> None:
        """It finishes what it has begun."""
        self._send("STOPPING=1\nSTATUS=finishing what is under way")

    def status(self, text: str) -> None:
        """Show a line in `systemctl status`."""
        self._send(f"STATUS={text}")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(text.encode(), address)
