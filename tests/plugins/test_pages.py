"""The pages of the built-in plugins are what their code says, complete, and their examples are configurations."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from gatewright.control.loader import load
from gatewright.control.snapshot import try_build
from gatewright.core.errors import REASONS, Reason
from gatewright.plugins import registry
from scripts.plugin_pages import FOLDER, MARK, _models_in, kept_of, page

SOURCE = Path(registry.__file__).parent
METRICS = (FOLDER.parent / "metrics.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (?:`(.*?)`)? \| (.*) \|$", re.MULTILINE)  # setting, type, default, meaning
SAMPLES = {
    "duration": ("3s", 3),
    "size": ("64KiB", "64"),
    "share": ("10%", 0.1),
    "whole number": (5, "five"),
    "true or false": (True, "yes, do"),
}
ENVIRON = {"JWT_SECRET": "0123456789" * 7, "REDIS_URL": "redis://127.0.0.1:6379/0"}


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text()


def models_of(name: str) -> list[type[BaseModel]]:
    """The model of a plugin's settings, and those within it."""
    model = registry.resolve(name, None, Path()).config_model
    inner = [each for field in model.model_fields.values() for each in _models_in(field.annotation)]
    return list(dict.fromkeys([model, *inner]))


def settings() -> Iterator[Any]:
    for name in registry.BUILT_IN:
        for model in models_of(name):
            for key in model.model_fields:
                yield pytest.param(name, model, key, id=f"{name} {model.__name__}.{key}")


def test_there_is_a_page_for_every_built_in_plugin_and_no_other() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == set(registry.BUILT_IN)


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_the_page_is_what_the_code_says(name: str) -> None:
    text = text_of(name)
    assert text.count(MARK) == 1
    assert text == page(name, kept_of(text)), "run `make docs`"


EXAMPLES = [
    pytest.param(name, block, id=f"{name} {number}")
    for name in registry.BUILT_IN
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", text_of(name), re.DOTALL))
]


@pytest.mark.parametrize(("name", "block"), EXAMPLES)
def test_an_example_is_a_good_configuration(name: str, block: str, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(block)
    loaded = load(tmp_path / "gateway.yaml", ENVIRON)
    assert [str(error) for error in loaded.errors] == []
    assert loaded.config is not None
    try_build(loaded.config, tmp_path)


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_there_is_an_example_above_the_mark(name: str) -> None:
    assert f"  - {name}:" in text_of(name).partition(MARK)[0]


@pytest.mark.parametrize(("name", "model", "key"), [*settings()])
def test_a_setting_is_described_and_takes_what_the_page_says(name: str, model: type[BaseModel], key: str) -> None:
    rows = [row for row in ROW.findall(text_of(name)) if row[0] == key]
    field = model.model_fields[key]
    assert field.description
    (kind, default) = next((row[1], row[2]) for row in rows if row[3] == field.description.replace("|", "\\|"))
    takes = TypeAdapter(Annotated[field.annotation, field])  # type: ignore[name-defined]
    if default:
        assert takes.validate_python(yaml.safe_load(default)) == field.default
    else:
        assert field.get_default(call_default_factory=True) in (None, "", (), [], {}) or list(
            _models_in(field.annotation)
        )
    good, bad = next((pair for word, pair in SAMPLES.items() if kind.startswith(word)), (None, None))
    if good is not None:
        takes.validate_python(good)
        with pytest.raises(ValidationError):
            takes.validate_python(bad)
    for value in re.findall(r"`(\w+)`", kind.removeprefix("list of ")) if kind.startswith(("`", "list of `")) else ():
        takes.validate_python([value] if kind.startswith("list") else value)


# What the code says beside its docstrings


def nodes(name: str) -> Iterator[ast.AST]:
    """Everything in the modules of a plugin."""
    for path in [*SOURCE.glob(f"{name}*.py"), *SOURCE.glob(f"{name}/*.py")]:
        yield from ast.walk(ast.parse(path.read_text()))


def calls(name: str, *methods: str) -> Iterator[ast.Call]:
    for node in nodes(name):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in methods:
            yield node


def constant(node: ast.AST) -> Any:
    return node.value if isinstance(node, ast.Constant) else None


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_every_refusal_is_on_the_page(name: str) -> None:
    text = text_of(name)
    for call in calls(name, "reject"):
        reason = constant(call.args[1])
        assert reason is None or f"| `{reason}` | {constant(call.args[0])} |" in text
    said = {constant(node) for node in nodes(name)}
    for reason in Reason:
        if reason.value in said or f"| `{reason.value}` |" in text:
            assert f"| `{reason.value}` | {REASONS[reason].status} |" in text


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_every_metric_is_on_the_page(name: str) -> None:
    text = text_of(name)
    for call in calls(name, "counter", "count", "age"):
        if call.args and isinstance(constant(call.args[0]), str) and call.keywords:
            end = "age_seconds" if call.func.attr == "age" else "total"  # type: ignore[attr-defined]
            labels = ", ".join(f"`{keyword.arg}`" for keyword in call.keywords)
            assert f"| `gateway_{constant(call.args[0])}_{end}` | {labels} |" in text
    for metric, labels in re.findall(r"^\| `(gateway_\w+)` \| (.*?) \|", text, re.MULTILINE):
        assert re.search(rf"^\| `{metric}` \| \w+ \| {labels} \|", METRICS, re.MULTILINE)
