"""A signal at the moment when the start is done is neither lost nor taken for one that came too early."""

import subprocess
import sys
from pathlib import Path

from tests.kit.demo import CLEAN

# The last part of the start blocks for so long that the signal and the end of the start are found in the same turn.
SIGNALLED = """
import os, signal, sys
from pathlib import Path
from gatewright.cli.serve import serve
from gatewright.supervisor.serving import AdminServing

start_serving = AdminServing.serve

async def signalled(self, *place):
    os.kill(os.getpid(), signal.SIGTERM)
    await start_serving(self, *place)

AdminServing.serve = signalled
sys.exit(serve(Path(sys.argv[1])))
"""
CONFIG = """
listeners: [{bind: "127.0.0.1:0"}]
admin: {bind: "127.0.0.1:0"}
services: {}
routes: []
"""


def test_a_signal_when_the_start_is_done_ends_the_gateway(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(file)], env=CLEAN, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, "finishing what is under way" in done.stderr) == (0, True), done.stderr
