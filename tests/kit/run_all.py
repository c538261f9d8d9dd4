"""run_all.sh as a user runs it: real processes, started in a copy of the checkout whose path holds a blank.

The copy shares the environment that runs the tests, so nothing is installed there: its scripts/setup.sh does nothing.
Every port is a free one. What the script must do is the affair of the tests in tests/run_all.
"""

import random
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.kit import demo
from tests.kit.demo import ROOT
from tests.kit.server_process import free_ports

CLEAN = {name: value for name, value in demo.CLEAN.items() if name != "PYTHON"}

Result = subprocess.CompletedProcess[str]


def free_row(count: int) -> int:
    """The first of `count` ports in a row that nothing listens on; `free_ports` gives none of them."""
    for first in range(random.randrange(30_000, 32_000), 32_700, count):
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
            # Where the tests run in the background SIGINT is ignored, and a shell cannot trap what was ignored before it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - it takes no locks
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


def copy_checkout(destination: Path) -> Path:
    """The demo's checkout; the environment in it is the one that runs the tests."""
    copy = copy_scripts(destination)
    shutil.copytree(ROOT / "services", copy / "services")
    shutil.copy(ROOT / "gateway.yaml", copy)
    (copy / "docs").mkdir()
    (copy / ".venv").symlink_to(sys.prefix)
    (copy / "scripts" / "setup.sh").write_text("#!/bin/sh\n")
    return copy


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
