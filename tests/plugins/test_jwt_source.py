"""Keys that an issuer publishes: when they are fetched, what stays when they cannot be, how often requests cause it."""

import asyncio
import logging
from pathlib import Path

import pytest

from gatewright.core.tasks import spawn
from gatewright.plugins import jwt_source
from gatewright.plugins.jwt import JwtPlugin
from gatewright.plugins.jwt_config import JwtConfig
from gatewright.plugins.jwt_source import KeySource, source_for
from gatewright.plugins.services import Fetched, FetchError
from gatewright.telemetry.counters import Counters
from tests.kit.tokens import MovedClock, jwk, jwks, private_key, token

OLD = jwks(jwk(private_key("p256"), kid="old"))
NEW = jwks(jwk(private_key("p256", 1), kid="new"))
COOLDOWN = 10.0
SECONDS = 10.0  # that a test waits at most


class Fetching:
    """A gateway whose fetches the test answers."""

    def __init__(self):
        self.clock = MovedClock()
        self.base_dir = Path()
        self.calls = asyncio.Queue()
        self.counts = []
        self.kept = {}
        self.ages = Counters()

    def shared(self, key, factory):
        if key not in self.kept:
            self.kept[key] = factory()
        return self.kept[key]

    async def fetch(self, url, *, headers=(), timeout=5.0, max_body=0):
        call = asyncio.get_running_loop().create_future()
        self.calls.put_nowait(call)
        return await call

    def count(self, name, **labels):
        self.counts.append((name, *labels.values()))

    def age(self, name, **labels):
        return self.ages.age(self, name, labels)

    async def call(self):
        """Wait for the next fetch: a future to answer."""
        return await asyncio.wait_for(self.calls.get(), SECONDS)

    async def answer(self, document):
        """Answer the next fetch and let that take effect."""
        call = await self.call()
        call.set_result(Fetched(200, {}, document))
        await self.settled()

    async def settled(self):
        for _ in range(20):
            await asyncio.wait([asyncio.get_running_loop().create_task(nothing())])


async def nothing():
    """One turn of the loop."""


def run(test):
    """Run a coroutine function as a test, with a gateway and a source that ends with it."""

    def wrapped(monkeypatch, caplog):
        async def body():
            gateway = Fetching()
            source = KeySource(gateway, "https://issuer.test/jwks", 600.0, COOLDOWN, 5.0)
            await test(gateway, source, caplog)

        monkeypatch.setattr(jwt_source, "_FIRST_PAUSE", 0.001)
        monkeypatch.setattr(jwt_source, "_LONGEST_PAUSE", 0.004)
        asyncio.run(asyncio.wait_for(body(), SECONDS))

    wrapped.__name__ = test.__name__
    return wrapped


def names(source):
    return [key.kid for key in source.keys.keys]


def watch():
    calls = []
    return calls, lambda: calls.append(1)


@run
async def test_a_start_waits_for_the_first_keys(gateway, source, caplog):
    calls, changed = watch()
    starting = asyncio.get_running_loop().create_task(source.start(changed, SECONDS))
    await gateway.settled()
    assert not starting.done()
    await gateway.answer(OLD)
    await starting
    assert (names(source), len(calls), gateway.counts) == (["old"], 1, [("jwks_refreshes", "ok")])
    await source.stop(changed)


@run
async def test_a_start_does_not_wait_for_ever_and_does_not_fail(gateway, source, caplog):
    await source.start(print, 0.01)
    assert source.keys is None
    call = await gateway.call()
    call.set_exception(FetchError("connection refused"))
    call = await gateway.call()  # tries again by itself
    assert (source.keys, source.look_again()) == (None, False)
    call.set_result(Fetched(200, {}, OLD))
    await gateway.settled()
    assert names(source) == ["old"]
    assert "connection refused; there are none" in caplog.text
    assert gateway.counts == [("jwks_refreshes", "failed"), ("jwks_refreshes", "ok")]
    await source.stop(print)


@run
async def test_a_start_ends_with_the_first_failure(gateway, source, caplog):
    starting = asyncio.get_running_loop().create_task(source.start(print, SECONDS * 10))
    (await gateway.call()).set_exception(FetchError("refused"))
    await starting
    await source.stop(print)


@pytest.mark.parametrize(
    "bad",
    [
        Fetched(500, {}, NEW), Fetched(301, {}, NEW), Fetched(204), Fetched(200, {}, b""), Fetched(200, {}, b"<html>"),
        Fetched(200, {}, b'{"keys": 7}'), Fetched(200, {}, b"{}"), FetchError("reset"), RuntimeError("a defect"),
    ],
)  # fmt: skip
def test_old_keys_stay_while_the_issuer_is_ill(bad, monkeypatch, caplog):
    @run
    async def check(gateway, source, caplog):
        calls, changed = watch()
        await source.start(changed, 0)
        await gateway.answer(OLD)
        gateway.clock.ahead += COOLDOWN
        for _ in range(3):
            source.look_again()
            call = await gateway.call()
            call.set_exception(bad) if isinstance(bad, Exception) else call.set_result(bad)
            await gateway.settled()
            assert names(source) == ["old"]
            assert not source.look_again(), "nobody can say that there is no such key"
        await gateway.answer(NEW)
        assert (names(source), len(calls)) == (["new"], 2)
        await source.stop(changed)

    check(monkeypatch, caplog)


@run
async def test_no_keys_are_what_the_issuer_says_too(gateway, source, caplog):
    await source.start(print, 0)
    await gateway.answer(OLD)
    gateway.clock.ahead += COOLDOWN
    source.look_again()
    with caplog.at_level(logging.WARNING):
        await gateway.answer(b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}')
    assert names(source) == []
    assert "key 1 is a secret" in caplog.text
    assert "every token will be refused" in caplog.text
    await source.stop(print)


@run
async def test_the_same_document_changes_nothing(gateway, source, caplog):
    calls, changed = watch()
    await source.start(changed, 0)
    await gateway.answer(OLD)
    gateway.clock.ahead += COOLDOWN
    source.look_again()
    await gateway.answer(OLD)
    assert len(calls) == 1
    await source.stop(changed)


@run
async def test_requests_cause_a_fetch_at_a_bounded_rate(gateway, source, caplog):
    await source.start(print, 0)
    await gateway.answer(OLD)
    assert source.look_again(), "the issuer was asked just now"
    gateway.clock.ahead += COOLDOWN
    assert not any(source.look_again() for _ in range(1000))
    call = await gateway.call()
    assert not source.look_again(), "it has not answered"
    call.set_result(Fetched(200, {}, NEW))
    await gateway.settled()
    assert all(source.look_again() for _ in range(1000))
    assert gateway.calls.empty()
    await source.stop(print)


@run
async def test_keys_are_fetched_again_after_a_while(gateway, source, caplog):
    source._refresh = 0.001
    await source.start(print, 0)
    await gateway.answer(OLD)
    await gateway.answer(NEW)
    assert names(source) == ["new"]
    await source.stop(print)


@run
async def test_it_ends_with_its_last_user_and_can_begin_again(gateway, source, caplog):
    first, second = watch()[1], watch()[1]
    await source.start(first, 0)
    await source.start(second, 0)
    await gateway.answer(OLD)
    await source.stop(first)
    assert source._task is not None
    await source.stop(second)
    await source.stop(second)
    assert source._task is None
    assert gateway.calls.empty()
    await source.start(first, SECONDS)  # the keys of before will do: no wait
    assert names(source) == ["old"]
    await gateway.answer(NEW)
    assert names(source) == ["new"]
    await source.stop(first)


@run
async def test_plugins_share_a_source_and_a_reload_keeps_its_keys(gateway, source, caplog):
    def plugin(**more):
        config = {"algorithms": ["ES256"], "jwks": {"url": "https://issuer.test/jwks", **more}}
        made = JwtPlugin(JwtConfig.model_validate(config))
        made.gateway = gateway
        return made

    before, after, other = plugin(), plugin(), plugin(refresh="1h")
    starting = asyncio.get_running_loop().create_task(before.start())
    await gateway.answer(OLD)
    await starting
    text = token(private_key("p256"), "ES256", {"kid": "old"})
    assert before._judge([], [b"Bearer " + text.encode()], gateway.clock.wall()).consumer.name == "alice"
    assert len(before._memory) == 1
    await after.start()  # the issuer is not asked, and may be down
    await before.stop()
    assert gateway.calls.empty()
    assert after._judge([], [b"Bearer " + text.encode()], gateway.clock.wall()).consumer.name == "alice"
    gateway.clock.ahead += COOLDOWN
    after._source.look_again()
    await gateway.answer(NEW)
    assert len(after._memory) == 0, "what old keys have signed is forgotten with them"
    assert source_for(gateway, "https://issuer.test/jwks", 600.0, 10.0, 5.0) is after._source is before._source
    await after.stop()
    assert other._source is None


@run
async def test_the_age_of_the_keys_is_told(gateway, source, caplog):
    """From the first question on, since an issuer that never answers is the worst; until nobody uses them any more."""

    def age():
        return [(labels, round(gateway.clock.now() - at)) for labels, at in gateway.ages.ages()]

    _, changed = watch()
    name = ["jwks", "url", "https://issuer.test/jwks"]
    assert age() == []
    starting = spawn(source.start(changed, 5.0))
    call = await gateway.call()
    gateway.clock.ahead = 100.0
    assert age() == [(name, 100)]
    call.set_result(Fetched(200, {}, OLD))
    await starting
    assert age() == [(name, 0)]
    gateway.clock.ahead = 250.0
    source.look_again()
    (await gateway.call()).set_result(Fetched(500, {}, b""))
    await gateway.settled()
    assert age() == [(name, 150)]
    await source.stop(changed)
    assert age() == []


def test_what_may_be_secret_in_the_url_is_no_label():
    gateway = Fetching()
    KeySource(gateway, "https://me:secret@issuer.test:8443/jwks?key=secret", 600.0, COOLDOWN, 5.0)._age.at = 1.0
    assert gateway.ages.ages() == [[["jwks", "url", "https://issuer.test:8443/jwks"], 1.0]]


def test_a_plain_url_is_warned_of(caplog):
    async def body():
        gateway = Fetching()
        made = JwtPlugin(JwtConfig(algorithms=["ES256"], jwks={"url": "http://issuer.test/jwks"}))
        made.gateway = gateway
        starting = asyncio.get_running_loop().create_task(made.start())
        await gateway.answer(OLD)
        await starting
        await made.stop()

    asyncio.run(body())
    assert "plain http" in caplog.text
