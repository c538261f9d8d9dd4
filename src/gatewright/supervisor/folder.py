"""The folder that the workers of a gateway share: counts that are exact across them lie in mapped files there.

In memory where the system has such a place. It goes with the supervisor; what one that was killed has left behind, the
next one removes. Whose supervisor lives is told by a lock, which the kernel releases however it dies: a process ID says
nothing of other containers that share the place.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

from gatewright.control.errors import StartError

_MEMORY = Path("/dev/shm")  # noqa: S108 - each gateway makes a folder of its own in it, for its user alone
_PREFIX = "gatewright-"
_LOCK = "supervisor"


class SharedFolder:
    """A folder of this process's own, made when somebody asks where it is."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._lock = -1

    @property
    def path(self) -> Path:
        """Where it is. Raises StartError."""
        if self._path is None:
            try:
                self._path = self._make()
            except OSError as error:
                raise StartError(f"the folder that the workers share cannot be made: {error}") from error
        return self._path

    def _make(self) -> Path:
        parent = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
        _remove_orphans(parent)
        path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
        try:
            # It has its name only once it is locked: else the folder could be taken for an orphan.
            nameless = path / f"{_LOCK}.new"
            self._lock = os.open(nameless, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            nameless.rename(path / _LOCK)
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return path

    def remove(self) -> None:
        """Remove it, if it was made, with all that is in it."""
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
            os.close(self._lock)
            self._path = None


def _remove_orphans(parent: Path) -> None:
    """Remove the folders of this user's gateways that do not run any more."""
    for folder in parent.glob(f"{_PREFIX}[0-9]*-*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if status.st_uid == os.getuid() and stat.S_ISDIR(status.st_mode):
                _remove_if_orphaned(folder)


def _remove_if_orphaned(folder: Path) -> None:
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises BlockingIOError while the supervisor lives
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
