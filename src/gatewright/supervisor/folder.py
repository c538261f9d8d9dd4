"""The folder that the workers of a gateway share: counts that are exact across them lie in mapped files there.

In memory where the system has such a place. It goes with the supervisor; what one that was killed has left behind, the
next one removes.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108 - each gateway makes a folder of its own in it, for its user alone
_PREFIX = "gatewright-"


class SharedFolder:
    """A folder of this process's own."""

    def __init__(self) -> None:
        parent = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
        _remove_orphans(parent)
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))

    def remove(self) -> None:
        """Remove it, with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def _remove_orphans(parent: Path) -> None:
    """Remove the folders of gateways of this user that do not run any more."""
    for folder in parent.glob(f"{_PREFIX}[0-9]*-*"):
        with contextlib.suppress(OSError, ValueError):
            if folder.stat().st_uid == os.getuid() and not _runs(int(folder.name.split("-")[1])):
                shutil.rmtree(folder, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
