"""The admin API's server inside the supervisor: which socket and token it has now, also over reloads.

FastAPI and uvicorn take as long to import as the rest of the gateway to start, so they are imported only where there is
an admin API, and once the workers serve.
"""

import asyncio
import importlib
from typing import TYPE_CHECKING

from gatewright.control.process_models import AdminConfig
from gatewright.core.tasks import background
from gatewright.supervisor.sockets import Listening

if TYPE_CHECKING:
    from gatewright.admin.operations import Operations
    from gatewright.admin.security import Access
    from gatewright.admin.server import AdminServer


class AdminServing:
    """Serves the admin API as the configuration says."""

    def __init__(self, operations: "Operations") -> None:
        self._operations = operations
        self._server: AdminServer | None = None
        self._access: Access | None = None
        self._listening: Listening | None = None

    async def load(self) -> None:
        """Import what it needs, off the loop."""
        await asyncio.to_thread(importlib.import_module, "gatewright.admin.app")
        await asyncio.to_thread(importlib.import_module, "gatewright.admin.server")

    async def serve(self, config: AdminConfig | None, listening: Listening | None) -> None:
        """Serve with these settings from now on; requests under way at a former address are finished."""
        if config is not None and self._access is not None and listening is self._listening:
            self._access.token, self._access.host = config.token, config.bind.host
            return
        former, self._server, self._access, self._listening = self._server, None, None, listening
        if config is not None and listening is not None:
            from gatewright.admin.app import make_app
            from gatewright.admin.security import Access
            from gatewright.admin.server import AdminServer

            self._access = Access(config.token, config.bind.host)
            sockets = [sock.dup() for sock in listening.share(0, 1)]
            self._server = AdminServer(make_app(self._operations, self._access), sockets)
            await self._server.start()
        if former is not None:
            background(former.stop())

    async def close(self) -> None:
        """End it."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop()
