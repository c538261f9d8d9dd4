"""The lifespan protocol of ASGI, for applications that are served in this process."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from gatewright.core.errors import Reason, Retry, UpstreamError
from gatewright.core.tasks import spawn

_log = logging.getLogger("gatewright.app")


class Lifespan:
    """Runs one application's lifespan in a task of its own; an application without one is left alone.

    The application may take any time to start and to shut down: it is the caller who bounds that, and cancels.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app
        self._events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._answer: asyncio.Future[str] | None = None
        self._task: asyncio.Task[None] | None = None
        self.state: dict[str, Any] = {}  # what the application leaves for its requests

    async def start(self) -> None:
        """Let the application start up. Raises UpstreamError(app_failed) when it says that it cannot."""
        self._task = spawn(self._run())
        failure = await self._ask("lifespan.startup")
        if failure:
            # Frameworks put a whole traceback here: it is for the log, its last line for who starts the gateway.
            _log.error("the in-process application did not start: %s", failure)
            last = failure.strip().rpartition("\n")[2]
            raise UpstreamError(Reason.APP_FAILED, f"The application did not start: {last}", Retry.NEVER)

    async def stop(self) -> None:
        """Let it shut down. It is ended, if need be half-way, when this is cancelled."""
        if self._task is None or self._task.done():
            return
        try:
            failure = await self._ask("lifespan.shutdown")
        finally:
            self._task.cancel()
        if failure:
            _log.error("the in-process application did not shut down cleanly: %s", failure)

    async def _ask(self, event: str) -> str:
        self._answer = asyncio.get_running_loop().create_future()
        self._events.put_nowait({"type": event})
        return await self._answer

    def _settle(self, failure: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(failure)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._events.get, self._send)
        except Exception as exc:
            # The ASGI specification: an application that raises here does not support lifespan.
            _log.debug("no lifespan: %r", exc)
        except BaseException as exc:  # SystemExit would end this process; nobody else would tell of a CancelledError
            self._settle(repr(exc))
        self._settle("")

    async def _send(self, message: dict[str, Any]) -> None:
        failed = str(message["type"]).endswith(".failed")
        self._settle(str(message.get("message") or "it failed") if failed else "")
