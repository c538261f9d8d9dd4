"""The real scripts/setup.sh in a checkout without an environment: what it says when it cannot make one."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.kit.demo import ROOT
from tests.kit.run_all import Demo, copy_scripts


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
