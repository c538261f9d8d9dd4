"""scripts/servers.sh: what it does with what is there and what is missing. The programs that it calls are stand-ins."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "servers.sh"
NEEDED = [
    "awk",
    "basename",
    "bash",
    "chmod",
    "cut",
    "dirname",
    "flock",
    "head",
    "id",
    "ln",
    "mkdir",
    "mv",
    "paste",
    "rm",
    "sleep",
    "sort",
    "tail",
]
CONSUL = "consul-v"

# Builds programs that only know their version, slowly enough for a second one to come meanwhile.
GO = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>"$CALLS"
case "$1 $2" in
    'env GOVERSION') printf '%s\\n' "${VERSION:-go1.26.8}" ;;
    'env GOOS') printf 'linux\\namd64\\n' ;;
    'mod download')
        root="$GOMODCACHE/$3"
        mkdir -p "$root/bin" "$root/pkg/tool"
        printf '#!/usr/bin/env bash\\nunset VERSION\\nexec go "$@"\\n' >"$root/bin/go"
        ;;
    build*)
        if [ -n "${BROKEN:-}" ]; then printf 'no such module\\n' >&2; exit 1; fi
        while [ "$1" != -o ]; do shift; done
        sleep 0.3
        printf '#!/usr/bin/env bash\\nprintf version\\n' >"$2"
        chmod +x "$2"
        ;;
esac
"""


class Machine:
    """A PATH with nothing but what the script itself needs, and a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "programs"
        self.programs.mkdir()
        for name in [*NEEDED, "env"]:
            found = shutil.which(name)
            if found is not None:
                (self.programs / name).symlink_to(found)
        self.calls = folder / "calls"
        self.calls.touch()
        self.cache = folder / "a cache"
        self.built = self.cache / "gatewright" / "servers" / "bin"
        self.environ = {
            "PATH": str(self.programs),
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(self.cache),
            "CALLS": str(self.calls),
        }

    def add(self, name: str, text: str = "#!/bin/sh\n") -> None:
        (self.programs / name).unlink(missing_ok=True)
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def start(self, *arguments: str, **environ: str) -> "subprocess.Popen[str]":
        command = [str(SCRIPT), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environ | environ, stdout=pipe, stderr=pipe, text=True, cwd="/")

    def run(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **environ)
        output, errors = process.communicate(timeout=50)
        return process.returncode, output, errors

    def builds(self) -> int:
        return sum(line.startswith("build ") for line in self.calls.read_text().splitlines())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_is_there_is_left_alone(machine: Machine) -> None:
    machine.add("redis-server")
    assert machine.run("redis") == (0, f"servers: redis-server is {machine.programs}/redis-server\n", "")


def test_what_is_missing_is_told_to_whom_may_not_install_it(machine: Machine) -> None:
    machine.add("redis-server")
    code, output, errors = machine.run("redis", "prometheus", "chromium")
    assert (code, "redis-server is" in output) == (1, True)
    assert "missing: prometheus chromium; install them by this system's own means" in errors
    machine.add("apt-get", f"#!/bin/sh\necho apt-get >>{machine.calls}\n")
    machine.add("id", "#!/bin/sh\necho 1000\n")
    code, _, errors = machine.run("redis", "prometheus", "chromium")
    assert (code, machine.calls.read_text()) == (1, "")
    assert "install them as root: apt-get install prometheus chromium" in errors


def test_a_server_is_built_once(machine: Machine) -> None:
    machine.add("go", GO)
    code, output, errors = machine.run("consul")
    assert (code, errors) == (0, "")
    program = (machine.built / "consul").resolve()
    assert program.name.startswith(CONSUL)
    assert "servers: building consul" in output
    assert machine.run("consul") == (0, f"servers: consul is {program}\n", "")
    assert machine.builds() == 1
    assert sorted(os.listdir(machine.built)) == ["consul", program.name]
    assert not (machine.built.parent / "work").exists()


@pytest.mark.skipif(shutil.which("flock") is None, reason="without flock each builds for itself")
def test_two_at_once_build_once(machine: Machine) -> None:
    machine.add("go", GO)
    processes = [machine.start("jaeger", "consul") for _ in range(3)]
    results = [(process.communicate(timeout=50)[1], process.returncode) for process in processes]
    assert results == [("", 0)] * 3
    assert machine.builds() == 2


def test_without_flock_it_builds_too(machine: Machine) -> None:
    machine.add("go", GO)
    (machine.programs / "flock").unlink(missing_ok=True)
    assert machine.run("jaeger")[0] == 0
    assert (machine.built / "jaeger").exists()
    assert not list(machine.built.parent.glob("work*"))


def test_an_old_go_fetches_a_newer_one(machine: Machine) -> None:
    machine.add("go", GO)
    code, output, errors = machine.run("jaeger", VERSION="go1.19.8")
    assert (code, errors) == (0, "")
    assert "go is go1.19.8" in output
    calls = machine.calls.read_text()
    assert "mod download golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64" in calls
    assert machine.builds() == 1


def test_no_go_and_a_build_that_fails_are_told(machine: Machine) -> None:
    machine.add("id", "#!/bin/sh\necho 1000\n")
    code, _, errors = machine.run("jaeger")
    assert (code, "jaeger is built with Go 1.24.6 or newer" in errors) == (1, True)
    machine.add("go", GO)
    code, _, errors = machine.run("jaeger", "consul", BROKEN="yes")
    assert code == 1
    assert "building jaeger failed (no such module); details in " in errors
    assert "building consul failed" in errors
    assert list(machine.built.iterdir()) == []
    assert (machine.built.parent / "work").exists()  # the next attempt goes on from there


def test_unknown_names_are_refused(machine: Machine) -> None:
    code, output, errors = machine.run("mysql")
    assert (code, output) == (2, "")
    assert errors.startswith("usage: scripts/servers.sh ")
    assert not machine.cache.exists()
