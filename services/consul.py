"""A demo service's entry in Consul: it makes the entry itself, makes it again when Consul has lost it, takes it out.

CONSUL_HTTP_ADDR names the agent, and SERVICE_A_URL or SERVICE_B_URL where the service can be reached; without both
there is no entry. It never keeps the service from running. Called by common.py.
"""

import asyncio
import http.client
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI

_log = logging.getLogger("uvicorn.error")
_ASK_SECONDS = 2.0  # for one answer
_LOOK_SECONDS = 5.0  # between two looks whether the entry is there
_RETRY_SECONDS = 0.5  # after a failure


class Entry:
    """The entry of service `name`, which is reached at `url`, with the agent at `agent` (host:port or a URL)."""

    def __init__(self, name: str, url: str, agent: str) -> None:
        parts = urlsplit(url)
        self._agent = urlsplit(agent if "://" in agent else f"http://{agent}")
        self._id = f"{name}-{parts.hostname}-{parts.port}"
        self._data = {
            "Name": name,
            "ID": self._id,
            "Address": parts.hostname,
            "Port": parts.port or {"http": 80, "https": 443}[parts.scheme],
            "Check": {
                "HTTP": f"{url.rstrip('/')}/health",
                "Interval": "1s",
                "Timeout": "1s",
                "DeregisterCriticalServiceAfter": "1m",
            },
        }

    async def keep(self) -> None:
        """See to it that the entry is there, until cancelled."""
        said = ""
        while True:
            try:
                if await self._ask("GET", f"/v1/agent/service/{self._id}") == 404:
                    await self._ask("PUT", "/v1/agent/service/register", self._data)
                    _log.info("entered in Consul as %s", self._id)
                said, pause = "", _LOOK_SECONDS
            except (OSError, http.client.HTTPException) as error:
                if str(error) != said:
                    said = str(error)
                    _log.warning("no entry in Consul: %s", said)
                pause = _RETRY_SECONDS
            await asyncio.sleep(pause)

    async def remove(self) -> None:
        """Take it out; what fails is left to Consul's check."""
        try:
            await self._ask("PUT", f"/v1/agent/service/deregister/{self._id}")
        except (OSError, http.client.HTTPException) as error:
            _log.warning("the entry in Consul stays: %s", error)

    async def _ask(self, method: str, path: str, data: Any = None) -> int:
        """Return the status of the agent's answer, 200 or 404. Raises OSError."""
        status, text = await asyncio.to_thread(self._talk, method, path, json.dumps(data) if data else None)
        if status not in (200, 404):
            raise OSError(f"the agent answered {status}: {text}")
        return status

    def _talk(self, method: str, path: str, body: str | None) -> tuple[int, str]:
        kind = http.client.HTTPSConnection if self._agent.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._agent.netloc, timeout=_ASK_SECONDS)
        token = os.environ.get("CONSUL_HTTP_TOKEN")
        try:
            connection.request(method, path, body, {"X-Consul-Token": token} if token else {})
            answer = connection.getresponse()
            return answer.status, answer.read(200).decode(errors="replace")
        finally:
            connection.close()


@asynccontextmanager
async def registration(app: FastAPI) -> AsyncIterator[None]:
    """Be in Consul under the application's title while it runs. A FastAPI lifespan."""
    url = os.environ.get(f"{app.title.upper().replace('-', '_')}_URL")
    agent = os.environ.get("CONSUL_HTTP_ADDR")
    if not url or not agent:
        yield
        return
    entry = Entry(app.title, url, agent)
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(entry.keep())
        yield
        keeping.cancel()
    await entry.remove()
