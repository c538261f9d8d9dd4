"""The routes of the admin API about the configuration as a whole: show, validate, replace, reload.

Writes are conditional (RFC 9110 section 13): whoever replaces a configuration says in If-Match which one it has seen,
so that two people do not undo each other's changes unawares. `app.make_app` adds them.
"""

import asyncio
import json
import re
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from pydantic import Field

from gatewright.admin.effective import effective
from gatewright.admin.masking import MASK
from gatewright.admin.openapi import CONFIG_BODY, header_field, refusals
from gatewright.admin.operations import Applied, Operations, VersionMismatch, View
from gatewright.admin.problems import Refused, invalid_configuration
from gatewright.admin.security import JSON_TYPE, media_type
from gatewright.control.errors import ConfigError, first_of
from gatewright.control.loader import BODY

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_TAGS = re.compile(rf"[ \t,]*+(?:{_TAG.pattern}[ \t]*+(?:,[ \t,]*+|\Z))*+")
_ESCAPE = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|\\(.)", re.DOTALL)
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")  # not there, or not as they are: line breaks


class AppliedView(View):
    """What came of a change."""

    version: str = Field(description="Entity tag of the configuration that runs now")
    changed: bool = Field(description="false: it ran already, made from the same files")


class ValidView(View):
    """A configuration is good."""

    valid: bool = True


def add_configuring(app: FastAPI, operations: Operations) -> None:
    """Add the routes to `app`."""
    _showing(app, operations)
    _changing(app, operations)


def _showing(app: FastAPI, operations: Operations) -> None:
    @app.get(
        "/config",
        tags=["configuration"],
        responses={304: {"description": "It is still the version of If-None-Match"}},
        openapi_extra=header_field("If-None-Match", "Entity tags of GET /config, or *"),
    )
    async def show(request: Request, response: Response) -> dict[str, Any]:
        """Return the configuration that runs, with defaults filled in and secrets hidden.

        But for hidden values, it can be sent back with PUT. The ETag is its version.
        """
        current = await operations.current()
        response.headers["ETag"] = current.version
        # A weak tag may be compared here (RFC 9110 section 13.1.2).
        known = _list(request, "if-none-match")
        if known == "*" or current.version in _tags(known, weak=True):
            return Response(status_code=304, headers={"ETag": current.version})  # type: ignore[return-value]
        return effective(current.config, current.secrets)


def _changing(app: FastAPI, operations: Operations) -> None:
    @app.post("/config/validate", tags=["configuration"], responses=refusals(413, 415, 422), openapi_extra=CONFIG_BODY)
    async def validate(request: Request) -> ValidView:
        """Check a configuration, and say everything that is wrong with it. Nothing is changed."""
        errors = await operations.check(await _text(request))
        if errors:
            raise invalid_configuration(errors)
        return ValidView()

    @app.put(
        "/config",
        tags=["configuration"],
        responses=refusals(412, 413, 415, 422, 428),
        openapi_extra=CONFIG_BODY | header_field("If-Match", "The ETag of GET /config, or * for any", required=True),
    )
    async def replace(
        request: Request,
        response: Response,
        save: Annotated[bool, Query(description="Also write it to the file, once every worker can run it")] = False,
    ) -> AppliedView:
        """Replace the configuration, in every worker or in none."""
        if "if-match" not in request.headers:
            raise Refused(428, "version_required", "Send If-Match with the ETag of GET /config, or If-Match: *")
        expected = await _expected(_list(request, "if-match"), operations)
        try:
            applied = await operations.apply(await _text(request), expected, save)
        except VersionMismatch as error:
            raise _mismatch(error.version) from None
        return _done(applied, response)

    @app.post("/reload", tags=["configuration"], responses=refusals(413, 415, 422))
    async def reload(response: Response) -> AppliedView:
        """Read the configuration file again and put it in place, in every worker or in none."""
        return _done(await operations.reload(), response)


def _done(applied: Applied, response: Response) -> AppliedView:
    if applied.errors:
        raise invalid_configuration(applied.errors)
    response.headers["ETag"] = applied.version
    return AppliedView(version=applied.version, changed=applied.changed)


def _mismatch(version: str) -> Refused:
    detail = f"The configuration that runs is {version}: get it, make your change again, and send that"
    return Refused(412, "version_mismatch", detail, {"ETag": version})


async def _expected(if_match: str, operations: Operations) -> str | None:
    """Return the version that must run, None for any. Raises Refused when another one runs already."""
    if if_match == "*":
        return None
    version = (await operations.current()).version
    if version not in _tags(if_match, weak=False):
        raise _mismatch(version)
    return version


def _list(request: Request, name: str) -> str:
    """Return a request's fields of this name as the one list that they are (RFC 9110 section 5.3)."""
    return ", ".join(request.headers.getlist(name)).strip()


def _tags(field: str, weak: bool) -> list[str]:
    """Return the entity tags of If-Match or If-None-Match; none of a field that is no list of them."""
    return [tag for mark, tag in _TAG.findall(field) if weak or not mark] if _TAGS.fullmatch(field) else []


async def _text(request: Request) -> str:
    """Return the configuration in the body, as YAML text. Raises Refused."""
    kinds = request.headers.getlist("content-type")
    if not kinds:  # and so no body, else the guard had refused it
        raise invalid_configuration([ConfigError(BODY, 0, 0, "", "is empty")])
    raw = await request.body()
    return await asyncio.to_thread(_read, raw, media_type(kinds[0]) == JSON_TYPE)  # seconds for a large one


def _read(raw: bytes, is_json: bool) -> str:
    """Return the configuration as YAML text. Raises Refused."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise invalid_configuration([ConfigError(BODY, line, 1, "", "is not UTF-8 from here on")]) from None
    if is_json:
        text = _yaml_of(text)
    errors = [
        ConfigError(BODY, number, line.index(MASK) + 1, "", "holds a hidden secret: write the value, or ${VARIABLE}")
        for number, line in enumerate(text.split("\n"), start=1)
        if MASK in line
    ]
    if errors:
        raise invalid_configuration(first_of(errors))
    return text


def _yaml_of(text: str) -> str:
    """Return JSON as YAML that means the same, each value still in its line. Raises Refused."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        problem = ConfigError(BODY, error.lineno, error.colno, "", f"is not JSON: {error.msg}")
        raise invalid_configuration([problem]) from None
    except (RecursionError, ValueError):  # ValueError: a number of thousands of digits
        raise invalid_configuration([ConfigError(BODY, 0, 0, "", "is not JSON that can be read")]) from None

    # YAML has all of JSON, but not every reader takes an escaped slash, a character as two surrogates, or tabs.
    def escape(match: re.Match[str]) -> str:
        if match.group(1) is not None:
            return bytes.fromhex(match.group(1) + match.group(2)).decode("utf-16-be")
        return "/" if match.group(3) == "/" else match.group()

    text = _ESCAPE.sub(escape, text.replace("\t", " "))
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
