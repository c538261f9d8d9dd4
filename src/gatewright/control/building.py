"""Building a configuration in a thread, beside the traffic.

It owns the thread, and that the event loop gets on meanwhile; what is built, `snapshot` knows. The gateway calls it,
for the first configuration too: what users' code may do while it is imported is the same at a start and at a reload.
"""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gatewright.control.errors import Problem
from gatewright.control.generation import Built
from gatewright.control.loader import check_data
from gatewright.control.models import GatewayConfig
from gatewright.control.snapshot import SnapshotError, build
from gatewright.core.clock import Clock
from gatewright.net.timers import Timers
from gatewright.plugins.registry import Source
from gatewright.plugins.services import GatewayServices

# Whoever waits for the interpreter gets it after so many seconds. With Python's own 5 ms each turn of the event loop
# waits as long, and a request takes several turns.
_SWITCH_SECONDS = 0.0005

Outcome = tuple[Built | None, list[Problem], frozenset[Path]]
ServicesOf = Callable[[GatewayConfig], GatewayServices]  # what plugins of a configuration are given


async def build_beside(
    given: GatewayConfig | Mapping[str, Any],
    base_dir: Path,
    clock: Clock,
    timers: Timers,
    services: ServicesOf,
    running: Built | None = None,
) -> Outcome:
    """Return what was built of `given`, or None and what is wrong with it; and the files of users' code that this
    depends on. Plain data is checked first.

    Unless it returns something built, users' modules are what they were.
    """
    loop = asyncio.get_running_loop()
    work = loop.run_in_executor(None, partial(_build, given, base_dir, clock, timers, services, running, loop))
    try:
        with _sharing():
            return await asyncio.shield(work)
    except asyncio.CancelledError:
        work.add_done_callback(_undo)
        raise


def _build(
    given: GatewayConfig | Mapping[str, Any],
    base_dir: Path,
    clock: Clock,
    timers: Timers,
    services: ServicesOf,
    running: Built | None,
    loop: asyncio.AbstractEventLoop,
) -> Outcome:
    asyncio.set_event_loop(loop)  # modules that ask for it while they are imported mean this one
    source = Source(base_dir)
    built: Built | None = None
    config: GatewayConfig | None
    with source:
        config, problems = (given, []) if isinstance(given, GatewayConfig) else check_data(given, base_dir, source)
        if config is not None and not problems:
            try:
                built = build(config, base_dir, clock, timers, source, running, services(config))
            except SnapshotError as error:
                problems = [error.problem]
    if built is None:
        source.undo()
    return built, problems, source.files


def _undo(work: "asyncio.Future[Outcome]") -> None:
    """Take back a building that nobody waits for any more."""
    if not work.cancelled() and work.exception() is None and (built := work.result()[0]) is not None:
        built.source.undo()


@contextlib.contextmanager
def _sharing() -> Iterator[None]:
    """Let the event loop's thread have the interpreter often while another one works."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
