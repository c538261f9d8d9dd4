"""The logs of a gateway's processes: what a plugin says names the request, and `debug` makes all of it readable."""

import json
import re

import pytest

from tests.kit.process import GatewayProcess, echo
from tests.kit.wire import get

PLUGIN = """
from gatewright import Plugin, PluginConfig

class Talkative(Plugin[PluginConfig]):
    def on_request(self, exchange):
        exchange.log.info("seen", path=exchange.request.path)
        exchange.log.debug("in detail")
        if exchange.request.path == "/bad":
            raise RuntimeError("a bad day")
"""
CONFIG = """
debug: ${{DEBUG:-false}}
access_log: {{destination: access.log}}
{more}services: {{s: {{targets: ["http://127.0.0.1:{port}"]}}}}
routes: [{{name: all, match: {{path: "/{{rest...}}"}}, service: s, plugins: [{{use: "./talkative.py:Talkative"}}]}}]
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "talkative.py").write_text(PLUGIN)
    started = []
    with echo() as port:

        def start(more="", **environ):
            started.append(GatewayProcess(tmp_path, CONFIG.format(port=port, more=more), environ))
            return started[-1].ready()

        yield start
        for gateway in started:
            gateway.kill()


def test_json_with_the_request(run):
    gateway = run()
    answer = get(gateway.port, "/bad")
    (seen,) = (json.loads(line) for line in gateway.wait_for('"seen"'))
    (failed,) = (json.loads(line) for line in gateway.wait_for("plugin talkative failed"))
    assert seen["request_id"] == failed["request_id"] == answer.get("x-request-id")
    assert (seen["path"], seen["process"], seen["level"]) == ("/bad", "worker 0", "info")
    assert failed["exception"].endswith("RuntimeError: a bad day")
    assert not any("in detail" in line for line in gateway.said)
    assert gateway.end() == 0
    assert [json.loads(line)["message"] for line in gateway.said if "finishing" in line]
    assert json.loads((gateway.folder / "access.log").read_text())["status"] == 500


def test_debug(run):
    gateway = run(DEBUG="true")
    answer = get(gateway.port, "/x")
    (line,) = gateway.wait_for("in detail")
    identity = answer.get("x-request-id")
    assert re.fullmatch(
        rf"[0-9:.]{{12}} gatewright worker 0: DEBUG gatewright\.plugins: in detail request_id={identity}", line
    )
    assert gateway.end() == 0
    assert (gateway.folder / "access.log").read_text().endswith(f" from 127.0.0.1 {identity}\n")


def test_a_reload_changes_the_forms(run):
    gateway = run("log: {level: warning, format: human}\n")
    get(gateway.port, "/bad")
    gateway.wait_for("WARNING|ERROR .*plugin talkative failed")
    assert not any("seen" in line for line in gateway.said)
    gateway.write(gateway.file.read_text().replace("{level: warning, format: human}", "{level: debug, format: json}"))
    assert gateway.reload()[0] == 200
    get(gateway.port, "/x")
    (line,) = gateway.wait_for("in detail")
    assert json.loads(line)["level"] == "debug"
    assert gateway.reload()[0] == 200
    assert "process" not in json.loads(gateway.wait_for("is in use")[0])


def test_a_debug_that_is_none(run, tmp_path):
    gateway = GatewayProcess(tmp_path, CONFIG.format(port=1, more=""), {"DEBUG": "maybe"})
    try:
        gateway.wait_for(r"debug: must be true or false \(got the value of")
        assert gateway.process.wait(20) == 1
    finally:
        gateway.kill()
