"""Writes docs/plugins/NAME.md of every built-in plugin from what its code says: `python -m scripts.plugin_pages`.

From the module's docstring come the first paragraph and the example, from the class's what it does, its refusals and
metrics, from the model the settings. What stands below MARK in a page is written by hand, and kept.
"""

import inspect
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gatewright.core.units import DURATION_PATTERN, SHARE_PATTERN, SIZE_PATTERN, in_words
from gatewright.plugins import registry

FOLDER = Path(__file__).parents[1] / "docs" / "plugins"
MARK = "<!-- What is above, `make docs` writes from the plugin's code. What is below is written by hand. -->"
_QUANTITIES = {
    DURATION_PATTERN: ("duration", "`250ms`, `3s`, `5m`, `1h` or `1d`"),
    SIZE_PATTERN: ("size", "`64KiB`, `10MB` or as a number of bytes"),
    SHARE_PATTERN: ("share", "`10%`"),
}
_PLAIN = {"string": "text", "boolean": "true or false", "integer": "whole number", "number": "number"}
_SECTION = re.compile(r"^(Refusals|Metrics):\n((?:[ ]{4}.*\n?)+)", re.MULTILINE)
_REFUSAL = re.compile(r"([0-9]{3}) (\w+): (.+)")
_METRIC = re.compile(r"(\w+)(?: \(([\w, ]+)\))?: (.+)")


def page(name: str, kept: str = "") -> str:
    """Return the page of a built-in plugin; `kept` is what follows the mark."""
    plugin = registry.resolve(name, None, Path())
    first, *others = (sys.modules[plugin.__module__].__doc__ or "").strip().split("\n\n")
    about = first.removeprefix(f"`{name}`: ")
    examples = [block for each in others if (block := dedent(each)).startswith("plugins:\n")]
    text = inspect.cleandoc(plugin.__doc__ or "") + "\n"
    sections = dict(_SECTION.findall(text))
    parts = [
        f"# {name}",
        about[0].upper() + about[1:],
        *(f"```yaml\n{example}\n```" for example in examples),
        _SECTION.sub("", text).strip(),
        "## Settings",
        *_settings(plugin.config_model),
        "## Refusals",
        _refusals(sections.get("Refusals", "")),
        "## Metrics",
        _metrics(sections.get("Metrics", "")),
        MARK,
    ]
    return "\n\n".join(part for part in parts if part) + "\n" + kept


# Settings


def _settings(model: type[BaseModel]) -> Iterator[str]:
    _, _, more = inspect.cleandoc(model.__doc__ or "").partition(". ")
    inner: dict[type[BaseModel], list[str]] = {}
    for key, field in model.model_fields.items():
        for each in _models_in(field.annotation):
            inner.setdefault(each, []).append(key)
    shared = {name for each in inner if issubclass(model, each) for name in each.model_fields}
    yield more
    tables = [_table(model, without=shared)]
    for each, keys in inner.items():
        where = " and ".join(f"`{key}`" for key in keys)
        direct = ", or directly" if issubclass(model, each) else ""
        tables += [f"In {where}{direct}:", _table(each)]
    yield from tables
    typed = "".join(row.split(" | ")[1] for table in tables for row in table.splitlines() if " | " in row)
    told = [f"A {name} is written {words}." for name, words in _QUANTITIES.values() if name in typed]
    yield " ".join(told)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _table(model: type[BaseModel], without: Collection[str] = ()) -> str:
    schemas = model.model_json_schema()["properties"]
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        if key not in without:
            default = _default(field, schemas[key])
            shown = f"`{default}`" if default else ""
            rows.append(f"| `{key}` | {_type(schemas[key])} | {shown} | {_cell(field.description or '')} |")
    return "\n".join(rows)


def _type(schema: dict[str, Any]) -> str:
    """Return a type in the words of the configuration."""
    forms = [form for form in schema.get("anyOf", [schema]) if form.get("type") != "null"]
    if (pattern := _pattern(schema)) is not None:
        return _QUANTITIES[pattern][0] + (" or 0" if {"const": 0} in forms else "")
    return ", or ".join(_form(form) for form in forms)


def _form(form: dict[str, Any]) -> str:
    if "$ref" in form:
        return "mapping"
    if "enum" in form:
        *most, last = [f"`{value}`" for value in form["enum"]]
        return f"{', '.join(most)} or {last}" if most else last
    if form.get("type") == "array":
        bound = f", at most {form['maxItems']}" if "maxItems" in form else ""
        return f"list of {_many(_type(form['items']))}{bound}"
    if form.get("type") == "object":
        inner = form.get("additionalProperties")
        return f"mapping of names to {_many(_type(inner))}" if isinstance(inner, dict) else "mapping of names to values"
    words = _PLAIN[form["type"]]
    if examples := form.get("examples"):
        words += f" such as `{examples[0]}`"
    for word, end in (("from", "minimum"), ("to", "maximum")):
        words += f" {word} {form[end]}" if end in form else ""
    return words


def _many(words: str) -> str:
    return {"text": "texts", "mapping": "mappings"}.get(words, words)


def _pattern(schema: dict[str, Any]) -> str | None:
    """Return the pattern of a quantity's text, if the schema is that of one."""
    found = (form.get("pattern") for form in schema.get("anyOf", [schema]))
    return next((pattern for pattern in found if pattern in _QUANTITIES), None)


def _default(field: FieldInfo, schema: dict[str, Any]) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        pattern = _pattern(schema)
        return in_words(value, pattern) if pattern is not None else str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]" if value else ""
    return value if isinstance(value, str) else ""


# Refusals and metrics


def _refusals(section: str) -> str:
    rows = [f"| `{reason}` | {status} | {_cell(when)} |" for status, reason, when in _lines(section, _REFUSAL)]
    return "\n".join(["| reason | status | when |", "|---|---|---|", *rows]) if rows else "None of its own."


def _metrics(section: str) -> str:
    rows = []
    for metric, labels, what in _lines(section, _METRIC):
        shown = ", ".join(f"`{label}`" for label in labels.split(", ")) if labels else ""
        rows.append(f"| `{metric}` | {shown} | {_cell(what)} |")
    return "\n".join(["| metric | labels | what it tells |", "|---|---|---|", *rows]) if rows else "None of its own."


def _lines(section: str, form: re.Pattern[str]) -> Iterator[tuple[str, ...]]:
    """Yield what a section's entries say; a line that is indented further goes on with the entry above."""
    for entry in inspect.cleandoc(re.sub(r"\n {5,}", " ", section)).splitlines():
        match = form.fullmatch(entry)
        if match is None:
            raise ValueError(f"{entry!r} is not in the form of its section")
        yield tuple(part or "" for part in match.groups())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def kept_of(text: str) -> str:
    """Return what follows the mark in a page."""
    return text.partition(f"{MARK}\n")[2]


def main() -> None:
    """Write the pages that are not as the code has them."""
    FOLDER.mkdir(exist_ok=True)
    for name in registry.BUILT_IN:
        path = FOLDER / f"{name}.md"
        old = path.read_text() if path.exists() else ""
        new = page(name, kept_of(old))
        if new != old:
            path.write_text(new)
            print(f"wrote {path.relative_to(FOLDER.parents[1])}")


if __name__ == "__main__":
    main()
