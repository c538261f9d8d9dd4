"""What a configuration says of logs: the access log, the gateway's own, and `debug`, which makes both readable.

It owns names, defaults and rules of these keys; `models.py` puts them into the whole. `logs` makes loggers of them.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator, ValidationInfo, WithJsonSchema

from gatewright.control.base import ConfigModel, complaint
from gatewright.control.fields import Flag, resolve_path

Format = Literal["auto", "json", "human"]
_FORMAT = "json, or human: for people; auto is json, and human with `debug`"


def _destination(value: object, info: ValidationInfo) -> str | Path:
    if value in ("stdout", "stderr"):
        return str(value)
    path = resolve_path(value, info)
    if info.context and not path.parent.is_dir():
        raise complaint("the folder of this file does not exist")
    if info.context and path.is_dir():
        raise complaint("must be a file, not a folder")
    return path


Destination = Annotated[
    str | Path,
    PlainValidator(_destination),
    WithJsonSchema(
        {"type": "string", "minLength": 1, "examples": ["stdout", "stderr", "/var/log/gatewright/access.log"]}
    ),
]


class AccessLogConfig(ConfigModel):
    """One line for each exchange."""

    format: Format = Field("auto", description=f"The form of a line: {_FORMAT}")
    destination: Destination = Field("stdout", description="stdout, stderr or a file's path")


def _access_log(value: object) -> object:
    if isinstance(value, bool):
        return AccessLogConfig() if value else None
    if value is None:
        raise complaint("must be true, false or a mapping")
    return value


AccessLogSection = Annotated[
    AccessLogConfig | None, BeforeValidator(_access_log, json_schema_input_type=AccessLogConfig | Flag)
]
"""None: there is no access log."""


class LogConfig(ConfigModel):
    """The gateway's own log, to stderr: what starts, fails, changes."""

    level: Literal["auto", "debug", "info", "warning", "error"] = Field(
        "auto", description="The least that is logged; auto is info, and debug with `debug`"
    )
    format: Format = Field("auto", description=f"The form of a line: {_FORMAT}")


def _switch(value: object) -> object:
    return bool(value) if type(value) is int and value in (0, 1) else value


Debug = Annotated[
    Flag,
    BeforeValidator(_switch),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}]}),
]
"""True or false; also 1 or 0, because it mostly comes from an environment variable."""
