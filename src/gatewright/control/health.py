"""Active health checks: each target is asked regularly, and taken out or brought back after enough answers in a row."""

import asyncio
import logging
import random
from collections.abc import Callable

from gatewright.control.service_models import HealthConfig
from gatewright.core.errors import GatewayError, Reason
from gatewright.core.tasks import spawn
from gatewright.upstream.client import fetch
from gatewright.upstream.pool import Opener

_log = logging.getLogger("gatewright.health")
_JITTER = 0.1  # of the interval: many gateways must not ask in step


class HealthProbe:
    """Asks one target. `healthy` is what it found; a target is taken for healthy until it has failed often enough."""

    def __init__(
        self,
        service: str,
        target: str,
        open_connection: Opener,
        config: HealthConfig,
        host: str,
        changed: Callable[[bool], None],
    ) -> None:
        """`changed` is called with each new value of `healthy`."""
        self.healthy = True
        self._service = service
        self._name = target
        self._open = open_connection
        self._config = config
        self._host = host
        self._changed = changed
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
            if (found := await self._ask()) is not None:
                self.take(*found)
            await asyncio.sleep(interval * (1 - _JITTER + 2 * _JITTER * random.random()))

    async def _ask(self) -> tuple[bool, str] | None:
        """Return whether the target is well, and what it did; None if the gateway itself could not ask it."""
        config = self._config
        try:
            response = await fetch(
                self._open, self._host, config.path, config.timeout, [("User-Agent", "gatewright-health")]
            )
        except GatewayError as error:
            if error.reason is Reason.SOCKETS_EXHAUSTED:
                return None
            return False, error.reason.value
        except Exception as error:  # a name that no resolver takes, say: the probe must outlive it
            return False, repr(error)
        return response.status in config.statuses, f"status {response.status}"

    def take(self, good: bool, why: str) -> None:
        """Count an answer; `why` is for the log."""
        self._good, self._bad = (self._good + 1, 0) if good else (0, self._bad + 1)
        if self.healthy and self._bad >= self._config.unhealthy:
            _log.warning("service %s: target %s is unhealthy (%s)", self._service, self._name, why)
        elif not self.healthy and self._good >= self._config.healthy:
            _log.info("service %s: target %s is healthy again (%s)", self._service, self._name, why)
        else:
            return
        self.healthy = not self.healthy
        self._changed(self.healthy)
