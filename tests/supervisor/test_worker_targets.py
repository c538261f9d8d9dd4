"""What a worker is told of targets before its gateway is up: nothing is lost, and nothing old comes after the new. And
when it tells of them itself.
"""

import asyncio
import signal
import socket
from typing import Any, ClassVar
from unittest.mock import MagicMock

import pytest

from gatewright.supervisor import worker as module
from gatewright.supervisor.channel import Channel
from gatewright.supervisor.messages import (
    Ask,
    Configure,
    Discovered,
    Drain,
    FromWorker,
    Report,
    Row,
    SetTarget,
    SetTargets,
)
from gatewright.supervisor.worker import Worker


class StandIn:
    """A gateway that starts when it is let."""

    made: "ClassVar[list[StandIn]]"

    def __init__(self, *_: Any, **__: Any) -> None:
        self.told: list[Any] = []
        self.starts, self.may_start = asyncio.Event(), asyncio.Event()
        self.files = frozenset[str]()
        self.contents: dict[str, bytes] = {}
        self.services = MagicMock()
        self.made.append(self)

    async def start(self, sockets: Any) -> None:
        self.starts.set()
        await self.may_start.wait()

    def set_targets(self, found: Any) -> None:
        self.told.append([each.url for each in found.instances])

    def set_target(self, service: str, target: str, **state: Any) -> None:
        self.told.append((target, state["healthy"]))


def found(url: str) -> Discovered:
    return Discovered("s", "identity", [(url, 1)])


def test_news_that_come_early_are_kept_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(module, "Gateway", StandIn)
    monkeypatch.setattr(module, "use_own_log", lambda *_: None)
    monkeypatch.setattr(StandIn, "made", [], raising=False)

    async def main() -> list[Any]:
        ours, theirs = socket.socketpair()
        worker = Worker(ours, None)  # type: ignore[arg-type]
        worker._received(SetTargets(found("http://oldest")), [])  # is in what follows, or older
        fields: dict[str, Any] = dict.fromkeys(Configure.__struct_fields__, "")
        fields |= {"data": {}, "base_dir": str(tmp_path), "sockets": [], "contents": {}}
        fields |= {"targets": [Row("s", "t", healthy=True)], "discovered": [found("http://old")]}
        worker._received(Configure(**fields), [])
        worker._received(SetTarget(Row("s", "t", healthy=False)), [])
        message, sockets = worker._jobs.get_nowait()
        async with asyncio.TaskGroup() as group:
            group.create_task(worker._configure(message, sockets))
            while not StandIn.made:
                await asyncio.to_thread(lambda: None)
            (gateway,) = StandIn.made
            await gateway.starts.wait()
            worker._received(SetTargets(found("http://new")), [])
            gateway.may_start.set()
        worker._received(SetTargets(found("http://newest")), [])
        worker._channel.close()
        theirs.close()
        return gateway.told

    told = asyncio.run(main())
    assert told == [["http://old"], ("t", True), ("t", False), ["http://new"], ["http://newest"]]


def test_targets_are_looked_at_for_who_asks_and_while_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of them take milliseconds, in which no request gets on."""
    monkeypatch.setattr(module, "REPORT_SECONDS", 0.001)
    gateway = MagicMock(lines_dropped=0, spans_dropped=0, connections=1, in_flight=1)
    gateway.target_states.return_value = [{"service": "s", "target": "t", "in_flight": 1}]

    async def main() -> None:
        ours, theirs = socket.socketpair()
        reports: asyncio.Queue[Report] = asyncio.Queue()
        worker = Worker(ours, None)  # type: ignore[arg-type]
        worker._gateway = gateway
        supervisor: Channel[Any] = Channel(theirs, FromWorker, lambda each, _: reports.put_nowait(each), lambda _: None)
        reporting = asyncio.get_running_loop().create_task(worker._report_often())
        try:
            async with asyncio.timeout(20):
                assert [(await reports.get()).targets for _ in range(3)] == [None] * 3
                assert not gateway.target_states.called
                for told, number in ((Ask(7), 7), (Drain(1.0), 0)):
                    supervisor.send(told)
                    while (report := await reports.get()).targets is None:
                        pass
                    assert (report.number, report.targets) == (number, gateway.target_states.return_value)
        finally:
            reporting.cancel()
            signal.setitimer(signal.ITIMER_PROF, 0)
            worker._channel.close()
            supervisor.close()

    asyncio.run(main())
