"""How the admin API says no: application/problem+json (RFC 9457), in the members that the gateway's own answers have.

It owns the reasons that only the admin API knows, and the handlers that put what FastAPI raises into this form. The
guard and the routes answer with it; it knows none of them.
"""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from gatewright.admin.operations import ErrorView
from gatewright.control.errors import ConfigError, path_text
from gatewright.core.errors import REASONS
from gatewright.core.exchange import PROBLEM
from gatewright.core.text import printable

TITLES = {
    "not_found": "Not found",
    "invalid_request": "Invalid request",
    "unauthorized": "Token missing or wrong",
    "loopback_only": "Reached from this machine only",
    "wrong_host": "Host not known here",
    "cross_site": "Cross-site request refused",
    "unsupported_media_type": "Media type not taken",
    "invalid_configuration": "Configuration not valid",
    "version_required": "If-Match required",
    "version_mismatch": "Configuration has changed meanwhile",
    "not_ready": "Not ready",
}
_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


class Problem(BaseModel):
    """Why a request was not served."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description="urn:gatewright:reason: and the reason")
    title: str
    status: int
    detail: str = Field(description="A sentence for people")
    reason: str = Field(description="A stable word for programs")
    request_id: str = Field(description="Also in X-Request-ID, and in the gateway's log where it failed")
    errors: list[ErrorView] | None = Field(
        None, description="With invalid_configuration: what is wrong, as far as anybody reads"
    )
    fields: list[str] | None = Field(None, description="With invalid_request: what is wrong, member by member")
    reasons: list[str] | None = Field(None, description="With not_ready: why not")


class Refused(Exception):
    """Ends a request with a problem."""

    def __init__(
        self, status: int, reason: str, detail: str, headers: dict[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.headers = headers
        self.members = members


def problem(refused: Refused, request_id: str) -> JSONResponse:
    """Return the answer that says why; members that say nothing are left out."""
    info = REASONS.get(refused.reason)
    title = TITLES.get(refused.reason) or (info.title if info is not None else refused.reason)
    content = Problem(
        type=f"urn:gatewright:reason:{refused.reason}",
        title=title,
        status=refused.status,
        detail=printable(refused.detail),
        reason=refused.reason,
        request_id=request_id,
        **refused.members,
    )
    return JSONResponse(content.model_dump(exclude_none=True), refused.status, refused.headers, media_type=PROBLEM)


def invalid_configuration(errors: list[ConfigError]) -> Refused:
    """Return the refusal of a configuration that has errors."""
    count = f"{len(errors)} error{'s' if len(errors) != 1 else ''}"
    detail = f"The configuration has {count}; nothing was changed"
    views = [ErrorView.of(error) for error in errors]
    return Refused(422, "invalid_configuration", detail, errors=views)


def install(app: FastAPI) -> None:
    """Have `app` answer what it raises in this form. What nobody expected, the guard answers."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return problem(error, request.state.request_id)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # FastAPI's word for JSON that is no UTF-8, or nested without end
        return problem(
            Refused(422, "invalid_request", "The body is not JSON that can be read"), request.state.request_id
        )
    reason = _BY_STATUS.get(error.status_code, "invalid_request")
    details = {
        404: f"There is nothing at {request.url.path}; /docs lists what there is",
        405: f"{request.url.path} does not take this method",
    }
    detail = details.get(error.status_code, str(error.detail) or HTTPStatus(error.status_code).phrase)
    headers = {"Allow": ", ".join(_allowed(request))} if error.status_code == 405 else None
    return problem(Refused(error.status_code, reason, detail, headers), request.state.request_id)


def _allowed(request: Request) -> list[str]:
    """Return the methods of all routes for this path; Starlette names those of the first only."""
    found: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods
    return sorted(found | {"HEAD"} if "GET" in found else found)


async def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # pydantic's messages, without the input: it may be anything, also a secret in the wrong place.
    fields = [printable(f"{path_text(tuple(item['loc']))}: {item['msg']}") for item in error.errors()]
    detail = "The request is not what this operation takes"
    return problem(Refused(422, "invalid_request", detail, fields=fields), request.state.request_id)
