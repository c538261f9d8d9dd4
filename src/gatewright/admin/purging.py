"""The route of the admin API that has caches forget: what a URL, a prefix of URLs or a tag names, or everything.

It owns the form of such a wish and brings it into the form in which caches keep their keys. `app.make_app` adds it.
"""

from typing import Any, cast

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, field_validator

from gatewright.admin.openapi import refusals
from gatewright.admin.operations import Operations, View
from gatewright.admin.problems import Refused
from gatewright.core.errors import RequestError
from gatewright.core.target import parse_target
from gatewright.plugins.cache.store import PurgeKind

_URL = r"^[Hh][Tt][Tt][Pp][Ss]?://[!-~]+$"
_TAG = r"^[^\x00-\x20\x7f]([^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?$"


def _no_default(schema: dict[str, Any]) -> None:
    del schema["default"]  # what is left out asks for nothing


def _only_true(schema: dict[str, Any]) -> None:
    _no_default(schema)
    schema["const"] = True


class Purge(BaseModel):
    """What to forget: exactly one of these."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1, "maxProperties": 1})

    url: StrictStr = Field(
        "",
        pattern=_URL,
        description="A URL as clients ask for it, with port and query where they have one",
        json_schema_extra=_no_default,
    )
    prefix: StrictStr = Field(
        "",
        pattern=_URL,
        description="The beginning of URLs, such as https://shop/items/",
        json_schema_extra=_no_default,
    )
    tag: StrictStr = Field(
        "", pattern=_TAG, description="A word of Surrogate-Key or Cache-Tag", json_schema_extra=_no_default
    )
    all: StrictBool = Field(True, description="true: everything", json_schema_extra=_only_true)

    @field_validator("all")
    @classmethod
    def _true(cls, everything: bool) -> bool:  # not a Literal[True]: that takes 1 as well
        if not everything:
            raise ValueError("must be true; leave it out for nothing")
        return everything

    @field_validator("prefix")
    @classmethod
    def _as_kept(cls, prefix: str) -> str:
        scheme, _, rest = prefix.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme.lower()}://{host.lower()}{slash}{path}"


class PurgeView(View):
    """What was asked of all workers."""

    kind: PurgeKind
    value: str = Field(description="What is looked for, in the form in which it is kept; empty with kind all")
    workers: int = Field(description="How many workers have done it")


def add_purging(app: FastAPI, operations: Operations) -> None:
    """Add the route to `app`."""

    @app.post("/cache/purge", tags=["cache"], status_code=202, responses=refusals(413, 415, 422, 503))
    async def purge(wish: Purge) -> PurgeView:
        """Have the caches of all workers, and their Redis, forget answers.

        With the answer every worker's memory is purged; Redis follows. What is being fetched meanwhile is not stored.
        """
        given = set(wish.model_fields_set)
        if len(given) != 1:
            raise Refused(422, "invalid_request", "Say what to forget: one of url, prefix, tag and all")
        kind = cast("PurgeKind", given.pop())
        value = {"url": wish.url and _key(wish.url), "prefix": wish.prefix, "tag": wish.tag, "all": ""}[kind]
        workers = await operations.purge(kind, value)
        if not workers:
            raise Refused(503, "not_ready", "Nothing was purged", reasons=["no worker serves"])
        return PurgeView(kind=kind, value=value, workers=workers)


def _key(url: str) -> str:
    """Return `url` as a request's would be: host in lower case, path normalised. Raises Refused."""
    try:
        target = parse_target(url.encode("ascii"), "GET")
    except RequestError as error:
        raise Refused(422, "invalid_request", f"url is none that a client can ask for: {error.detail}") from None
    assert target.authority is not None
    query = "" if target.query is None else f"?{target.query}"
    return f"{target.scheme}://{target.authority.decode('ascii').lower()}{target.path}{query}"
