"""Discovery as tests run it: on a loop of its own, with an account of what it told."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gatewright.control.discovery.discovery import Discovery
from gatewright.control.discovery.wanted import Found
from gatewright.control.loader import load
from gatewright.control.models import GatewayConfig
from gatewright.core.clock import SystemClock
from tests.kit.consul import FakeConsul

A, B = ("127.0.0.1:8001", 1), ("127.0.0.1:8002", 1)  # what entry(8001) and entry(8002) are found as


class Finding:
    """A Discovery, and what it has told."""

    def __init__(self, folder: Path, clock: Any = None) -> None:
        self.told: list[list[tuple[str, int]]] = []
        self.discovery = Discovery(self._take, clock or SystemClock())
        self._folder = folder
        self._more = asyncio.Event()

    def _take(self, found: Found) -> None:
        self.told.append([(each.url.removeprefix("http://"), each.weight) for each in found.instances])
        self._more.set()

    def config(self, text: str) -> GatewayConfig:
        loaded = load(self._folder / "gateway.yaml", {}, text=f"discovery: {{folder: state}}\n{text}")
        assert loaded.config is not None, loaded.errors
        return loaded.config

    def update(self, text: str) -> None:
        self.discovery.update(self.config(text))

    async def next(self) -> list[tuple[str, int]]:
        """Wait until it tells something (more), and return that."""
        async with asyncio.timeout(10):
            await self._more.wait()
        self._more.clear()
        return self.told[-1]

    async def until(self, condition: Callable[[], Any]) -> None:
        """Return once `condition()` is true."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            while not condition():
                turn = loop.create_future()
                loop.call_later(0.005, turn.set_result, None)
                await turn

    def errors(self) -> int:
        """How many questions have failed."""
        return sum(account.errors for account in self.discovery.accounts())


def run(folder: Path, check: Callable[[Finding], Awaitable[None]], clock: Any = None) -> None:
    """Run `check(finding)` on a loop, and stop the discovery at its end."""

    async def main() -> None:
        finding = Finding(folder, clock)
        try:
            await check(finding)
        finally:
            finding.discovery.stop()

    asyncio.run(main())


def config(consul: FakeConsul, more: str = "", extra: str = "") -> str:
    """Return a configuration whose service `s` is Consul's `web`; `more` stands in its section, `extra` beside."""
    return f"services: {{s: {{discover: {{consul: {{service: web, address: '{consul.url}'{more}}}}}}}}}\n{extra}"


async def question(consul: FakeConsul) -> Any:
    """Return the next question that Consul was asked."""
    return await asyncio.to_thread(consul.asked)
