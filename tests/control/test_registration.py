"""The gateway's own entry in Consul: what it says, that it is made again when it is lost, and removed at the end."""

import asyncio
from typing import Any

import pytest

from gatewright.control.discovery import registration
from gatewright.control.discovery.registration import Places, Registration, entry_of
from gatewright.control.discovery_models import RegisterConfig
from gatewright.control.models import GatewayConfig
from gatewright.core.clock import SystemClock
from tests.kit.consul import FakeConsul, Question, answer

PLACES = Places("127.0.0.1:8080", False, "127.0.0.1:9901")
DONE = answer(b"")


@pytest.mark.parametrize(
    ("register", "places", "expected"),
    [
        ({}, PLACES, {"ID": "gateway-127.0.0.1-8080", "Address": "127.0.0.1", "Port": 8080, "Name": "gateway"}),
        ({}, PLACES, {"HTTP": "http://127.0.0.1:9901/readyz", "Status": "passing", "Interval": "10s", "Timeout": "2s"}),
        ({}, PLACES, {"DeregisterCriticalServiceAfter": "3600s"}),
        ({"check": {"remove_after": 0}}, PLACES, {"DeregisterCriticalServiceAfter": None}),
        ({}, Places("0.0.0.0:80", False, "0.0.0.0:9901"), {"Address": None, "HTTP": "http://127.0.0.1:9901/readyz"}),
        ({}, Places("[::]:80", False, "[::]:9901"), {"Address": None, "HTTP": "http://[::1]:9901/readyz"}),
        ({}, Places("[::1]:80", False, None), {"Address": "::1", "TCP": "[::1]:80", "HTTP": None}),
        ({"check": {"path": "/health"}}, PLACES, {"HTTP": "http://127.0.0.1:8080/health", "TLSSkipVerify": None}),
        (
            {"check": {"path": "/health", "interval": "1.5s"}},
            Places("10.0.0.1:443", True, None),
            {"HTTP": "https://10.0.0.1:443/health", "TLSSkipVerify": True, "Interval": "1.5s"},
        ),
        (
            {"name": "edge", "address": "gw.internal", "port": 443, "tags": ["a"], "meta": {"b": "c"}},
            PLACES,
            {"ID": "edge-gw.internal-443", "Address": "gw.internal", "Port": 443, "Tags": ["a"], "Meta": {"b": "c"}},
        ),
        ({"id": "one"}, PLACES, {"ID": "one"}),
    ],
)
def test_what_the_entry_says(register: dict[str, Any], places: Places, expected: dict[str, Any]) -> None:
    entry = entry_of(RegisterConfig.model_validate(register), places)
    flat = entry | entry["Check"] | {"Name": entry["Name"]}
    assert {key: flat.get(key) for key in expected} == expected


def config(consul: FakeConsul, **register: Any) -> GatewayConfig:
    return GatewayConfig.model_validate({"consul": {"address": consul.url, "token": "abc", "register": register}})


async def asked(consul: FakeConsul) -> Question:
    return await asyncio.to_thread(consul.asked)


def run(check) -> None:
    async def main() -> None:
        own = Registration(SystemClock())
        try:
            await check(own)
        finally:
            own.stop()

    asyncio.run(main())


def test_an_entry_is_made_until_it_is_there_and_again_when_it_is_lost(consul: FakeConsul, monkeypatch, caplog) -> None:
    monkeypatch.setattr(registration, "_LOOK_SECONDS", 0.02)

    async def check(own: Registration) -> None:
        for status in (500, 500, 200, 200, 404, 200):
            consul.send(answer(b"why", status=status))
        own.update(config(consul, id="a-b"), PLACES)
        questions = [await asked(consul) for _ in range(7)]
        register, look = ("PUT", "/v1/agent/service/register"), ("GET", "/v1/agent/service/a-b")
        assert [(each.method, each.path) for each in questions] == [register] * 3 + [look] * 2 + [register, look]
        assert questions[0].query == [("replace-existing-checks", "true")]
        assert questions[0].headers["x-consul-token"] == "abc"
        assert int(questions[0].headers["content-length"]) > 100
        consul.send(DONE)  # for the look that is given up
        consul.send(DONE)
        await own.leave()
        last = await asked(consul)
        while last.method == "GET":
            last = await asked(consul)
        assert (last.method, last.path) == ("PUT", "/v1/agent/service/deregister/a-b")
        await own.leave()

    run(check)
    assert len([text for text in caplog.messages if "cannot be made" in text]) == 1, "the same twice is told once"


def test_another_configuration_makes_another_entry(consul: FakeConsul) -> None:
    async def check(own: Registration) -> None:
        own.update(config(consul, id="one"), PLACES)
        consul.send(DONE)
        assert (await asked(consul)).path == "/v1/agent/service/register"
        own.update(config(consul, id="one"), PLACES)
        assert consul.count == 1, "nothing has changed"
        own.update(config(consul, id="one", tags=["x"]), PLACES)
        consul.send(DONE)
        assert (await asked(consul)).path == "/v1/agent/service/register", "in the place of the former"
        consul.send(DONE)
        consul.send(DONE)
        own.update(config(consul, id="two"), PLACES)
        paths = {(await asked(consul)).path, (await asked(consul)).path}
        assert paths == {"/v1/agent/service/register", "/v1/agent/service/deregister/one"}
        consul.send(DONE)
        own.update(GatewayConfig(), PLACES)
        assert (await asked(consul)).path == "/v1/agent/service/deregister/two"

    run(check)


def test_a_dead_consul_holds_nobody_up(consul: FakeConsul, caplog) -> None:
    async def check(own: Registration) -> None:
        own.update(config(consul, id="one"), PLACES)
        async with asyncio.timeout(5):
            await own.leave()

    consul.__exit__()
    run(check)
    assert any("cannot be removed" in text for text in caplog.messages)
