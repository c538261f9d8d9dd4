"""The OpenAPI document of the admin API, and a page that shows it without a script from anywhere.

FastAPI writes the document; here it learns the form of refusals, and that there is a token. FastAPI's own page loads
scripts from another host, which an API that guards a gateway must not do. `app.make_app` and the routes use it.
"""

from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gatewright.admin.problems import Problem
from gatewright.core.exchange import PROBLEM

_ANY_CONFIG = {"schema": {"type": "object", "additionalProperties": True}}
CONFIG_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A configuration; GET /schema describes it",
        "content": {"application/yaml": {"schema": {"type": "string"}}, "application/json": _ANY_CONFIG},
    }
}
_REFUSALS = {
    401: "The token is missing or wrong",
    403: "The request comes from a page of another origin, or from another machine without a token",
    404: "There is nothing of this name",
    412: "The configuration is another version by now",
    413: "The body is too large",
    415: "The body is of a media type that is not taken",
    421: "The Host is not known here",
    422: "The request, or the configuration, is not valid",
    428: "If-Match is missing",
    500: "The request failed within the gateway",
    503: "Not ready",
}
_ALWAYS = (401, 403, 421, 500)
_OPEN = ("/healthz", "/readyz")
_METHODS = ("get", "put", "post", "patch", "delete")
_DESCRIPTION = """
What the gateway does, shown and changed. Errors are application/problem+json. Where the configuration has
`admin.token`, send `Authorization: Bearer <token>`. Pages of other origins are refused.
"""


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what a route declares of the problems that it answers with."""
    content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _REFUSALS[status], "content": content} for status in statuses}


def header_field(name: str, description: str, required: bool = False) -> dict[str, Any]:
    """Return what a route declares of a header field that it reads itself."""
    field = {"name": name, "in": "header", "required": required, "description": description}
    return {"parameters": [field | {"schema": {"type": "string"}}]}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the document for the routes of `app`."""
    document = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION.strip(), routes=app.routes)
    for path, _, operation in _operations(document):
        responses = operation["responses"]
        if PROBLEM not in responses.get("422", {}).get("content", {PROBLEM: ()}):
            del responses["422"]  # FastAPI adds it for any parameter, also for a text that cannot be wrong
        for status, response in refusals(*_ALWAYS).items():
            if not (status == 401 and path in _OPEN):
                responses.setdefault(str(status), response)
        operation["security"] = [{}] if path in _OPEN else [{"token": []}, {}]
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    found = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(found.pop("$defs", {}))
    schemas["Problem"] = found
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "description": "admin.token"}}
    return document


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


def page(document: dict[str, Any]) -> str:
    """Return the document as a page: an entry an operation."""
    entries = "".join(
        f"<section><h2>{method.upper()} <code>{escape(path)}</code></h2>"
        f"<p>{escape(operation.get('description', ''))}</p>{_parameters(operation)}{_answers(operation)}</section>"
        for path, method, operation in _operations(document)
    )
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>'
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "h2{font-size:1.1rem;margin:2rem 0 0}table{border-collapse:collapse}td{padding:0 1rem 0 0;vertical-align:top}"
        f"</style><h1>{title}</h1><p>{escape(document['info']['description'])}</p>"
        f'<p><a href="openapi.json">openapi.json</a></p>{entries}</html>\n'
    )


def _parameters(operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(item['name'])}</code><td>{escape(item['in'])}<td>{escape(item.get('description', ''))}"
        for item in operation.get("parameters", ())
    )
    kinds = ", ".join(operation.get("requestBody", {}).get("content", ()))
    return f"<table>{rows}</table>" * bool(rows) + f"<p>Body: <code>{escape(kinds)}</code></p>" * bool(kinds)


def _answers(operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(status)}<td>{escape(response['description'])}"
        for status, response in sorted(operation["responses"].items())
    )
    return f"<table>{rows}</table>"
