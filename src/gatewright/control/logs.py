"""The loggers that a configuration asks for. The composition root has the access log made here, processes their own."""

import logging
import os
from functools import partial

from gatewright.control.logging_models import AccessLogConfig, Format
from gatewright.control.models import GatewayConfig
from gatewright.core.clock import Clock
from gatewright.telemetry.access_log import AccessLog
from gatewright.telemetry.human import render
from gatewright.telemetry.own_log import OwnLog
from gatewright.telemetry.sink import LineSink


def open_sink(config: AccessLogConfig | None) -> LineSink | None:
    """Open what the access log is written to. Raises OSError when the file cannot be opened."""
    return LineSink(str(config.destination)) if config is not None else None


def make_access_log(config: GatewayConfig, sink: LineSink | None, clock: Clock) -> AccessLog | None:
    """Return the access log of a configuration, or None."""
    if config.access_log is None or sink is None:
        return None
    if not _is_human(config.access_log.format, config.debug):
        return AccessLog(sink, clock)
    return AccessLog(sink, clock, partial(render, colour=sink.is_terminal and "NO_COLOR" not in os.environ))


def use_own_log(own_log: OwnLog, config: GatewayConfig) -> None:
    """Have a process's own log as the configuration wants it."""
    level = config.log.level
    if level == "auto":
        level = "debug" if config.debug else "info"
    own_log.use(_is_human(config.log.format, config.debug), logging.getLevelNamesMapping()[level.upper()])


def _is_human(chosen: Format, debug: bool) -> bool:
    return chosen == "human" or (chosen == "auto" and debug)
