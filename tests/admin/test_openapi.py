"""The OpenAPI document is what the API does: generated requests find no failure, no undeclared status, no other schema."""

import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from gatewright.admin.app import make_app
from gatewright.admin.security import Access
from tests.kit.admin import RunningAdmin

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


def _document() -> dict[str, Any]:
    nobody: Any = None  # no operation is called to describe them
    return make_app(nobody, Access()).openapi()


OPERATIONS = [(path, method) for path, item in _document()["paths"].items() for method in item]


@pytest.fixture(scope="module")
def document(one_for_all: RunningAdmin) -> dict[str, Any]:
    return json.loads(one_for_all.ask("GET", "/openapi.json").body)


# Not by the plugin for pytest that schemathesis brings: it relies on what pytest 9 has no more.
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_generated_requests_find_nothing(
    admin: RunningAdmin, document: dict[str, Any], path: str, method: str, mode: GenerationMode
) -> None:
    operation = schemathesis.openapi.from_dict(document)[path][method]
    parameters = {"shop": "name", "10.0.0.1:8001": "target"} if method == "patch" else {}

    @settings(
        max_examples=4 if method == "get" else 20,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        for value, name in parameters.items():
            case.path_parameters[name] = value  # else all would be 404s
        case.call_and_validate(base_url=admin.url, checks=CHECKS)

    try:
        run()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # an operation without anything to be wrong


def test_every_operation_says_how_it_refuses(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            answers = operation["responses"]
            assert {"403", "421", "500"} <= answers.keys(), (method, path)
            assert ("401" in answers) == (path not in ("/healthz", "/readyz")), (method, path)
            assert operation["description"], (method, path)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_conditions_are_declared(document: dict[str, Any]) -> None:
    declared = {
        field["name"]: (method, field["required"])
        for method, operation in document["paths"]["/config"].items()
        for field in operation["parameters"]
        if field["in"] == "header"
    }
    assert declared == {"If-None-Match": ("get", False), "If-Match": ("put", True)}


def test_every_operation_is_on_the_page_of_the_docs(document: dict[str, Any]) -> None:
    text = (Path(__file__).parents[2] / "docs/admin-api.md").read_text()
    for path, item in document["paths"].items():
        for method in item:
            assert f"`{method.upper()} {path}`" in text


def test_the_page_is_complete_and_loads_nothing(admin: RunningAdmin, document: dict[str, Any]) -> None:
    answer = admin.ask("GET", "/docs")
    page = answer.body.decode()
    assert (answer.status, answer.get("content-type")) == (200, "text/html; charset=utf-8")
    for path in document["paths"]:
        assert f"<code>{path}</code>" in page
    for loading in ("<script", "<link", "src=", "@import", "url(", "//"):
        assert loading not in page.replace("<!doctype html>", "")
