"""Active health checks: each target is asked regularly, and taken out or brought back after enough answers in a row."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

from gatewright.control.service_models import HealthConfig
from gatewright.core.errors import GatewayError
from gatewright.core.tasks import spawn
from gatewright.net.upstream import TargetConnection
from gatewright.upstream.client import fetch
from gatewright.upstream.target import Target

_log = logging.getLogger("gatewright.health")
_JITTER = 0.1  # of the interval: many gateways must not ask in step


class HealthProbe:
    """Asks one target. Sets `target.healthy`; a target is taken for healthy until it has failed often enough."""

    def __init__(
        self,
        service: str,
        target: Target,
        open_connection: Callable[[Any], Coroutine[Any, Any, TargetConnection]],
        config: HealthConfig,
        host: str,
    ) -> None:
        self._service = service
        self._target = target
        self._open = open_connection
        self._config = config
        self._host = host
        self._task: asyncio.Task[None] | None = None
        self._good = 0
        self._bad = 0

    def start(self) -> None:
        """Ask now, and from now on."""
        self._task = spawn(self._run())

    def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        interval = self._config.interval
        while True:
            self.take(*await self._ask())
            await asyncio.sleep(interval * (1 - _JITTER + 2 * _JITTER * random.random()))

    async def _ask(self) -> tuple[bool, str]:
        config = self._config
        try:
            response = await fetch(
                self._open, self._host, config.path, config.timeout, [("User-Agent", "gatewright-health")]
            )
        except GatewayError as error:
            return False, error.reason.value
        except Exception as error:  # a name that no resolver takes, say: the probe must outlive it
            return False, repr(error)
        return response.status in config.statuses, f"status {response.status}"

    def take(self, good: bool, why: str) -> None:
        """Count an answer; `why` is for the log."""
        target = self._target
        self._good, self._bad = (self._good + 1, 0) if good else (0, self._bad + 1)
        if target.healthy and self._bad >= self._config.unhealthy:
            target.healthy = False
            _log.warning("service %s: target %s is unhealthy (%s)", self._service, target.name, why)
        elif not target.healthy and self._good >= self._config.healthy:
            target.healthy = True
            _log.info("service %s: target %s is healthy again (%s)", self._service, target.name, why)
