"""Workers that users' code holds up: real processes under a crew whose patience is short."""

import asyncio
import os
import signal
import threading

import pytest
import uvloop

from gatewright.supervisor import configuration, crew, process
from gatewright.supervisor.configuration import Configurations
from gatewright.supervisor.crew import Crew
from gatewright.supervisor.launch import launch
from gatewright.telemetry.totals import Totals
from tests.kit.process import is_alive

CONFIG = """
listeners: [{{bind: "127.0.0.1:0"}}]
admin: false
access_log: false
routes: [{{name: all, match: {{path: "/{{rest...}}"}}, respond: {{status: 200, body: {body}}}}}]
"""
STUCK = """
from gatewright import Plugin, PluginConfig
class Stuck(Plugin[PluginConfig]):
    def on_request(self, exchange):
        while exchange.request.path == "/stuck":
            pass
"""
HANGS = "while True: pass\n"


@pytest.fixture
def run(tmp_path):
    """Run a test with a crew of one that has a configuration."""

    def run(config, test):
        async def inner():
            (tmp_path / "gateway.yaml").write_text(config)
            first = launch(0)
            team = Crew(Totals(), lambda: None)
            configurations = Configurations(tmp_path / "gateway.yaml", team, {})
            try:
                async with asyncio.timeout(40):
                    await team.take_first(first)
                    await configurations.start(configurations.load())
                    await test(team, configurations)
            finally:
                team.dismiss(0)
                await team.ended(0)
                team.close()
                configurations.close()
                first.kill()

        uvloop.run(inner())

    return run


async def ask(configurations, path):
    port = int(configurations.urls()[0].rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
    try:
        return await reader.read()
    finally:
        writer.close()


def test_a_worker_whose_loop_stands_still_is_killed_and_replaced(run, tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "_STUCK_SECONDS", 2.0)
    (tmp_path / "stuck.py").write_text(STUCK)

    async def test(team, configurations):
        (worker,) = team.ready
        looking = asyncio.get_running_loop().create_task(team.look_after())
        with pytest.raises(ConnectionResetError):
            raise ConnectionResetError if await ask(configurations, "/stuck") == b"" else AssertionError
        await worker.gone.wait()
        assert not is_alive(worker.pid)
        assert (await ask(configurations, "/")).endswith(b"one")
        assert team.restarts == 1
        looking.cancel()

    run(CONFIG.format(body="one") + 'plugins: [{use: "./stuck.py:Stuck"}]\n', test)


def test_a_module_that_never_loads_fails_the_reload_and_does_not_block_the_next(run, tmp_path, monkeypatch):
    monkeypatch.setattr(configuration, "PREPARE_SECONDS", 2.0)
    monkeypatch.setattr(crew, "_OUTDATED_GRACE", 1.0)
    (tmp_path / "hangs.py").write_text(HANGS)

    async def test(team, configurations):
        (worker,) = team.ready
        bad = CONFIG.format(body="two") + 'plugins: [{use: "./hangs.py:X"}]\n'
        outcome = await configurations.reload("api", bad)
        assert "was not ready for it in 2 s" in str(outcome.errors[0])
        assert (await ask(configurations, "/")).endswith(b"one")
        await worker.gone.wait()  # although a thread of it is busy for ever
        while not team.ready:
            await asyncio.wait([asyncio.get_running_loop().create_task(worker.gone.wait())], timeout=0.05)
            await asyncio.get_running_loop().run_in_executor(None, os.sched_yield)
        outcome = await configurations.reload("api", CONFIG.format(body="three"))
        assert outcome.errors == []
        assert (await ask(configurations, "/")).endswith(b"three")

    run(CONFIG.format(body="one"), test)


def test_a_worker_that_does_not_speak_is_told_from_one_that_does(monkeypatch):
    """A process that never says hello, such as one of another release, is ended and not waited for."""
    monkeypatch.setattr(process, "HELLO_SECONDS", 0.2)

    async def test():
        first = launch(0)
        os.kill(first.process.pid, signal.SIGSTOP)  # it will not come to speak
        team = Crew(Totals(), lambda: None)
        try:
            with pytest.raises(process.WorkerLost, match="did not start"):
                await team.take_first(first)
        finally:
            team.close()
            first.kill()

    uvloop.run(test())


def test_who_stood_still_himself_blames_no_worker(run, monkeypatch):
    """A paused container, a debugger: nobody could be heard."""
    monkeypatch.setattr(crew, "_STUCK_SECONDS", 2.0)

    async def test(team, configurations):
        (worker,) = team.ready
        looking = asyncio.get_running_loop().create_task(team.look_after())
        threading.Event().wait(2.5)  # this loop stands still
        async with asyncio.timeout(20):
            while worker.silent_for() > 1:
                await asyncio.to_thread(lambda: None)
        assert team.ready == [worker]
        looking.cancel()

    run(CONFIG.format(body="here"), test)


def test_a_worker_that_cannot_be_watched_by_descriptor_is_watched_all_the_same(run, monkeypatch):
    def refused(pid):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", refused)

    async def test(team, configurations):
        (worker,) = team.ready
        os.kill(worker.pid, signal.SIGKILL)
        await worker.gone.wait()
        async with asyncio.timeout(20):
            while not team.ready:
                await asyncio.to_thread(lambda: None)
        assert team.ready != [worker]

    run(CONFIG.format(body="here"), test)
