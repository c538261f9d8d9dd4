"""What the demo is told by the environment and by settings files: ports, addresses, secrets and what is wrong with them."""

import json
import re
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.run_all import CLEAN, Demo, Result, paste


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
    again = demo.run("-d", JWT_SECRET="", ADMIN_TOKEN="not-to-be-printed")
    assert again.returncode == 0  # an empty one is none
    assert file.read_text() == text
    assert 'curl -H "Authorization: Bearer $ADMIN_TOKEN"' in again.stdout
    assert "not-to-be-printed" not in again.stdout


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


def test_two_names_for_one_port_are_refused(demo: Demo) -> None:
    result = demo.run("-d", SERVICE_B_PORT=demo.env["PORT"])
    assert result.returncode == 1
    assert "PORT and SERVICE_B_PORT are both" in result.stderr


def test_the_token_of_the_admin_api_is_not_printed(demo: Demo) -> None:
    (demo.checkout / ".env").write_text('ADMIN_TOKEN="not-to-be-printed"\n')
    started = demo.run("-d")
    assert started.returncode == 0, started.stderr
    assert f'curl -H "Authorization: Bearer $ADMIN_TOKEN" http://127.0.0.1:{demo.admin_port}/status' in started.stdout
    assert "not-to-be-printed" not in started.stdout
    if shutil.which("curl"):
        *_, status, metrics = paste(started)
        assert json.loads(status)["state"] == "ready"
        assert "gateway_requests_total" in metrics


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
