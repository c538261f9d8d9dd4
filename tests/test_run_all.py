"""run_all.sh as a user runs it: real processes, started in a copy of the checkout whose path holds a blank.

The copy shares the environment that runs the tests, so nothing is installed here: its scripts/setup.sh does
nothing, and the real one has its own tests below. Every port is a free one; what a test starts is stopped at
its end.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = (
    "PORT",
    "HOST",
    "SERVICE_A_PORT",
    "SERVICE_B_PORT",
    "SERVICE_A_URL",
    "SERVICE_B_URL",
    "ADMIN_PORT",
    "ADMIN_TOKEN",
)
CLEAN = {name: value for name, value in os.environ.items() if name not in (*OURS, "PYTHON")}

Result = subprocess.CompletedProcess[str]


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on; all are held until the last is known, so they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [held.getsockname()[1] for held in sockets]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Demo:
    """One instance of the demo in `checkout`: its three ports and the environment that names them."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        *self.ports, self.admin_port = free_ports(4)
        port, a, b = map(str, self.ports)
        self.env = {"HOST": "127.0.0.1", "PORT": port, "SERVICE_A_PORT": a, "SERVICE_B_PORT": b}
        self.env["ADMIN_PORT"] = str(self.admin_port)

    def run(self, *arguments: str, cwd: Path | None = None, script: Path | None = None, **env: str) -> Result:
        """Runs the script to its end."""
        command = ["bash", str(script or self.checkout / "run_all.sh"), *arguments]
        environment = CLEAN | self.env | env
        return subprocess.run(
            command, cwd=cwd or "/", env=environment, capture_output=True, text=True, timeout=50, check=False
        )

    def foreground(self) -> subprocess.Popen[str]:
        """Starts the script without arguments, leading a process group as it does in a terminal."""
        return subprocess.Popen(
            ["bash", str(self.checkout / "run_all.sh")],
            env=CLEAN | self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def run_directory(self) -> Path:
        return self.checkout / ".run" / self.env["PORT"]

    def pid(self, name: str) -> int:
        return int((self.run_directory / f"{name}.pid").read_text().split()[0])

    def listening(self) -> list[bool]:
        return [listens(port) for port in self.ports]

    def left_behind(self) -> list[Path]:
        return list(self.run_directory.glob("*.pid"))


def copy_scripts(destination: Path) -> Path:
    destination.mkdir()
    shutil.copy(ROOT / "run_all.sh", destination)
    shutil.copytree(ROOT / "scripts", destination / "scripts")
    return destination


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    copy = copy_scripts(tmp_path / "a checkout")
    shutil.copytree(ROOT / "services", copy / "services")
    shutil.copy(ROOT / "gateway.yaml", copy)
    (copy / "docs").mkdir()
    (copy / ".venv").symlink_to(sys.prefix)
    (copy / "scripts" / "setup.sh").write_text("#!/bin/sh\n")
    return copy


@pytest.fixture
def demo(checkout: Path) -> Iterator[Demo]:
    instance = Demo(checkout)
    yield instance
    instance.run("stop")


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What the process prints up to the line that holds `text`."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    assert process.stderr is not None
    pytest.fail(f"never said {text!r}: {said}{process.stderr.read()}")


def test_background_start_serves_what_it_prints_and_stop_ends_it(demo: Demo) -> None:
    started = demo.run("-d")
    assert started.returncode == 0, started.stderr
    lines = [line for line in started.stdout.splitlines() if line.startswith("curl ")]
    assert lines[5:] == [f"curl http://127.0.0.1:{demo.admin_port}/status"]
    if shutil.which("curl"):
        answers = [
            subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout for line in lines
        ]
        assert "This is service-a" in answers[0]
        assert "POST request to service-b" in answers[1]
        assert "DELETE request to service-a" in answers[2]
        assert '"id":42' in answers[3].replace(" ", "")
        assert "id: 3" in answers[4]
        assert '"state":"ready"' in answers[5]
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


@pytest.mark.parametrize("variable", ["PORT", "SERVICE_A_PORT", "SERVICE_B_PORT", "ADMIN_PORT"])
def test_a_port_in_use_is_named_and_nothing_starts(demo: Demo, variable: str) -> None:
    with socket.create_server(("127.0.0.1", int(demo.env[variable]))):
        result = demo.run("-d")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert f"port {demo.env[variable]} is in use; set {variable} " in result.stderr
    assert demo.listening() == [False, False, False]
    assert demo.left_behind() == []


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_what_is_not_a_port_is_refused(demo: Demo, port: str) -> None:
    for variable in ("PORT", "SERVICE_A_PORT", "ADMIN_PORT"):
        result = demo.run("-d", **{variable: port})
        assert result.returncode == 1
        assert result.stderr == f"run_all.sh: {variable}={port} is not a port; give a number from 1 to 65535\n"


def test_the_token_of_the_admin_api_is_not_printed(demo: Demo) -> None:
    started = demo.run("-d", ADMIN_TOKEN="not-to-be-printed")
    assert started.returncode == 0, started.stderr
    assert f'curl -H "Authorization: Bearer $ADMIN_TOKEN" http://127.0.0.1:{demo.admin_port}/status' in started.stdout
    assert "not-to-be-printed" not in started.stdout


def test_two_names_for_one_port_are_refused(demo: Demo) -> None:
    result = demo.run("-d", SERVICE_B_PORT=demo.env["PORT"])
    assert result.returncode == 1
    assert "PORT and SERVICE_B_PORT are both" in result.stderr


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


def test_settings_come_from_files_that_are_never_run(demo: Demo) -> None:
    port, other = demo.env.pop("SERVICE_A_PORT"), demo.env.pop("SERVICE_B_PORT")
    (demo.checkout / "docs" / ".env").write_text(
        f'# a comment\nSERVICE_A_PORT=1\n export SERVICE_B_PORT = "{other}" # why\r\nPORT=1\n'
        "EVIL=$(touch evil)`touch evil`; touch evil\nROOT=/nonexistent\nIFS=0\n"
    )
    (demo.checkout / ".env").write_text(f"SERVICE_A_PORT='{port}'")
    result = demo.run("-d")
    assert result.returncode == 0, result.stderr
    assert demo.listening() == [True, True, True]
    assert not (demo.checkout / "evil").exists()


@pytest.mark.parametrize("line", ["PORT 8080", "=1", "1A=2", "A='b", 'A="b" c'])
def test_a_bad_line_in_a_settings_file_is_named(demo: Demo, line: str) -> None:
    (demo.checkout / ".env").write_text(f"# first\n{line}\n")
    result = demo.run("status")
    assert result.returncode == 1
    assert re.fullmatch(r"run_all\.sh: \.env, line 2: .+\n", result.stderr)


def test_a_service_of_the_users_own_is_not_started(demo: Demo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as own:
        url = f"http://127.0.0.1:{own.getsockname()[1]}"
        result = demo.run("-d", SERVICE_A_URL=url)
        assert result.returncode == 0, result.stderr
        assert url in result.stdout
        assert demo.listening() == [True, False, True]


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


@pytest.mark.parametrize("arguments", [["stpo"], ["-x"], ["stop", "now"]])
def test_an_unknown_argument_shows_the_usage_and_fails(demo: Demo, arguments: list[str]) -> None:
    result = demo.run(*arguments)
    assert result.returncode == 2
    assert "usage: ./run_all.sh" in result.stderr


@pytest.fixture
def bare(tmp_path: Path) -> Demo:
    """A checkout without an environment, with the real scripts/setup.sh."""
    checkout = copy_scripts(tmp_path / "bare")
    for name in ("requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    return Demo(checkout)


def test_a_missing_python_is_one_clear_line(bare: Demo) -> None:
    result = bare.run("-d", PYTHON="/nonexistent")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == "setup: PYTHON=/nonexistent is not a program that can be run\n"


def test_a_python_that_does_not_run_is_not_taken(bare: Demo) -> None:
    false = shutil.which("false") or ""
    result = bare.run("-d", PYTHON=false)
    assert result.returncode == 1
    assert result.stderr.startswith(f"setup: PYTHON={false} is not a working CPython 3.11 or newer")


def test_a_failed_install_is_one_line_that_names_the_log(bare: Demo) -> None:
    (bare.checkout / "requirements.txt").write_text("./no-such-directory\n")
    result = bare.run("-d", PYTHON=sys.executable)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "installing requirements.txt failed" in result.stderr
    log = bare.checkout / ".run" / "setup.log"
    assert str(log) in result.stderr
    assert "no-such-directory" in log.read_text()
    assert not (bare.checkout / ".venv" / ".gatewright-stamp").exists()
