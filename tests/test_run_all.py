"""run_all.sh as a user runs it: real processes, started in a copy of the checkout whose path holds a blank.

The copy shares the environment that runs the tests, so nothing is installed here: its scripts/setup.sh does
nothing, and the real one has its own tests below. Every port is a free one; what a test starts is stopped at
its end.
"""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.kit import demo as demo_kit
from tests.kit.demo import ROOT
from tests.kit.server_process import fetch, program

CLEAN = {name: value for name, value in demo_kit.CLEAN.items() if name != "PYTHON"}

Result = subprocess.CompletedProcess[str]


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on; all are held until the last is known, so they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [held.getsockname()[1] for held in sockets]


def free_row(count: int) -> int:
    """The first of `count` ports in a row that nothing listens on."""
    for first in range(random.randrange(10_000, 29_000), 30_000, count):
        with ExitStack() as stack, suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise OSError("there are no free ports")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Demo:
    """One instance of the demo in `checkout`: its ports and the environment that names them."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        *self.ports, self.admin_port = free_ports(4)
        port, a, b = map(str, self.ports)
        self.env = {"HOST": "127.0.0.1", "PORT": port, "SERVICE_A_PORT": a, "SERVICE_B_PORT": b}
        self.env["ADMIN_PORT"] = str(self.admin_port)

    def use_servers(self) -> None:
        """Give the servers of --full ports too."""
        redis, otlp, ui = free_ports(3)
        consul = free_row(3)
        self.ports += [redis, otlp, ui, consul, consul + 1, consul + 2]
        names = ("REDIS_PORT", "JAEGER_PORT", "JAEGER_UI_PORT", "CONSUL_PORT")
        self.env |= dict(zip(names, map(str, (redis, otlp, ui, consul)), strict=True))

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
    shutil.copytree(ROOT / "tools", destination / "tools")
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


def paste(started: Result) -> list[str]:
    """What the printed lines print, one after the other in one shell, as pasted into another terminal."""
    block = started.stdout[started.stdout.index("\ncd ") + 1 :].split("\n\nRunning")[0]
    lines = [line for line in block.splitlines() if line]
    script = "\nprintf '\\n@@@\\n'\n".join(lines)
    done = subprocess.run(["bash", "-c", script], env=CLEAN, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.split("\n@@@\n")[2:]


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


def test_a_secret_is_made_once_and_shown_nowhere(demo: Demo) -> None:
    started = demo.run("-d")
    assert started.returncode == 0, started.stderr
    file = demo.checkout / ".env"
    text = file.read_text()
    secret = re.search(r"^JWT_SECRET=([0-9a-f]{64})$", text, re.MULTILINE)
    assert secret is not None
    assert file.stat().st_mode & 0o777 == 0o600
    shown = [started.stdout, started.stderr, *(log.read_text() for log in demo.run_directory.glob("*.log"))]
    shown.append(Path(f"/proc/{demo.pid('gateway')}/cmdline").read_text() if Path("/proc/self").exists() else "")
    assert secret[1] not in "".join(shown)
    assert demo.run("stop").returncode == 0
    assert demo.run("-d", JWT_SECRET="").returncode == 0  # an empty one is none
    assert file.read_text() == text


def make_secret(checkout: Path, **env: str) -> Result:
    """Runs scripts/make_secret.sh alone."""
    command = ["bash", str(checkout / "scripts/make_secret.sh")]
    return subprocess.run(command, cwd="/", env=CLEAN | env, capture_output=True, text=True, timeout=10, check=False)


@pytest.mark.parametrize("before", ["A=1", "A=1\n", "JWT_SECRET=\n", "#JWT_SECRET=x\n", ""])
def test_a_settings_file_keeps_what_it_has(checkout: Path, before: str) -> None:
    file = checkout / ".env"
    file.write_text(before)
    assert make_secret(checkout).returncode == 0
    lines = file.read_text().splitlines()
    assert lines[:-1] == before.splitlines()
    assert re.fullmatch("JWT_SECRET=[0-9a-f]{64}", lines[-1])
    assert file.stat().st_mode & 0o777 == 0o600
    again = make_secret(checkout)
    assert (again.returncode, again.stdout, file.read_text().splitlines()) == (0, "", lines)


@pytest.mark.parametrize("place", ["docs/.env", "environment"])
def test_a_secret_of_the_users_own_is_enough(checkout: Path, place: str) -> None:
    if place == "docs/.env":
        (checkout / place).write_text("JWT_SECRET='mine'\n")
        assert make_secret(checkout).returncode == 0
    else:
        assert make_secret(checkout, JWT_SECRET="mine").returncode == 0
    assert not (checkout / ".env").exists()


def test_secrets_made_at_once_are_one(checkout: Path) -> None:
    command = ["bash", str(checkout / "scripts/make_secret.sh")]
    with ExitStack() as stack:
        running = [
            stack.enter_context(subprocess.Popen(command, env=CLEAN, stdout=subprocess.DEVNULL)) for _ in range(5)
        ]
    assert [each.returncode for each in running] == [0] * 5
    assert (checkout / ".env").read_text().count("JWT_SECRET=") == 1
    assert list(checkout.glob(".env.*")) == []


def test_everything_is_started_wired_and_stopped(demo: Demo) -> None:
    for name in ("redis-server", "consul", "jaeger"):
        program(name)
    demo.use_servers()
    started = demo.run("--full", "-d")
    assert started.returncode == 0, started.stderr
    assert all(demo.listening())
    if shutil.which("curl"):
        answers = paste(started)
        assert answers[5].split() == ["200", "200", "429"]
        assert json.loads(answers[6])["status"] == "healthy"
    for name in ("service-a", "service-b"):
        assert fetch(f"http://127.0.0.1:{demo.env['CONSUL_PORT']}/v1/health/service/{name}?passing=true")
    assert fetch(f"http://127.0.0.1:{demo.env['JAEGER_UI_PORT']}/api/services")
    with socket.create_connection(("127.0.0.1", int(demo.env["REDIS_PORT"])), timeout=5) as redis:
        redis.sendall(b"DBSIZE\r\n")
        assert int(redis.makefile("rb").readline()[1:]) > 0 or not shutil.which("curl")
    assert demo.run("status").stdout.count(" runs ") == 6

    stopped = demo.run("stop")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert not any(demo.listening())
    assert demo.left_behind() == []


def test_a_server_that_cannot_be_installed_is_one_clear_line(demo: Demo) -> None:
    demo.use_servers()
    (demo.checkout / "scripts/servers.sh").write_text("#!/bin/sh\necho 'servers: no way' >&2\nexit 1\n")
    result = demo.run("--full", "-d")
    assert (result.returncode, result.stderr) == (1, "servers: no way\n")
    assert not any(demo.listening())
    assert demo.left_behind() == []


def test_servers_of_the_users_own_are_not_started(demo: Demo) -> None:
    demo.use_servers()
    (demo.checkout / "scripts/servers.sh").write_text('#!/bin/sh\necho "servers: $*" >&2\nexit 1\n')
    own = {"REDIS_URL": "redis://127.0.0.1:1", "JAEGER_HOST": "127.0.0.1"}
    assert demo.run("--full", "-d", **own).stderr == "servers: consul\n"


def test_the_consul_of_full_knows_the_demo_services_only(demo: Demo) -> None:
    demo.use_servers()
    result = demo.run("--full", "-d", SERVICE_A_URL="http://127.0.0.1:1")
    assert result.returncode == 1
    assert result.stderr.startswith("run_all.sh: the Consul of --full knows the demo services only")
    assert result.stderr.count("\n") == 1


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
    assert demo.run("stop").returncode == 0
    (demo.checkout / ".env").write_text('ADMIN_TOKEN="not-to-be-printed"\n')
    started = demo.run("-d")
    assert "not-to-be-printed" not in started.stdout
    if shutil.which("curl"):
        *_, status, metrics = paste(started)
        assert json.loads(status)["state"] == "ready"
        assert "gateway_requests_total" in metrics


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


@pytest.mark.parametrize("arguments", [["stpo"], ["-x"], ["stop", "now"], ["-d", "stop"], ["--full", "status"]])
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
