"""`gatewright run`: the supervisor, until a signal ends it."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gatewright.core.files import raise_file_limit
from gatewright.supervisor.launch import FOR_THE_SUPERVISOR, Launched, launch

if TYPE_CHECKING:
    from gatewright.telemetry.own_log import OwnLog

_SIGNALS = (signal.SIGTERM, *FOR_THE_SUPERVISOR)
_LOG_SECONDS = 1.0


def serve(path: Path) -> int:
    """Run the gateway of a configuration file, and end the process when a signal says so; return the exit code if that
    cannot begin.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # none is lost, and none kills, before they can be handled
    _have_standard_streams()
    raise_file_limit()
    if not _is_text(path):  # messages between processes are UTF-8
        return _refuse(f"{path}: its name, or that of its folder, is no UTF-8 text")
    try:
        first = launch(0)
    except OSError as error:
        return _refuse(f"a worker process cannot be started: {error}")
    try:
        _supervise(path, first)
    finally:
        first.kill()


def _have_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed: the next file that is opened would be taken for it."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _is_text(path: Path) -> bool:
    with suppress(OSError):  # the present folder has gone
        path = path.absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(text: str) -> int:
    from gatewright.telemetry.own_log import start_own_log

    own_log = start_own_log()
    own_log.say(f"gatewright: {text}")
    own_log.wait(_LOG_SECONDS)
    return 1


def _supervise(path: Path, first: Launched) -> NoReturn:
    import uvloop  # the first worker starts meanwhile

    from gatewright.telemetry.own_log import start_own_log

    own_log = start_own_log()

    async def run() -> NoReturn:
        # In the next turn, when the supervisor handles them.
        asyncio.get_running_loop().call_soon(signal.pthread_sigmask, signal.SIG_UNBLOCK, _SIGNALS)
        code = await _outcome(path, first, own_log)
        first.kill()
        own_log.wait(_LOG_SECONDS)
        # Not by way of the interpreter's end: that waits for threads, and one may wait for a file system for ever.
        os._exit(code)

    uvloop.run(run())


async def _outcome(path: Path, first: Launched, own_log: "OwnLog") -> int:
    """Serve until a signal ends it, and say what kept it from that; return the exit code. Nothing here waits for who
    reads stderr.
    """
    from gatewright.control.errors import ConfigurationError, StartError
    from gatewright.supervisor.supervisor import Supervisor

    try:
        await Supervisor(path, first, lambda text: own_log.say(f"gatewright: {text}"), own_log).run()
    except ConfigurationError as error:
        count = len(error.errors)
        own_log.say(f"{error}\ngatewright: {path}: {count} error{'s' if count != 1 else ''}")
        return 1
    except StartError as error:
        own_log.say(f"gatewright: {error}")
        return 1
    return 0
