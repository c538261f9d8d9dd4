"""Starting a worker's process. Imports next to nothing: `gatewright run` calls it before all else, so that the worker's
interpreter starts while the supervisor's own modules are still being loaded (0.3 s of 0.9).
"""

import os
import signal
import socket
import subprocess
import sys
from typing import NamedTuple

# What a terminal and operators send, to the whole process group perhaps: the supervisor's to handle, not a worker's.
FOR_THE_SUPERVISOR = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
_OF_SYSTEMD = ("NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")  # meant for the supervisor alone


class Launched(NamedTuple):
    """A worker's process, and the supervisor's end of the channel to it."""

    process: subprocess.Popen[bytes]
    sock: socket.socket

    def kill(self) -> None:
        """End it: nobody wants it any more."""
        self.sock.close()
        self.process.kill()
        self.process.wait()


def launch(index: int) -> Launched:
    """Start the process of worker `index`. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    # Until the worker can ignore them, they wait: a fresh interpreter would die of them. A mask is inherited.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_SUPERVISOR)
    try:
        process = subprocess.Popen(  # noqa: S603 - it is this very program
            [
                sys.executable,
                "-P",  # else the current folder would come before the standard library
                *("-m", "gatewright.supervisor.worker", str(theirs.fileno()), str(index)),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env={name: value for name, value in os.environ.items() if name not in _OF_SYSTEMD},
        )
    except OSError:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return Launched(process, ours)
