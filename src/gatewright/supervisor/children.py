"""The child processes that plugins fork (multiprocessing, os.fork): what they must not have of their worker, and their
end.

A fork is a copy with everything that is open. While it lives, clients would wait for an end of their connections that
does not come, and an address that the gateway has given up would stay taken. Programs that are executed
(`subprocess`) have none of that.
"""

import os
import signal
import socket
import stat
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from typing import Any

_PR_SET_PDEATHSIG = 1
_END_SECONDS = 1.0


def part_from_children(channel: socket.socket) -> None:
    """From now on have no child that this process forks share the `channel`, listening sockets or TCP connections, and
    let none outlive this process, as far as the system can do that. Call it in the main thread.
    """
    worker, main, inode = os.getpid(), threading.main_thread(), os.fstat(channel.fileno()).st_ino
    parted = False

    def part() -> None:
        nonlocal parted
        if parted:  # a child's child
            return
        parted = True
        signal.set_wakeup_fd(-1)  # signals to the child are none to the worker
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _let_go(inode)
        # The signal comes when the thread that has forked ends, and only the main thread lives as long as the process.
        if threading.current_thread() is main:
            signal_at_parents_end(signal.SIGKILL)
            if os.getppid() != worker:
                os._exit(1)

    os.register_at_fork(before=_library, after_in_child=part)


def signal_at_parents_end(number: signal.Signals) -> None:
    """Have the system send this process a signal when its parent dies: prctl(2), PR_SET_PDEATHSIG. Only Linux can."""
    if sys.platform == "linux":
        _library().prctl(_PR_SET_PDEATHSIG, number)


@cache
def _library() -> Any:
    import ctypes  # here, as it would hold up a worker's start by 3 ms

    return ctypes.CDLL(None)


def _let_go(channel: int) -> None:
    """Put /dev/null in the place of the sockets: their numbers stay taken, for objects that will close them still are
    there. Other sockets of Unix are multiprocessing's own.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in map(int, os.listdir("/dev/fd")):
        with suppress(OSError):  # that of the list itself is closed
            status = os.fstat(fd)
            if stat.S_ISSOCK(status.st_mode) and (status.st_ino == channel or _is_tcp(fd)):
                os.dup2(nothing, fd, inheritable=False)
    os.close(nothing)


def _is_tcp(fd: int) -> bool:
    sock = socket.socket(fileno=fd)
    try:
        return sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
    finally:
        sock.detach()


def end_children() -> None:
    """End the processes of multiprocessing that plugins have left. Blocks for a second at most."""
    if "multiprocessing.process" not in sys.modules:
        return
    from multiprocessing import active_children

    children = active_children()
    for child in children:
        child.terminate()
    deadline = time.monotonic() + _END_SECONDS
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))
    for child in children:
        child.kill()
