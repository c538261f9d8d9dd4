"""How the demo starts, is watched and ends: in the background, in the foreground, by signals, beside others, after crashes."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.kit.run_all import Demo, paste, read_until


def test_background_start_serves_what_it_prints_and_stop_ends_it(demo: Demo) -> None:
    started = demo.run("-d")
    assert started.returncode == 0, started.stderr
    assert f"curl http://127.0.0.1:{demo.admin_port}/metrics\n" in started.stdout
    if shutil.which("curl"):
        refused, read, posted, deleted, events, items, health, status, metrics = paste(started)
        assert json.loads(refused)["detail"] == "Authorization header missing"
        assert json.loads(read) == {"message": "This is service-a"}
        assert json.loads(posted)["data"] == {"hello": "world", "transformed": True}
        assert "DELETE request to service-a" in deleted
        assert "id: 3" in events
        assert items.split() == ["200", "200", "429"]
        assert json.loads(health)["status"] == "healthy"
        assert json.loads(status)["state"] == "ready"
        assert "gateway_requests_total" in metrics
    assert demo.run("status").returncode == 0

    stopped = demo.run("stop")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert demo.listening() == [False, False, False]
    assert demo.left_behind() == []
    assert demo.run("status").returncode == 1
    assert demo.run("stop").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_foreground_stops_everything(demo: Demo, number: signal.Signals) -> None:
    with demo.foreground() as process:
        read_until(process, "Ctrl-C")
        os.killpg(process.pid, number)  # to the whole group, as a terminal does
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert demo.listening() == [False, False, False]
    assert demo.left_behind() == []


def test_stop_ends_a_foreground_start_too(demo: Demo) -> None:
    with demo.foreground() as process:
        read_until(process, "Ctrl-C")
        assert demo.run("stop").returncode == 0
        assert process.wait(timeout=30) == 0
    assert demo.listening() == [False, False, False]


def test_a_process_that_dies_ends_the_foreground_start(demo: Demo) -> None:
    with demo.foreground() as process:
        read_until(process, "Ctrl-C")
        os.kill(demo.pid("service-b"), signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors.startswith("run_all.sh: service-b has ended by itself")
    assert demo.listening() == [False, False, False]


def test_instances_with_different_ports_do_not_meet(demo: Demo) -> None:
    other = Demo(demo.checkout)
    assert demo.run("-d").returncode == 0
    again = demo.run("-d")
    assert again.returncode == 1
    assert "already running" in again.stderr
    try:
        assert other.run("-d").returncode == 0
        assert demo.run("stop").returncode == 0
        assert (demo.listening(), other.listening()) == ([False] * 3, [True] * 3)
        idle = demo.run("stop")
        assert f"PORT={other.env['PORT']}" in idle.stdout
    finally:
        other.run("stop")
    assert other.listening() == [False, False, False]


def test_stop_leaves_a_process_alone_that_got_a_recorded_pid(demo: Demo) -> None:
    demo.run_directory.mkdir(parents=True)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as stranger:
        for name in ("gateway", "service-a", "service-b", "runner", "tail"):
            (demo.run_directory / f"{name}.pid").write_text(f"{stranger.pid}\nborn at another time\n")
        assert demo.run("stop").returncode == 0
        assert stranger.poll() is None
        assert demo.left_behind() == []
        assert stranger.stdin is not None
        stranger.stdin.close()
        assert stranger.wait(timeout=10) == 0, "it was signalled"


@pytest.mark.parametrize("content", ["", "abc\n", "1\n", "999999999\nlong ago\n", "-1\n-1\n"])
def test_pid_files_that_mean_nothing_are_no_obstacle(demo: Demo, content: str) -> None:
    demo.run_directory.mkdir(parents=True)
    for name in ("gateway", "runner"):
        (demo.run_directory / f"{name}.pid").write_text(content)
    assert demo.run("stop").returncode == 0
    assert demo.left_behind() == []


def test_a_start_after_a_crash_cleans_up_first(demo: Demo) -> None:
    assert demo.run("-d").returncode == 0
    survivor = demo.pid("service-a")
    os.kill(demo.pid("gateway"), signal.SIGKILL)
    again = demo.run("-d")
    assert again.returncode == 0, again.stderr
    assert demo.pid("service-a") != survivor
    assert demo.listening() == [True, True, True]


def test_a_broken_configuration_is_shown_and_nothing_is_left(demo: Demo) -> None:
    (demo.checkout / "gateway.yaml").write_text("no_such_key: 1\n")
    result = demo.run("-d")
    assert result.returncode == 1
    first, *rest = result.stderr.splitlines()
    assert first.startswith("run_all.sh: gateway ended before it was ready")
    assert "no_such_key" in "".join(rest)
    assert demo.listening() == [False, False, False]
    assert demo.left_behind() == []


def test_it_works_through_a_symbolic_link_and_from_anywhere(demo: Demo, tmp_path: Path) -> None:
    link = tmp_path / "link to it"
    link.symlink_to(demo.checkout / "run_all.sh")
    result = demo.run("stop", cwd=tmp_path, script=link)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("argument", ["help", "-h", "--help"])
def test_help_shows_the_usage(demo: Demo, argument: str) -> None:
    result = demo.run(argument)
    assert result.returncode == 0
    assert result.stdout.startswith("usage: ./run_all.sh")


@pytest.mark.parametrize("arguments", [["stpo"], ["-x"], ["stop", "now"], ["-d", "stop"], ["--full", "status"]])
def test_an_unknown_argument_shows_the_usage_and_fails(demo: Demo, arguments: list[str]) -> None:
    result = demo.run(*arguments)
    assert result.returncode == 2
    assert "usage: ./run_all.sh" in result.stderr
