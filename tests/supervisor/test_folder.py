"""The folder that workers share: whose gateway lives stays, whose is dead goes, whatever process IDs say."""

import os
import subprocess
import sys
import tempfile

import pytest

from gatewright.control.errors import StartError
from gatewright.supervisor import folder as module
from gatewright.supervisor.folder import SharedFolder

KILLED = """
import os, signal, sys
from pathlib import Path
from gatewright.supervisor import folder
folder._MEMORY = Path(sys.argv[1])
os.getpid, pid = lambda: int(sys.argv[2]), os.getpid()
print(folder.SharedFolder().path, flush=True)
os.kill(pid, signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def memory(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_MEMORY", tmp_path)
    return tmp_path


def test_a_gateway_that_runs_keeps_its_folder_though_its_process_is_unknown_here(monkeypatch, memory):
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 2**30)  # in another container
        mine = SharedFolder()
        path = mine.path
    other = SharedFolder()
    assert other.path != path == mine.path
    assert path.is_dir()
    mine.remove()
    other.remove()
    assert list(memory.iterdir()) == []


def test_the_folder_of_one_that_was_killed_goes_though_a_process_of_its_number_runs(memory):
    command = [sys.executable, "-c", KILLED, str(memory), str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    (left,) = memory.iterdir()
    assert str(left) == done.stdout.strip()
    (memory / "gatewright-1-strange").mkdir()  # nobody ever held it
    mine = SharedFolder()
    assert {mine.path.name, "gatewright-1-strange"} == {each.name for each in memory.iterdir()}
    mine.remove()


@pytest.mark.parametrize("temporary", [None, "not/there"])
def test_a_folder_that_cannot_be_made_is_an_error_of_the_start(monkeypatch, memory, temporary):
    monkeypatch.setattr(module, "_MEMORY", memory / "none")
    monkeypatch.setattr(tempfile, "tempdir", temporary)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(memory / "none")])
    with pytest.raises(StartError, match=r"^the folder that the workers share cannot be made: .*\Z"):
        _ = SharedFolder().path
