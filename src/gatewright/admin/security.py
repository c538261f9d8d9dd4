"""Who may talk to the admin API: the outermost layer of it, before anything of a request is looked at more closely.

It refuses what a web page in somebody's browser could send (other origins, DNS rebinding, forms), what has no token,
and bodies that are too large; it also answers for what fails unexpectedly. Pure ASGI; it knows no route but those that
need no token. `app.make_app` puts it in place.

In the order in which they are asked, once a target in absolute form has become a path and a Host:
- DNS rebinding: without a token, the Host must be a name that only this machine can mean.
- Cross-site: Origin and Sec-Fetch-Site must be absent or say that the page is the API's own, for every method.
- Token: in constant time, over digests, so that not even its length shows.
- Forms: a body, or a content type, that a form could send is refused.
"""

import hashlib
import hmac
import ipaddress
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote
from uuid import uuid4

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gatewright.admin.problems import Refused, problem
from gatewright.control.loader import MAX_FILE
from gatewright.control.process_models import is_loopback

_log = logging.getLogger("gatewright.admin")

OPEN_PATHS = frozenset(("/healthz", "/readyz"))  # probes carry no token, and learn only what they need
CONFIG_PATHS = frozenset(("/config", "/config/validate"))
YAML_TYPES = frozenset(("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"))
JSON_TYPE = "application/json"
_SMALL_BODY = 64 * 1024
_SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:@/?#\s\[\]]+)(?::[0-9]{1,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/]*)(/.*)?", re.IGNORECASE)
_ANSWER_FIELDS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)


@dataclass(slots=True)
class Access:
    """What callers must bring. Both may be set anew while the API serves: they count from the next request on.

    `token`: empty for none, and then only this machine is served. `host`: what the API is bound to, by name or address.
    """

    token: str = ""
    host: str = "127.0.0.1"


class Guard:
    """ASGI middleware; see the top of this file."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, refuse it, or refuse a WebSocket: there are none here."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _origin_form(scope)
        request_id = uuid4().hex
        answer = _Answer(send, request_id)
        try:
            _check(scope, self._access)
            if scope["method"] not in _SAFE:
                receive = await _read(scope, receive)
            # A copy, so that the server still knows a HEAD and leaves out the body.
            inner = {**scope, "state": {**scope.get("state", {}), "request_id": request_id}}
            if scope["method"] == "HEAD":
                inner["method"] = "GET"
            await self._app(inner, receive, answer.send)
        except _Gone:
            return
        except Refused as refused:
            await problem(refused, request_id)(scope, receive, answer.send)
        except Exception:
            _log.exception("%s %s failed (request %s)", scope["method"], scope["path"], request_id)
            if not answer.begun:
                await _failed(request_id)(scope, receive, answer.send)


class _Gone(Exception):
    """The client went away before its request was complete."""


class _Answer:
    """The way back: it adds the fields that every answer has."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._fields = [*_ANSWER_FIELDS, (b"x-request-id", request_id.encode())]
        self.begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            message = {**message, "headers": [*message.get("headers", ()), *self._fields]}
        await self._send(message)


def _failed(request_id: str) -> JSONResponse:
    detail = f"The request failed within the gateway; its log says more, under {request_id}"
    return problem(Refused(500, "internal_error", detail), request_id)


def _origin_form(scope: Scope) -> Scope:
    """Return `scope` with a path; of an absolute target the host counts, not the field (RFC 9112 section 3.2.2)."""
    absolute = _ABSOLUTE.fullmatch(scope["raw_path"])
    if absolute is None:
        return scope
    host, path = absolute.group(1), absolute.group(2) or b"/"
    fields = [(b"host", host), *(field for field in scope["headers"] if field[0] != b"host")]
    return {**scope, "path": unquote(path.decode("ascii")), "raw_path": path, "headers": fields}


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]


def _check(scope: Scope, access: Access) -> None:
    """Raise Refused for a request that may not come in."""
    hosts = _values(scope, b"host")
    if not access.token:
        _check_local(scope, hosts, access.host)
    _check_site(scope, hosts)
    if access.token and scope["path"] not in OPEN_PATHS:
        _check_token(_values(scope, b"authorization"), access.token)
    if scope["method"] not in _SAFE:
        _check_type(scope)


def _check_local(scope: Scope, hosts: list[str], bound: str) -> None:
    client = scope.get("client")
    if client is not None and not _is_loopback(client[0]):
        raise Refused(403, "loopback_only", "Without `admin.token` the API serves this machine only")
    # A page whose own name was made to resolve to 127.0.0.1 is same-origin for its browser, but the name gives it away.
    match = _AUTHORITY.fullmatch(hosts[0]) if len(hosts) == 1 else None
    name = match.group(1).strip("[]").lower() if match is not None else ""
    if not (_is_loopback(name) or name == bound.lower()):
        raise Refused(421, "wrong_host", "Without `admin.token` the API answers to localhost, 127.0.0.1 and [::1] only")


def _is_loopback(host: str) -> bool:
    try:
        mapped = getattr(ipaddress.ip_address(host), "ipv4_mapped", None)  # of a listener for both families
    except ValueError:
        mapped = None
    return is_loopback(str(mapped) if mapped is not None else host)


def _check_site(scope: Scope, hosts: list[str]) -> None:
    """Refuse what a page of another origin has its browser send. No CORS field is ever sent, so none is let in."""
    for site in _values(scope, b"sec-fetch-site"):
        if site not in ("same-origin", "none"):
            raise Refused(403, "cross_site", "The API takes no requests from pages of other sites")
    own = {f"{scheme}://{host.lower()}" for host in hosts for scheme in ("http", "https")}
    for origin in _values(scope, b"origin"):
        if origin.lower() not in own:
            raise Refused(403, "cross_site", "The API takes no requests from pages of other origins")


def _check_token(fields: list[str], token: str) -> None:
    scheme, _, given = fields[0].partition(" ") if len(fields) == 1 else ("", "", "")
    # Digests have one length, and comparing them tells nothing about how far a guess was right.
    digests = [hashlib.sha256(text.strip().encode("latin-1", "replace")).digest() for text in (given, token)]
    right = hmac.compare_digest(*digests)
    if right and scheme.lower() == "bearer":
        return
    challenge = 'Bearer realm="gatewright"' + (', error="invalid_token"' if given else "")
    detail = "This token is not the one of `admin.token`" if given else "Send `Authorization: Bearer <admin.token>`"
    raise Refused(401, "unauthorized", detail, {"WWW-Authenticate": challenge})


def _check_type(scope: Scope) -> None:
    """Refuse what a form can send; browsers ask before they send anything else to another site, and are told no."""
    types = _values(scope, b"content-type")
    is_config = scope["path"] in CONFIG_PATHS
    taken = {JSON_TYPE, *YAML_TYPES} if is_config else {JSON_TYPE}
    told = f"{JSON_TYPE} or application/yaml" if is_config else JSON_TYPE
    if len(types) > 1 or any(media_type(value) not in taken for value in types):
        raise Refused(415, "unsupported_media_type", f"A body must be {told} here")
    if not types and _has_body(scope):
        raise Refused(415, "unsupported_media_type", f"A body needs a Content-Type here: {told}")


def media_type(value: str) -> str:
    """Return the media type of a Content-Type field, without its parameters."""
    return value.partition(";")[0].strip().lower()


def _has_body(scope: Scope) -> bool:
    return any(value != "0" for value in _values(scope, b"content-length")) or bool(
        _values(scope, b"transfer-encoding")
    )


async def _read(scope: Scope, receive: Receive) -> Receive:
    """Return a `receive` that has the whole body at hand. Raises Refused past the limit, _Gone without a client."""
    limit = MAX_FILE if scope["path"] in CONFIG_PATHS else _SMALL_BODY
    too_large = Refused(413, "body_too_large", f"A body has at most {limit // 1024} KiB here")
    if any(len(length) > 12 or int(length) > limit for length in _values(scope, b"content-length")):
        raise too_large
    body = bytearray()
    more = _has_body(scope)
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large
        more = message.get("more_body", False)
    messages: Iterator[Message] = iter(({"type": "http.request", "body": bytes(body), "more_body": False},))

    async def again() -> Message:
        return next(messages, None) or await receive()

    return again
