"""What a worker is told of targets before its gateway is up: nothing is lost, and nothing old comes after the new."""

import asyncio
import socket
from typing import Any, ClassVar
from unittest.mock import MagicMock

import pytest

from gatewright.supervisor import worker as module
from gatewright.supervisor.messages import Configure, Discovered, Row, SetTarget, SetTargets
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
