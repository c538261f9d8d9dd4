"""Keys that an issuer publishes: fetched in the background, kept while it is down, asked for again when one is unknown.

One source serves every plugin of the process that names the same URL, and outlives reloads, so that a reload while the
issuer is down loses nothing. No request waits for it. The `jwt` plugin holds it; what keys are, `jwt_keys` knows.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from urllib.parse import urlsplit

from gatewright.core.tasks import spawn
from gatewright.plugins.jwt_keys import BadKey, KeySet, read_jwks
from gatewright.plugins.services import FetchError, GatewayServices

_log = logging.getLogger("gatewright.plugins.jwt")
_FIRST_PAUSE = 1.0  # seconds before the next try after a failure; doubled with each, up to
_LONGEST_PAUSE = 60.0
_Parts = tuple[str, float, float, float]


class KeySource:
    """The keys behind one URL. `keys` is None until the issuer has answered for the first time."""

    def __init__(self, gateway: GatewayServices, url: str, refresh: float, cooldown: float, timeout: float) -> None:
        """Seconds: `refresh` between fetches, `cooldown` before one that a request causes, `timeout` of one."""
        self.keys: KeySet | None = None
        self._gateway = gateway
        self._url = url
        self._refresh = refresh
        self._cooldown = cooldown
        self._timeout = timeout
        self._document = b""
        # Of the keys; before there are any, of the asking for them: who watches it sees an issuer that never answers.
        self._age = gateway.age("jwks", url=_shown(url))
        self._tried_at = -float("inf")
        self._fetched_at: float | None = None  # when it last brought keys
        self._answered_at = -float("inf")  # when the last try brought keys; after a failure nothing is known to be new
        self._first = asyncio.Event()  # the first try is over, whatever came of it
        self._asked = asyncio.Event()
        self._users: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self, changed: Callable[[], None], wait: float) -> None:
        """Begin, unless it has begun; wait up to `wait` seconds for keys. `changed` is called at new ones."""
        self._users.append(changed)
        if self._task is None:
            self._age.at = self._fetched_at or self._gateway.clock.now()
            self._first.clear()
            self._task = spawn(self._run())
        if self.keys is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._first.wait()

    async def stop(self, changed: Callable[[], None]) -> None:
        """End for the user that gave `changed` at its start; with the last one no more is fetched."""
        if changed in self._users:
            self._users.remove(changed)
        if not self._users and self._task is not None:
            task, self._task = self._task, None
            self._age.at = None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def look_again(self) -> bool:
        """A token wants a key that is not known: ask the issuer again, unless it was asked just now.

        Returns True if it was, and answered: then there is no such key.
        """
        if self._gateway.clock.now() - self._answered_at < self._cooldown:
            return True
        self._asked.set()
        return False

    async def _run(self) -> None:
        failures = 0
        while True:
            if await self._fetch():
                failures, pause = 0, self._refresh
                self._answered_at = self._tried_at = self._gateway.clock.now()
                self._age.at = self._fetched_at = self._answered_at
                self._asked.clear()  # whoever asked meanwhile has the answer too
            else:
                failures, pause = failures + 1, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures, 10))
                self._answered_at = -float("inf")
            self._first.set()
            await self._pause(pause * random.uniform(0.9, 1.0))

    async def _pause(self, seconds: float) -> None:
        """Wait until the next fetch is due: after `seconds`, or earlier when a request asks, but never too soon."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()
                await asyncio.sleep(self._tried_at + self._cooldown - self._gateway.clock.now())

    async def _fetch(self) -> bool:
        self._tried_at = self._gateway.clock.now()
        try:
            answer = await self._gateway.fetch(
                self._url, headers=[("Accept", "application/json")], timeout=self._timeout
            )
            if answer.status != 200:
                raise BadKey(f"status {answer.status}")
            if self.keys is None or answer.body != self._document:
                self._adopt(answer.body)
        except (FetchError, BadKey) as error:
            self._failed(f"keys from {self._url}: {error}")
            return False
        except Exception:
            _log.exception("keys from %s", self._url)
            self._failed("")
            return False
        self._gateway.count("jwks_refreshes", result="ok")
        return True

    def _adopt(self, document: bytes) -> None:
        keys, problems = read_jwks(document, secrets=False)
        for problem in problems:
            _log.warning("keys from %s: %s", self._url, problem)
        if not keys.keys:
            _log.warning("keys from %s: there is none that can be used, every token will be refused", self._url)
        self.keys, self._document = keys, document
        for changed in list(self._users):
            changed()

    def _failed(self, message: str) -> None:
        self._gateway.count("jwks_refreshes", result="failed")
        if message:
            _log.warning("%s; %s", message, "the keys known before stay" if self.keys is not None else "there are none")


def _shown(url: str) -> str:
    """Return the URL without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


# One gateway object serves all plugins of a process, whatever the reloads: what belongs to it lives as long as it does.
def source_for(gateway: GatewayServices, url: str, refresh: float, cooldown: float, timeout: float) -> KeySource:
    """Return the gateway's source of the keys behind `url`, the same one whenever all of this is the same."""
    parts = (url, refresh, cooldown, timeout)
    return gateway.shared(f"jwt.source {parts}", lambda: KeySource(gateway, *parts))
