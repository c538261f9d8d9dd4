"""How a configuration names plugins: `- name`, `- name: {settings}`, or `- use: package.module:Class` with
settings.

It owns the shape only. What class a reference means and which settings it takes, `plugin_check.py` finds out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator, WithJsonSchema

from gatewright.control.base import complaint

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_USE = re.compile(
    r"(?:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*|[^\0:]+\.py):[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*",
)
_HINT = 'must be a plugin: a name, "name: {settings}", or "use: package.module:Class" with settings'


@dataclass(frozen=True, slots=True)
class PluginRef:
    """A plugin as a list names it. Either `name` is set (built in, installed) or `use` (an import path)."""

    name: str | None = None
    use: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What users call it."""
        return self.name or self.use or ""


def parse_plugin(value: object) -> PluginRef:
    """Return the plugin that an entry of a `plugins` list names. Raises an error for the user."""
    if isinstance(value, PluginRef):
        return value
    if isinstance(value, str):
        return PluginRef(name=_check_name(value))
    if not isinstance(value, Mapping) or not value:
        raise complaint(_HINT)
    if "use" in value:
        use = value["use"]
        if not isinstance(use, str) or not _USE.fullmatch(use):
            raise complaint('`use` must be an import path such as "package.module:Class" or "./plugins.py:Class"')
        return PluginRef(use=use, config={key: setting for key, setting in value.items() if key != "use"})
    name, config = next(iter(value.items()))
    if len(value) > 1:
        raise complaint(
            f"must name one plugin, not {len(value)}: its settings are indented under its name"
            if config is None
            else "must name one plugin: begin each with a dash of its own"
        )
    if config is not None and not isinstance(config, Mapping):
        raise complaint("the settings of a plugin must be a mapping")
    return PluginRef(name=_check_name(name), config=dict(config or {}))


def _check_name(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        hint = "; for an import path write `use: package.module:Class`" if ":" in str(name) else ""
        raise complaint(f"must be the name of a plugin{hint}")
    return name


_SCHEMA = {
    "anyOf": [
        {"type": "string", "description": "A plugin without settings"},
        {
            "type": "object",
            "required": ["use"],
            "properties": {"use": {"type": "string", "examples": ["package.module:Class", "./plugins.py:Class"]}},
            "description": "A plugin by its import path, its settings beside it",
        },
        {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "properties": {"use": False},
            "additionalProperties": {"type": ["object", "null"]},
            "description": "A plugin by its name, its settings under it",
        },
    ]
}

PluginEntry = Annotated[PluginRef, PlainValidator(parse_plugin), WithJsonSchema(_SCHEMA)]
PluginList = Annotated[tuple[PluginEntry, ...], BeforeValidator(lambda value: [] if value is None else value)]
