"""The routes of the admin API that only show: status, routes, services, plugins, schema, health, metrics.

`app.make_app` adds them. What is shown is made in `views` and by the operations.
"""

from typing import Annotated, Any

from fastapi import FastAPI, Header, Response
from pydantic import BaseModel

from gatewright.admin import views
from gatewright.admin.openapi import refusals
from gatewright.admin.operations import Operations, StatusView
from gatewright.admin.problems import Refused
from gatewright.control.errors import closest
from gatewright.control.schema import json_schema


class Alive(BaseModel):
    """The answer of a probe."""

    status: str


def unknown(what: str, name: str, known: list[str]) -> Refused:
    """Return the refusal of a name that is not there, with the one that was probably meant."""
    meant = closest(name, known)
    hint = f"; did you mean {meant}?" if meant is not None else ""
    return Refused(404, "not_found", f"There is no {what} called {name}{hint}")


def add_reading(app: FastAPI, operations: Operations) -> None:
    """Add the routes to `app`."""
    _of_configuration(app, operations)
    _of_process(app, operations)


def _of_configuration(app: FastAPI, operations: Operations) -> None:
    @app.get("/routes", tags=["configuration"])
    async def routes() -> list[views.RouteSummary]:
        """List the routes, in the order of the configuration."""
        return views.route_summaries(await operations.current())

    @app.get("/routes/{name}", tags=["configuration"], responses=refusals(404))
    async def route(name: str) -> views.RouteView:
        """Show a route."""
        current = await operations.current()
        found = views.route_view(current, name)
        if found is None:
            raise unknown("route", name, [route.name for route in current.config.routes])
        return found

    @app.get("/services", tags=["configuration"])
    async def services() -> list[views.ServiceSummary]:
        """List the services, with how many of their targets are up."""
        return views.service_summaries(await operations.current(), await operations.targets())

    @app.get("/services/{name}", tags=["configuration"], responses=refusals(404))
    async def service(name: str) -> views.ServiceView:
        """Show a service."""
        current = await operations.current()
        found = views.service_view(current, await operations.targets(), name)
        if found is None:
            raise unknown("service", name, list(current.config.services))
        return found

    @app.get("/plugins", tags=["configuration"])
    async def plugins() -> list[views.PluginView]:
        """List the plugins that there are, and where the configuration uses them."""
        return views.plugin_views(await operations.current())

    @app.get("/schema", tags=["configuration"])
    async def schema() -> dict[str, Any]:
        """Return the JSON Schema of the configuration, for editors."""
        return json_schema()


def _of_process(app: FastAPI, operations: Operations) -> None:
    @app.get("/status", tags=["process"])
    async def status() -> StatusView:
        """Show the gateway's condition: workers, listeners, configuration, last reload."""
        return await operations.status()

    @app.get("/healthz", tags=["process"])
    async def healthz() -> Alive:
        """Tell that the supervisor lives. Needs no token."""
        return Alive(status="ok")

    @app.get("/readyz", tags=["process"], responses=refusals(503))
    async def readyz() -> Alive:
        """Tell whether new clients should be sent here: 200, or 503 with the reasons. Needs no token."""
        ready, reasons = await operations.ready()
        if not ready:
            raise Refused(503, "not_ready", "No new clients should be sent here now", reasons=reasons)
        return Alive(status="ready")

    @app.get(
        "/metrics",
        tags=["process"],
        response_class=Response,
        responses={
            200: {
                "description": "Prometheus text format, or OpenMetrics where the client asks for it",
                "content": {
                    "text/plain": {"schema": {"type": "string"}},
                    "application/openmetrics-text": {"schema": {"type": "string"}},
                },
            }
        },
    )
    async def metrics(accept: Annotated[str, Header(include_in_schema=False)] = "") -> Response:
        """Return the metrics of all workers together."""
        body, content_type = await operations.metrics(accept)
        return Response(body, headers={"content-type": content_type})
