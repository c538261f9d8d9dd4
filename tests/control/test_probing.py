"""Probes over reloads: which are kept, what is told when, and that a condition is not forgotten."""

import asyncio
from pathlib import Path

import pytest

from gatewright.control.loader import load
from gatewright.control.models import GatewayConfig
from gatewright.control.probing import Probes
from gatewright.core.clock import SystemClock
from tests.kit.answers import closed_port, services
from tests.kit.wire import Target

HEALTH = "health: {path: /, interval: 20ms, timeout: 5s, healthy: 1, unhealthy: 1}"


class Account:
    """Probes, and what they have told."""

    def __init__(self, folder: Path) -> None:
        self.told: list[tuple[str, str, bool]] = []
        self.probes = Probes(self.take, SystemClock())
        self._folder = folder
        self._more = asyncio.Event()

    def take(self, *change: str | bool) -> None:
        self.told.append(change)  # type: ignore[arg-type]
        self._more.set()

    def update(self, text: str) -> None:
        self.probes.update(self.config(text))

    def config(self, text: str) -> GatewayConfig:
        loaded = load(self._folder / "gateway.yaml", {}, text=text)
        assert loaded.config is not None, loaded.errors
        return loaded.config

    async def more(self) -> None:
        async with asyncio.timeout(10):
            await self._more.wait()
        self._more.clear()


@pytest.fixture
def account(tmp_path):
    """Run `check(account)` on a loop, and stop the probes at its end."""

    def run(check) -> None:
        async def main() -> None:
            account = Account(tmp_path)
            try:
                await check(account)
            finally:
                account.probes.stop()
            assert account.probes.states() == {}

        asyncio.run(main())

    return run


def test_a_target_that_fails_is_told_once_and_its_return_too(account):
    async def check(account: Account) -> None:
        port = closed_port()
        key = ("s", f"127.0.0.1:{port}")
        account.update(services({"s": [f"http://127.0.0.1:{port}"]}, HEALTH))
        assert account.probes.states() == {key: True}
        await account.more()
        assert account.probes.states() == {key: False}
        with Target(port=port):
            await account.more()
        assert account.told[:2] == [(*key, False), (*key, True)]

    account(check)


def test_a_probe_that_did_not_change_is_kept(account):
    async def check(account: Account) -> None:
        with Target() as a, Target() as b:
            text = services({"s": [a.url, b.url]}, HEALTH.replace("20ms", "1h"))
            account.update(text)
            before = dict(account.probes._probes)
            account.update(text.replace("s:\n", "s:\n", 1) + "limits: {body: 1MiB}\n")
            assert account.probes._probes == before
            account.update(text.replace("5s", "6s"))
            assert [account.probes._probes[key][1] is probe for key, (_, probe) in before.items()] == [False, False]
            account.update(services({"s": [b.url]}, HEALTH.replace("20ms", "1h").replace("5s", "6s")))
            assert list(account.probes.states()) == [("s", f"127.0.0.1:{b.port}")]
        assert account.told == []

    account(check)


def test_a_condition_survives_other_terms_and_ends_with_the_checks(account):
    async def check(account: Account) -> None:
        url = f"http://127.0.0.1:{closed_port()}"
        text = services({"s": [url]}, HEALTH)
        account.update(text)
        await account.more()
        account.update(text.replace("20ms", "1h"))
        assert list(account.probes.states().values()) == [False]
        assert len(account.told) == 1
        account.update(services({"s": [url]}))
        assert account.told[1:] == [("s", url[7:], True)], "nobody asks it any more: it counts as healthy"
        assert account.probes.states() == {}

    account(check)


def test_applications_and_services_without_checks_are_not_asked(account):
    async def check(account: Account) -> None:
        text = services({"s": ["http://127.0.0.1:1"]}) + "  \n"
        account.update(text.replace("services:\n", "services:\n  inside: {app: 'nowhere:app'}\n"))
        assert account.probes.states() == {}

    account(check)
