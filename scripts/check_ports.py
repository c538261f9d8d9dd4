"""Says whether the ports that run_all.sh is about to use are free, before anything is started.

Called as `check_ports.py NAME HOST PORT [NAME HOST PORT]...`, where NAME is the variable that moves the port.
Exit 0: all can be bound. Exit 1: the first that cannot is explained in one line on stderr. Needs nothing but
the standard library.
"""

import contextlib
import errno
import socket
import sys


def parse_port(name: str, text: str) -> int:
    """The port number in `text`, or SystemExit with a line that names the variable."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise SystemExit(f"run_all.sh: {name}={text} is not a port; give a number from 1 to 65535")
    return int(text)


def something_listens(host: str, port: int) -> bool:
    """True when a connection succeeds: macOS lets a specific address be bound beside a wildcard listener."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=0.5):
        return True
    return False


def problem(name: str, host: str, port: int) -> str | None:
    """Why `host`:`port` cannot be listened on, with what to do about it; None when it can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # Without this, connections of an earlier run in TIME_WAIT would count as a port in use.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        return f"HOST={host} is not an address; set HOST to one of this machine's, such as HOST=127.0.0.1"
    except OSError as exc:
        if exc.errno == errno.EADDRNOTAVAIL:
            return f"HOST={host} is not an address of this machine; set HOST to one, such as HOST=127.0.0.1"
        if exc.errno == errno.EACCES:
            return f"port {port} needs more rights than you have; set {name} to one above 1023"
        if exc.errno != errno.EADDRINUSE:
            return f"port {port} cannot be used ({exc.strerror}); set {name} to another one"
    else:
        wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        if not something_listens(wildcards.get(host, host), port):
            return None
    return f"port {port} is in use; set {name} to a free one: {name}={suggestion(port)} ./run_all.sh"


def suggestion(port: int) -> int:
    """A port that is likely free: the next one, ten or a hundred further on."""
    for candidate in (port + 1, port + 10, port + 100, port - 1):
        if 1 <= candidate <= 65535 and not something_listens("127.0.0.1", candidate):
            return candidate
    return port + 1


def main(arguments: list[str]) -> None:
    """Checks each (name, host, port) in turn; SystemExit with the first problem."""
    taken: dict[int, str] = {}
    for name, host, text in zip(arguments[::3], arguments[1::3], arguments[2::3], strict=True):
        port = parse_port(name, text)
        if port in taken:
            raise SystemExit(f"run_all.sh: {taken[port]} and {name} are both {port}; give each its own port")
        taken[port] = name
        if reason := problem(name, host, port):
            raise SystemExit(f"run_all.sh: {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
