"""`gatewright run`: the supervisor, until a signal ends it."""

import os
import sys
from pathlib import Path

from gatewright.supervisor.launch import Launched, launch

_LOG_SECONDS = 1.0


def serve(path: Path) -> int:
    """Run the gateway of a configuration file; return the exit code once a signal has ended it."""
    _have_standard_streams()
    try:
        first = launch(0)
    except OSError as error:
        print(f"gatewright: a worker process cannot be started: {error}", file=sys.stderr)
        return 1
    try:
        return _supervise(path, first)
    finally:
        first.kill()


def _have_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed: the next file that is opened would be taken for it."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _supervise(path: Path, first: Launched) -> int:
    import uvloop  # the first worker starts meanwhile

    from gatewright.control.errors import ConfigurationError, StartError
    from gatewright.supervisor.supervisor import Supervisor
    from gatewright.telemetry.own_log import start_own_log

    own_log = start_own_log()

    async def run() -> None:
        await Supervisor(path, first, _announce, own_log).run()

    try:
        uvloop.run(run())
    except ConfigurationError as error:
        for problem in error.errors:
            print(problem, file=sys.stderr)
        count = len(error.errors)
        print(f"gatewright: {path}: {count} error{'s' if count != 1 else ''}", file=sys.stderr)
        return 1
    except StartError as error:
        print(f"gatewright: {error}", file=sys.stderr)
        return 1
    finally:
        own_log.wait(_LOG_SECONDS)
    return 0


def _announce(text: str) -> None:
    print(f"gatewright: {text}", file=sys.stderr, flush=True)
