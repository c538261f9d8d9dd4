"""The JSON Schema: what an editor would say is what the loader says."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gatewright.control.schema import json_schema
from tests.control.sample import FULL, load_text

SCHEMA = json_schema()


def walk(node: Any) -> list[dict[str, Any]]:
    """Return every mapping in a schema."""
    if isinstance(node, list):
        return [found for item in node for found in walk(item)]
    if not isinstance(node, dict):
        return []
    return [node, *(found for value in node.values() for found in walk(value))]


def test_every_reference_leads_somewhere() -> None:
    references = {node["$ref"] for node in walk(SCHEMA) if isinstance(node.get("$ref"), str)}
    assert references == {f"#/$defs/{name}" for name in SCHEMA["$defs"]}


def test_defaults_are_written_as_a_file_would() -> None:
    properties = SCHEMA["$defs"]["LimitsConfig"]["properties"]
    assert {
        name: properties[name]["default"] for name in ("body", "header_timeout", "request_line", "header_count")
    } == {
        "body": "10MiB",
        "header_timeout": "10s",
        "request_line": "8KiB",
        "header_count": 100,
    }
    assert SCHEMA["$defs"]["OutlierConfig"]["properties"]["max_ejected"]["default"] == "50%"


def test_null_is_no_value() -> None:
    assert not any(node.get("type") == "null" for node in walk(SCHEMA))


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (FULL, True),
        ("routes: [{name: a, match: {path: /a}, service: a, respond: {}}]", False),
        ("services: {a: {}}", False),
        ("services: {a: {targets: [http://a], max_in_flight: '${MAX:-5}'}}", None),
        ("services: {a: {targets: [http://a], timeouts: {connect: 3}}}", False),
        ("services: {a: {targets: [http://a], timeouts: {conect: 3s}}}", False),
        ("services: {a: {targets: [http://a], balance: sticki}}", False),
        ("limits: {body: unlimited}", True),
        ("limits: {body: 10 MB}", False),
        ("access_log: true", True),
        ("plugins: [plain, {plain: }, {use: 'a:B', size: 5}]", True),
        ("plugins: [{plain: {}, settled: {}}]", False),
        ("workers: auto\nadmin: {bind: '127.0.0.1:0', token: ''}\nshutdown: {delay: 5s, grace: 0}\nwatch: false", True),
        ("workers: 0", False),
        ("admin: false", True),
        ("admin: {token: short}", False),
        ("admin: {token: '${T:-}'}", None),
        ("workers: ${W:-2}", None),
        ("worker: 1", False),
    ],
)
def test_editor_and_loader_agree(tmp_path: Path, text: str, good: bool | None) -> None:
    """None: only the loader knows, because what counts is behind a variable."""
    jsonschema = pytest.importorskip("jsonschema")
    errors = list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(core_yaml(text)))
    assert (errors == []) is (good is not False), errors
    if good is not None:
        assert (load_text(tmp_path, text).config is not None) == good


def core_yaml(text: str) -> Any:
    """Load YAML as editors do, by 1.2's rules: `on` is a text."""

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [(tag, expression) for tag, expression in resolvers if first not in "oOyYnN" or "bool" not in tag]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    return yaml.load(text, Loader)
