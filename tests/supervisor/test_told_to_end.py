"""Signals at moments when nobody waits for them yet, and an end that nothing holds up."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.demo import CLEAN
from tests.kit.process import GatewayProcess
from tests.kit.wire import TIMEOUT, RawSocket

CONFIG = """
listeners: [{bind: "127.0.0.1:0"}]
admin: {bind: "127.0.0.1:0"}
services: {}
routes: []
"""

# The last part of the start blocks for so long that the signal and the end of the start are found in the same turn.
AT_ITS_END = """
import os, signal, sys
from pathlib import Path
from gatewright.cli.serve import serve
from gatewright.supervisor.serving import AdminServing

start_serving = AdminServing.serve

async def signalled(self, *place):
    os.kill(os.getpid(), signal.SIGTERM)
    await start_serving(self, *place)

AdminServing.serve = signalled
"""
# Neither the supervisor nor the worker can do anything yet when the signals come.
AT_ITS_BEGINNING = """
from gatewright.cli import serve as module

launch = module.launch

def launched(index):
    first = launch(index)
    for number in sys.argv[2].split(","):
        os.kill(os.getpid(), int(number))
        os.kill(first.process.pid, int(number))
    return first

module.launch = launched
"""
SERVE = "sys.exit(serve(Path(sys.argv[1])))\n"

# A thread waits for ever, as one may for a file system that is gone.
WITH_A_THREAD_THAT_WAITS = """
import os, signal, sys, threading
from pathlib import Path
from gatewright.cli.serve import serve
from gatewright.supervisor.configuration import Configurations

load = Configurations.load

def loaded(self, text=None):
    if self.succeeded:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait()
    return load(self, text)

Configurations.load = loaded
sys.exit(serve(Path(sys.argv[-1])))
"""


def ended(folder: Path, script: str, *arguments: str) -> tuple[int, str]:
    file = folder / "gateway.yaml"
    file.write_text(CONFIG)
    command = [sys.executable, "-c", script + SERVE, str(file), *arguments]
    done = subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stderr


def test_a_signal_when_the_start_is_done_ends_the_gateway(tmp_path: Path) -> None:
    code, said = ended(tmp_path, AT_ITS_END)
    assert (code, "finishing what is under way" in said) == (0, True), said


def test_signals_before_the_start_that_ask_for_no_end_do_no_harm(tmp_path: Path) -> None:
    code, said = ended(tmp_path, AT_ITS_END + AT_ITS_BEGINNING, f"{signal.SIGHUP:d},{signal.SIGUSR1:d}")
    assert (code, "finishing what is under way" in said, "was ended by" in said) == (0, True, False), said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_before_the_start_ends_it_without_a_word(tmp_path: Path, number: int) -> None:
    assert ended(tmp_path, AT_ITS_END + AT_ITS_BEGINNING, f"{number:d}") == (0, "")


def test_a_thread_that_waits_for_ever_does_not_hold_up_the_end(run: Callable[..., GatewayProcess]) -> None:
    gateway = run(CONFIG, wrapper=[sys.executable, "-c", WITH_A_THREAD_THAT_WAITS]).ready()
    with RawSocket.connect(gateway.admin_port) as client:
        client.send(b"POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        assert gateway.process.wait(TIMEOUT) == 0
