"""`gatewright run`: one process that serves until a signal ends it."""

import asyncio
import gc
import logging
import resource
import signal
import sys
from pathlib import Path

import uvloop

from gatewright.app import Gateway, StartError
from gatewright.control.models import GatewayConfig
from gatewright.core.tasks import spawn
from gatewright.telemetry.own_log import start_own_log

_log = logging.getLogger("gatewright")
_FILES = 65536
_GRACE = 30.0
_GC_THRESHOLD = 20_000  # exchanges leave no cycles behind: look for the rare ones of plugins rarely
_LOG_SECONDS = 1.0


def serve(config: GatewayConfig, base_dir: Path) -> int:
    """Run the gateway; return the exit code once a signal has ended it."""
    own_log = start_own_log()
    _raise_file_limit()
    try:
        return uvloop.run(_serve(Gateway(config, base_dir)))
    finally:
        own_log.wait(_LOG_SECONDS)


async def _serve(gateway: Gateway) -> int:
    loop = asyncio.get_running_loop()
    told = asyncio.Queue[str]()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.put_nowait, number.name)
    try:
        await gateway.start()
    except StartError as error:
        print(f"gatewright: {error}", file=sys.stderr)
        return 1
    # Nothing of what start-up made will ever be garbage; without this every full collection walks all of it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 50)
    for listener in gateway.listeners:
        print(f"gatewright: listening on {listener.url}", file=sys.stderr, flush=True)
    await told.get()
    _log.info("finishing what is under way; signal again to stop at once")  # a print could wait for a stalled reader
    stopping, again = spawn(gateway.stop(_GRACE)), spawn(told.get())
    await asyncio.wait((stopping, again), return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if stopping.done():
        stopping.result()
    else:
        stopping.cancel()
        await gateway.stop(0)
    return 0


def _raise_file_limit() -> None:
    """Every connection is a file: take as many as the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
