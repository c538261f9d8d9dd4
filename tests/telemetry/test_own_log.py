"""The gateway's own log: each form of a line, what stands in it, and loggers of plugins'."""

import json
import logging
import re
import subprocess
import sys

import pytest
import structlog

from gatewright.core.logs import logger_for
from gatewright.telemetry.own_log import OwnLog
from tests.telemetry.finished import finished


@pytest.fixture
def log():
    """An own log that a test asks for its lines."""
    root = logging.getLogger()
    level = root.level
    handler = OwnLog("worker 2")
    logger = logging.getLogger("gatewright")
    handler.lines = []
    handler.emit = lambda record: handler.lines.append(handler.format(record))
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    root.setLevel(level)


def json_of(log):
    return [json.loads(line) for line in log.lines]


def test_json(log):
    log.use(human=False)
    logging.getLogger("gatewright.x").warning("it is %s", "late", extra={"request_id": "4f1c"})
    (line,) = json_of(log)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    assert line == {
        "level": "warning",
        "logger": "gatewright.x",
        "process": "worker 2",
        "message": "it is late",
        "request_id": "4f1c",
    }


def test_tracebacks(log):
    for human in (False, True):
        log.use(human)
        try:
            raise ValueError("wrong\nFORGED")
        except ValueError:
            logging.getLogger("gatewright.x").exception("it failed")
    first, second = log.lines
    assert json.loads(first)["exception"].endswith("ValueError: wrong\nFORGED")
    assert "\n" not in first
    head, *rest = second.split("\n")
    assert head.endswith(" gatewright worker 2: ERROR gatewright.x: it failed")
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in rest)


def test_the_readable_form_cannot_be_forged(log):
    log.use(human=True)
    logging.getLogger("gatewright.x").info("a\x1b[2J\nb\u2028c")
    (line,) = log.lines
    assert re.fullmatch(r"[0-9:.]{12} gatewright worker 2: INFO gatewright\.x: a\\x1b\[2J\n    b\\u2028c", line)


def test_the_level(log):
    for level, count in ((logging.INFO, 1), (logging.DEBUG, 2), (logging.ERROR, 0)):
        log.lines.clear()
        log.use(human=True, level=level)
        logger = logging.getLogger("gatewright.x")
        logger.debug("fine")
        logger.info("fine")
        assert len(log.lines) == count


def test_the_logger_of_an_exchange_names_the_request(log):
    log.use(human=False)
    exchange = finished()
    exchange.log.warning("slow: %s", "very", seconds=3, name="bob", message="x", args=[1])
    (line,) = json_of(log)
    assert (line["logger"], line["request_id"], line["message"]) == ("gatewright.plugins", exchange.id, "slow: very")
    assert (line["seconds"], line["name"], line["args"]) == (3, "bob", [1])
    log.use(human=True)
    exchange.log.info("done", left=2)
    assert log.lines[-1].endswith(f"INFO gatewright.plugins: done request_id={exchange.id} left=2")


def test_it_is_a_record_like_any_for_who_embeds_the_gateway(caplog):
    logger_for("4f1c").error("100%", exc_info=ValueError("x"), x=1)
    (record,) = caplog.records
    assert (record.getMessage(), record.request_id, record.fields) == ("100%", "4f1c", {"x": 1})
    assert record.exc_info[1].args == ("x",)


def test_what_is_bound_in_structlogs_context_is_in_the_line(log):
    log.use(human=False)
    with structlog.contextvars.bound_contextvars(tenant="blue"):
        logging.getLogger("gatewright.x").warning("late")
    assert json_of(log)[0]["tenant"] == "blue"


def test_fields_that_no_encoder_takes(log):
    log.use(human=False)
    logger_for("1").warning("odd", thing=object(), text="\ud800")
    assert log.lines[0].startswith('{"time": ')


def test_lines_go_to_stderr_without_anybody_waiting():
    code = (
        "import logging\nfrom gatewright.telemetry.own_log import start_own_log\n"
        "own = start_own_log(label='worker 1')\nown.use(human=False)\n"
        "logging.getLogger('x').info('hello \\ud800')\nown.wait(5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=True)
    line = json.loads(done.stderr)
    assert (line["process"], line["message"]) == ("worker 1", "hello \ud800")
