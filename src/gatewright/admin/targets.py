"""The routes of the admin API about targets: their condition, and to drain, enable or weight one.

`app.make_app` adds them.
"""

from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from gatewright.admin.openapi import refusals
from gatewright.admin.operations import Operations, TargetView, UnknownTarget
from gatewright.admin.problems import Refused
from gatewright.admin.reading import unknown


class TargetChange(BaseModel):
    """What to change of a target; what is left out stays as it is. It holds until the gateway ends."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1})

    draining: StrictBool = Field(False, description="true: it finishes what it has and gets nothing new")
    weight: Annotated[StrictInt, Field(ge=0, le=65535)] = Field(
        0, description="Its share beside the others' weights; 0: it gets nothing"
    )


def add_targets(app: FastAPI, operations: Operations) -> None:
    """Add the routes to `app`."""

    async def of_service(name: str) -> list[TargetView]:
        known = (await operations.current()).config.services
        if name not in known:
            raise unknown("service", name, list(known))
        return [target for target in await operations.targets() if target.service == name]

    @app.get("/targets", tags=["targets"])
    async def every() -> list[TargetView]:
        """List the targets of all services, as all workers together see them."""
        return await operations.targets()

    @app.get("/services/{name}/targets", tags=["targets"], responses=refusals(404))
    async def of_one(name: str) -> list[TargetView]:
        """List the targets of a service."""
        return await of_service(name)

    @app.get("/services/{name}/targets/{target}", tags=["targets"], responses=refusals(404))
    async def one(name: str, target: str) -> TargetView:
        """Show a target."""
        found = await of_service(name)
        for view in found:
            if view.name == target:
                return view
        raise unknown(f"target of {name}", target, [view.name for view in found])

    @app.patch("/services/{name}/targets/{target}", tags=["targets"], responses=refusals(404, 413, 415, 422))
    async def change(name: str, target: str, change: TargetChange) -> TargetView:
        """Drain, enable or weight a target, in every worker at once."""
        given = change.model_fields_set
        if not given:
            raise Refused(422, "invalid_request", "Say what to change: draining, weight or both")
        service = (await operations.current()).config.services.get(name)
        if service is not None and service.app == target:
            detail = f"{target} is an application within the workers: it can be neither drained nor weighted"
            raise Refused(422, "invalid_request", detail)
        try:
            return await operations.set_target(
                name,
                target,
                change.draining if "draining" in given else None,
                change.weight if "weight" in given else None,
            )
        except UnknownTarget:
            raise unknown(f"target of {name}", target, [view.name for view in await of_service(name)]) from None
