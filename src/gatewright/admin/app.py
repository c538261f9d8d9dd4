"""The admin API as an ASGI application: the guard around it, the routes in it, its documents.

The supervisor makes it on its operations and has `server.AdminServer` serve it. It holds no state of its own.
"""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse

from gatewright.admin import openapi
from gatewright.admin.configuring import add_configuring
from gatewright.admin.operations import Operations
from gatewright.admin.problems import install
from gatewright.admin.purging import add_purging
from gatewright.admin.reading import add_reading
from gatewright.admin.security import Access, Guard
from gatewright.admin.targets import add_targets


def make_app(operations: Operations, access: Access) -> FastAPI:
    """Return the API on `operations`, for those whom `access` lets in."""
    app = FastAPI(
        title="Gatewright admin API",
        version=version("gatewright"),
        openapi_url=None,  # served below, with what FastAPI does not know
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    install(app)
    # On the application itself rather than on routers, so that a 405 can name the methods of every route of a path.
    add_reading(app, operations)
    add_targets(app, operations)
    add_configuring(app, operations)
    add_purging(app, operations)
    _document(app)
    app.add_middleware(Guard, access=access)
    return app


def _document(app: FastAPI) -> None:
    described: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not described:
            described.update(openapi.describe(app))
        return described

    app.openapi = document  # type: ignore[method-assign]

    @app.get("/openapi.json", include_in_schema=False)
    async def as_json() -> JSONResponse:
        return JSONResponse(document())

    @app.get("/docs", include_in_schema=False)
    async def as_page() -> HTMLResponse:
        return HTMLResponse(openapi.page(document()))
