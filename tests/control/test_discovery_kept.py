"""What discovery keeps over restarts (on the disk) and reloads, and for how long readiness waits for it."""

import json
from pathlib import Path

import pytest

from gatewright.core.clock import SystemClock
from tests.control.finding import A, B, Finding, config, question, run
from tests.kit.consul import FakeConsul, entry


def test_a_restart_begins_with_the_last_good_answer(tmp_path: Path, consul: FakeConsul) -> None:
    async def first(finding: Finding) -> None:
        consul.say([entry(8001), entry(8002, Weights={"Passing": 3})], 1)
        finding.update(config(consul, ", token: a-secret-token"))
        for _ in range(2):  # the second question comes after the answer was saved
            await question(consul)

    async def second(finding: Finding) -> None:
        finding.update(config(consul))
        assert finding.told == [[A, (B[0], 3)]], "told at once"
        assert finding.discovery.waiting() == []
        await finding.until(lambda: finding.errors() >= 2)
        assert len(finding.told) == 1

    run(tmp_path, first)
    (file,) = (tmp_path / "state").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert "a-secret-token" not in file.read_text()
    consul.__exit__()
    run(tmp_path, second)

    async def others(finding: Finding) -> None:
        finding.update(config(consul, ", tags: [v2]"))
        assert finding.told == [], "it is not what was found before"
        finding.update(config(consul, "", "").replace("web", "other"))
        assert finding.told == []
        assert finding.discovery.waiting() == ["s"]

    run(tmp_path, others)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: b"\xff",
        lambda data: b"[1]",
        lambda data: json.dumps(data | {"at": data["at"] - 25 * 3600}).encode(),
        lambda data: json.dumps(data | {"identity": "another"}).encode(),
        lambda data: json.dumps(data | {"instances": [["http://a b", 1]]}).encode(),
        lambda data: json.dumps(data | {"instances": [["file:///etc", 1]]}).encode(),
        lambda data: json.dumps(data | {"instances": [["http://a", -1]]}).encode(),
        lambda data: json.dumps(data | {"instances": [7]}).encode(),
    ],
)
def test_a_saved_answer_that_is_no_good_is_not_used(tmp_path: Path, consul: FakeConsul, spoil) -> None:
    async def first(finding: Finding) -> None:
        consul.say([entry(8001)], 1)
        finding.update(config(consul))
        for _ in range(2):
            await question(consul)

    async def second(finding: Finding) -> None:
        finding.update(config(consul))
        assert finding.told == []

    run(tmp_path, first)
    (file,) = (tmp_path / "state").iterdir()
    file.write_bytes(spoil(json.loads(file.read_text())))
    run(tmp_path, second)


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path, consul: FakeConsul, caplog) -> None:
    async def check(finding: Finding) -> None:
        (tmp_path / "state").write_text("no folder")
        for index in range(1, 4):
            consul.say([entry(8000 + index)], index)
        finding.update(config(consul))
        for _ in range(4):
            await question(consul)
        assert len(finding.told) == 3

    run(tmp_path, check)
    assert len([text for text in caplog.messages if "answers cannot be kept" in text]) == 1


def test_a_reload_keeps_what_it_does_not_touch(tmp_path: Path, consul: FakeConsul) -> None:
    async def check(finding: Finding) -> None:
        consul.say([entry(8001)], 5)
        finding.update(config(consul))
        for _ in range(2):
            await question(consul)
        watch = finding.discovery._watches["s"]
        finding.update(config(consul, extra="limits: {body: 1MiB}\n"))
        assert finding.discovery._watches["s"] is watch
        assert consul.count == 2
        for file in (tmp_path / "state").iterdir():
            file.unlink()
        finding.update(config(consul, ", token: another"))
        assert finding.discovery._watches["s"] is not watch
        assert finding.discovery.known("s") == watch.known, "another token finds the same"
        asked = await question(consul)
        assert (asked.get("index"), asked.headers["x-consul-token"]) == (None, "another")
        finding.update("services: {s: {targets: [http://a]}}")
        assert finding.discovery.known("s") is None
        assert finding.discovery.accounts() == []

    run(tmp_path, check)


def test_readiness_waits_for_the_first_answer_and_not_for_ever(tmp_path: Path, consul: FakeConsul) -> None:
    class Clock(SystemClock):
        ahead = 0.0

        def now(self) -> float:  # type: ignore[override]
            return SystemClock.now() + self.ahead

    clock = Clock()

    async def check(finding: Finding) -> None:
        finding.update(config(consul))
        assert finding.discovery.waiting() == ["s"]
        await finding.discovery.answered(0.01)
        assert finding.discovery.waiting() == ["s"]
        clock.ahead = 31
        assert finding.discovery.waiting() == []
        clock.ahead = 0
        consul.say([], 1)
        await finding.discovery.answered(10)
        assert finding.discovery.waiting() == []
        assert finding.discovery.known("s") == ()
        finding.update(config(consul).replace("web", "other").replace("discover:", "targets: [http://a], discover:"))
        assert finding.discovery.waiting() == [], "targets that are written down serve meanwhile"

    run(tmp_path, check, clock)
