"""The JSON Schema of a configuration file, as editors use it. `gatewright schema` prints it.

The models give the schema. Here it learns what a file may hold and they never see (`${...}` in place of a
value, defaults as one writes them), and loses what a file may not hold: null. It knows nothing of files.
"""

from typing import Any

from gatewright.control.models import GatewayConfig
from gatewright.core.units import DURATION_PATTERN, SHARE_PATTERN, SIZE_PATTERN, in_words

_VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_]", "description": "A text with variables: ${NAME}"}
_VARIABLE_REF = {"$ref": "#/$defs/Variable"}
_ANNOTATIONS = ("title", "description", "default", "examples")
_LONGEST_DEFAULT = 8


def json_schema() -> dict[str, Any]:
    """Return the schema (JSON Schema draft 2020-12)."""
    schema = GatewayConfig.model_json_schema(mode="validation")
    definitions = {name: _open(definition) for name, definition in schema.pop("$defs").items()}
    definitions["Variable"] = _VARIABLE
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_open(schema),
        "title": "Gatewright configuration",
        "$defs": definitions,
    }


def _open(schema: Any) -> Any:
    """Return `schema` with `${...}` allowed wherever it wants a scalar of a certain form."""
    if not isinstance(schema, dict):
        return schema
    opened = _with_written_default(schema)
    annotations = {key: value for key, value in opened.items() if key in _ANNOTATIONS}
    rest = {key: value for key, value in opened.items() if key not in _ANNOTATIONS}
    if _is_narrow(rest):
        return {**annotations, "anyOf": [rest, _VARIABLE_REF]}
    if "anyOf" in rest:
        return {**_open_choice(rest["anyOf"]), **annotations}
    for key in ("properties", "patternProperties"):
        if key in rest:
            rest[key] = {name: _open(value) for name, value in rest[key].items()}
    for key in ("items", "additionalProperties"):
        if key in rest:
            rest[key] = _open(rest[key])
    return {**rest, **annotations}


def _open_choice(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is left of a choice: null is none, since a key without a value is refused."""
    kept = [choice for choice in choices if choice != {"type": "null"}]
    if len(kept) == 1:
        opened: dict[str, Any] = _open(kept[0])
        return opened
    variable = [_VARIABLE_REF] if any(_is_narrow(choice) for choice in kept) else []
    return {"anyOf": [choice if _is_narrow(choice) else _open(choice) for choice in kept] + variable}


def _with_written_default(schema: dict[str, Any]) -> dict[str, Any]:
    """Return `schema` with its default as a file would write it, or without one that a file could not."""
    default = schema.get("default")
    if default is None or isinstance(default, dict) or (isinstance(default, list) and len(default) > _LONGEST_DEFAULT):
        return {key: value for key, value in schema.items() if key != "default"}
    patterns = {choice.get("pattern") for choice in [schema, *schema.get("anyOf", ())]}
    known = patterns & {DURATION_PATTERN, SIZE_PATTERN, SHARE_PATTERN}
    if known and isinstance(default, int | float):
        return {**schema, "default": in_words(default, known.pop())}
    return schema


def _is_narrow(schema: dict[str, Any]) -> bool:
    kind = schema.get("type")
    if kind in ("integer", "number", "boolean"):
        return True
    return kind in ("string", None) and any(key in schema for key in ("pattern", "enum", "const", "format"))
