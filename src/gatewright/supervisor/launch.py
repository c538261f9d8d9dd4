"""Starting a worker's process. Imports next to nothing: `gatewright run` calls it before all else, so that the worker's
interpreter starts while the supervisor's own modules are still being loaded (0.3 s of 0.9).
"""

import socket
import subprocess
import sys
from typing import NamedTuple


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
    try:
        process = subprocess.Popen(  # noqa: S603 - it is this very program
            [
                sys.executable,
                "-P",  # else the current folder would come before the standard library
                *("-m", "gatewright.supervisor.worker", str(theirs.fileno()), str(index)),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return Launched(process, ours)
