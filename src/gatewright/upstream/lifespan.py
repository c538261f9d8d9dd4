"""The lifespan protocol of ASGI, for applications that are served in this process."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from gatewright.core.errors import Reason, Retry, UpstreamError
from gatewright.core.tasks import spawn

_log = logging.getLogger("gatewright.app")
START_SECONDS = 30.0
STOP_SECONDS = 10.0


class Lifespan:
    """Runs one application's lifespan in a task of its own; an application without one is left alone."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app
        self._events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._answer: asyncio.Future[str] | None = None
        self._task: asyncio.Task[None] | None = None
        self.state: dict[str, Any] = {}  # what the application leaves for its requests

    async def start(self) -> None:
        """Let the application start up. Raises UpstreamError(app_failed) when it says that it cannot."""
        self._task = spawn(self._run())
        failure = await self._ask("lifespan.startup", START_SECONDS)
        if failure:
            # Frameworks put a whole traceback here: it is for the log, its last line for who starts the gateway.
            _log.error("the in-process application did not start: %s", failure)
            last = failure.strip().rpartition("\n")[2]
            raise UpstreamError(Reason.APP_FAILED, f"The application did not start: {last}", Retry.NEVER)

    async def stop(self) -> None:
        """Let it shut down, for STOP_SECONDS at most."""
        if self._task is None or self._task.done():
            return
        failure = await self._ask("lifespan.shutdown", STOP_SECONDS)
        if failure:
            _log.error("the in-process application did not shut down cleanly: %s", failure)
        self._task.cancel()

    async def _ask(self, event: str, seconds: float) -> str:
        self._answer = asyncio.get_running_loop().create_future()
        self._events.put_nowait({"type": event})
        try:
            return await asyncio.wait_for(self._answer, seconds)
        except TimeoutError:
            return f"no answer to {event} within {seconds:g} s"

    def _settle(self, failure: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(failure)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._events.get, self._send)
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            # The ASGI specification: an application that raises here does not support lifespan.
            _log.debug("no lifespan: %r", exc)
        except BaseException as exc:  # SystemExit would end this process, and every other route with it
            self._settle(repr(exc))
        self._settle("")

    async def _send(self, message: dict[str, Any]) -> None:
        failed = str(message["type"]).endswith(".failed")
        self._settle(str(message.get("message") or "it failed") if failed else "")
