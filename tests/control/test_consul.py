"""Discovery by Consul against an agent that is told what to say: the index, failures, what is in an answer."""

import asyncio
import json
import logging
from functools import partial
from pathlib import Path

import pytest

from gatewright.control.discovery import consul as consul_module
from gatewright.control.discovery.consul import ConsulSource
from gatewright.control.discovery_models import ConsulDiscovery
from gatewright.core.clock import SystemClock
from gatewright.net.timers import Timers
from tests.control.finding import A, B, Finding, config, question, run
from tests.kit.consul import FakeConsul, answer, entry
from tests.kit.wire import TargetSession


def test_the_first_question_does_not_wait_and_the_next_one_waits_for_news(tmp_path: Path, consul: FakeConsul) -> None:
    async def check(finding: Finding) -> None:
        consul.say([entry(8001)], 41)
        consul.say([entry(8001), entry(8002)], 43)
        finding.update(config(consul, ", wait: 2m"))
        first, second, third = [await question(consul) for _ in range(3)]
        assert first.path == "/v1/health/service/web"
        assert first.query == [("passing", "true")]
        assert second.query == [("passing", "true"), ("index", "41"), ("wait", "120000ms")]
        assert third.get("index") == "43"
        assert finding.told == [[A], [A, B]]

    run(tmp_path, check)


def test_what_is_configured_is_asked(tmp_path: Path, consul: FakeConsul) -> None:
    async def check(finding: Finding) -> None:
        more = ", tags: [v1, blue], datacenter: dc2, stale: true, passing: false, token: 0123-4567"
        finding.update(config(consul, more))
        asked = await question(consul)
        assert asked.query == [("tag", "v1"), ("tag", "blue"), ("dc", "dc2"), ("stale", "true")]
        assert asked.headers["x-consul-token"] == "0123-4567"
        assert asked.headers["host"] == f"127.0.0.1:{consul.port}"

    run(tmp_path, check)


def test_services_inherit_from_the_gateways_consul(tmp_path: Path, consul: FakeConsul) -> None:
    async def check(finding: Finding) -> None:
        common = f"consul: {{address: '127.0.0.1:{consul.port}', token: abcd, datacenter: dc3}}\n"
        finding.update(common + "services: {s: {discover: {consul: {service: a+c}}}}")
        asked = await question(consul)
        assert (asked.path, asked.get("dc")) == ("/v1/health/service/a%2Bc", "dc3")
        assert asked.headers["x-consul-token"] == "abcd"

    run(tmp_path, check)


@pytest.mark.parametrize(("index", "then"), [("7", None), ("0", "1"), ("100", "100"), ("101", "101")])
def test_the_index(tmp_path: Path, consul: FakeConsul, index: str, then: str | None) -> None:
    """One that goes back is forgotten; 0, which would be answered at once for ever, counts as 1."""

    async def check(finding: Finding) -> None:
        first = 100 if index != "0" else 1
        consul.say([entry(8001)], first)
        consul.say([entry(8002)], index)
        finding.update(config(consul))
        for wanted in (None, str(first), then):
            assert (await question(consul)).get("index") == wanted
        assert finding.told == [[A], [B]]

    run(tmp_path, check)


BAD = {
    "status": answer(b"No cluster leader", status=500),
    "refusal": answer(b"rpc error: Permission denied", status=403),
    "html": answer(b"<html>"),
    "object": answer(b"{}", "X-Consul-Index: 5"),
    "deep": answer(b"[" * 100_000, "X-Consul-Index: 5"),
    "no index": answer(json.dumps([entry(8009)]).encode()),
    "strange index": answer(json.dumps([entry(8009)]).encode(), "X-Consul-Index: many"),
    "no HTTP": b"nonsense\r\n\r\n",
    "truncated": answer(json.dumps([entry(8009)]).encode(), "X-Consul-Index: 5")[:-5],
    "nothing": b"",
    "filtered": answer(b"[]", "X-Consul-Index: 5", "X-Consul-Results-Filtered-By-ACLs: true"),
    "all malformed": answer(json.dumps([entry(0), {}]).encode(), "X-Consul-Index: 5"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_answer_changes_nothing(tmp_path: Path, consul: FakeConsul, bad: bytes) -> None:
    async def check(finding: Finding) -> None:
        def send(session: TargetSession) -> None:
            session.send(bad)
            raise EOFError  # ends the connection

        consul.say([entry(8001)], 41)
        consul.send(send)
        consul.say([entry(8002)], 3)
        finding.update(config(consul))
        assert [(await question(consul)).get("index") for _ in range(4)] == [None, "41", None, "3"]
        assert finding.told == [[A], [B]]
        assert finding.errors() == 1

    run(tmp_path, check)


def test_a_failure_is_logged_once_and_so_is_its_end(tmp_path: Path, consul: FakeConsul, caplog) -> None:
    async def check(finding: Finding) -> None:
        consul.say([entry(8001)])
        for _ in range(3):
            consul.send(answer(b"No cluster leader\r\nInjected", status=500))
        consul.say([entry(8001)])
        finding.update(config(consul))
        for _ in range(6):
            await question(consul)

    with caplog.at_level(logging.INFO, "gatewright.discovery"):
        run(tmp_path, check)
    assert [record.getMessage() for record in caplog.records] == [
        "service s: http://127.0.0.1:8001",
        "service s: Consul service web gives no instances, the 1 known ones stay: Consul answered 500: No cluster leader "
        "Injected",
        "service s: Consul service web answers again",
    ]


MALFORMED = {
    "no port": entry(0, name="bad"),
    "a text as port": entry("8009", name="bad"),
    "port": entry(70000, name="bad"),
    "address": entry(8009, name="bad", address="not an address"),
    "url": entry(8009, name="bad", address="evil@10.0.0.1"),
    "number": entry(8009, name="bad", address=5),
    "weight": entry(8009, name="bad", Weights={"Passing": "many"}),
    "no node": {"Service": {"ID": "bad", "Address": "", "Port": 1}},
    "checks": entry(8009, name="bad") | {"Checks": [None]},
    "no service": {"Node": {}},
    "null": None,
    "text": "instance",
}


@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED)
def test_one_malformed_instance_is_left_out(tmp_path: Path, consul: FakeConsul, bad: object, caplog) -> None:
    async def check(finding: Finding) -> None:
        consul.say([entry(8001), bad, entry(8002)], 1)
        consul.say([bad, entry(8001)], 2)
        finding.update(config(consul))
        for _ in range(3):
            await question(consul)
        assert finding.told == [[A, B], [A]]
        assert finding.errors() == 0

    run(tmp_path, check)
    complaints = [text for text in caplog.messages if "left out" in text]
    assert 1 <= len(complaints) <= 2  # without a name it is told by its place
    assert len(complaints) == 1 or "number" in complaints[0]


def test_what_an_instance_is(tmp_path: Path, consul: FakeConsul) -> None:
    async def check(finding: Finding) -> None:
        entries = [
            entry(1, address=""),  # then its node's
            entry(2, address="::1"),
            entry(3, address="web.internal", Weights={"Passing": 7, "Warning": 1}),
            entry(4, status="warning"),
            entry(5, status="critical"),
            entry(6, Tags=["v1", "blue", "x"]),
            entry(7, Tags=None, Weights={"Passing": 0}),
            entry(7, name="again"),
        ]
        consul.say(entries, 1)
        finding.update(config(consul))
        own = [("127.0.0.1:6", 1), ("127.0.0.1:7", 1), ("127.0.0.9:1", 1), ("[::1]:2", 1), ("web.internal:3", 7)]
        assert await finding.next() == own
        await question(consul)
        with FakeConsul() as other:
            other.say(entries, 1)
            finding.update(config(other, ", tags: [blue, v1]"))
            assert await finding.next() == [("127.0.0.1:6", 1)]
        with FakeConsul() as other:
            other.say(entries, 1)
            finding.update(config(other, ", passing: false, scheme: https"))
            assert len(await finding.next()) == 7
            assert finding.told[-1][0] == ("https://127.0.0.1:4", 1)

    run(tmp_path, check)


def test_no_instances_is_an_answer(tmp_path: Path, consul: FakeConsul) -> None:
    async def check(finding: Finding) -> None:
        consul.say([entry(8001)], 1)
        consul.say([], 2)
        finding.update(config(consul))
        assert await finding.next() == [A]
        assert await finding.next() == []

    run(tmp_path, check)


def test_the_last_instances_stay_for_as_long_as_they_may(tmp_path: Path, consul: FakeConsul) -> None:
    async def check(finding: Finding) -> None:
        consul.say([entry(8001)], 1)
        consul.say([], 2)
        consul.say([entry(8001)], 3)
        consul.say([], 4)
        finding.update(config(consul, ", keep: 100ms"))
        assert await finding.next() == [A]
        assert await finding.next() == []
        assert finding.told == [[A], []], "the emptiness in between was too short to matter"

    run(tmp_path, check)


def test_instances_that_are_back_in_time_stay_for_good(tmp_path: Path, consul: FakeConsul) -> None:
    async def check(finding: Finding) -> None:
        consul.say([entry(8001)], 1)
        consul.say([], 2)
        consul.say([entry(8001)], 3)
        finding.update(config(consul, ", keep: 1h"))
        for _ in range(4):
            await question(consul)
        assert finding.discovery._watches["s"]._ending is None
        assert finding.told == [[A]]

    run(tmp_path, check)


def test_answers_in_a_row_are_slowed_down(consul: FakeConsul, monkeypatch) -> None:
    """An agent that does not block, or a catalogue that changes all the time, is not asked without a pause."""
    pauses: list[float] = []

    async def main() -> None:
        wanted = ConsulDiscovery(service="web", address=consul.url)
        timers = Timers(SystemClock())
        source = ConsulSource("s", wanted, SystemClock(), timers)
        for index in range(1, 30):
            consul.say([], index)
            await source.next()
        timers.close()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    fake = type("asyncio", (), {"sleep": staticmethod(sleep)})
    monkeypatch.setattr(consul_module, "asyncio", fake)
    asyncio.run(main())
    assert len(pauses) == 29 - 5
    assert 0.07 <= pauses[0] <= 0.1
    assert all(0.7 <= pause <= 1.0 for pause in pauses[-10:])


def test_a_consul_that_is_switched_off_leaves_the_targets(tmp_path: Path) -> None:
    async def check(finding: Finding) -> None:
        finding.update("services: {s: {targets: [http://a], discover: {consul: {service: web, address: ''}}}}")
        assert finding.discovery.accounts() == []

    run(tmp_path, check)
    with pytest.raises(AssertionError, match="there is no Consul agent to ask"):
        run(
            tmp_path,
            partial(_update, "consul: {address: ''}\nservices: {s: {discover: {consul: {service: web}}}}"),
        )


async def _update(text: str, finding: Finding) -> None:
    finding.update(text)
