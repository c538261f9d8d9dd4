"""Files as the system has them: opened without waiting for anybody, and how many a process may have open at once."""

import os
import resource
import stat
from pathlib import Path
from typing import BinaryIO

_FILES = 65536


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises OSError, ValueError (a NUL in the path).

    Opening a pipe would wait for a writer, and reading it or a device need not end.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(0, "not a regular file")
    return file


def raise_file_limit() -> None:
    """Every connection and listening socket is a file: take as many as the system lets us have. Processes that are
    started later have the limit too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
