"""`transform`: edit JSON bodies of requests and answers.

plugins:
  - transform:
      methods: [POST]
      request: {set: {transformed: true, meta.source: gateway}, rename: {usr: user}, remove: [debug]}
      response: {remove: [internal]}
      max_body: 256KiB
"""

from decimal import Decimal
from typing import Annotated, Any

import msgspec
from pydantic import Field

from gatewright.core.exchange import Exchange
from gatewright.core.headers import Headers
from gatewright.core.messages import Message, Response
from gatewright.core.units import Size
from gatewright.plugins.base import Plugin, PluginConfig

# Decimal keeps numbers as they were written: 1.10 stays 1.10.
_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode


class JsonEdits(PluginConfig):
    """Edits of one JSON object, in the order in which they are made."""

    remove: list[str] = Field([], description="Members to drop")
    rename: dict[str, str] = Field({}, description="Old path to new path")
    set: dict[str, Any] = Field({}, description="Members to set, with objects on the way created")


class TransformConfig(PluginConfig):
    """Edit JSON bodies."""

    methods: list[str] = Field([], description="Only exchanges with these methods; none named: all")
    request: JsonEdits | None = Field(None, description="Edits of the request's body")
    response: JsonEdits | None = Field(None, description="Edits of the answer's body")
    max_body: Annotated[Size, Field(gt=0)] = Field(1024 * 1024, description="Largest body that is edited")


class TransformPlugin(Plugin[TransformConfig], name="transform"):
    """Sees bodies that are JSON (`application/json`, `+json`) complete; all others stream by.

    Members are named by path, `meta.source` for one inside another; a member of an array has none. Steps run in the
    order `remove`, `rename`, `set`. Only JSON objects are edited: any other body, broken JSON and compressed bodies
    pass untouched, as do answers that the gateway makes itself. Numbers keep their spelling.

    A body that is to be edited and is larger than `max_body` is refused rather than passed on unedited.

    Refusals:
        413 body_too_large: a request's body that is to be edited is larger than `max_body`
        502 response_too_large: a target's answer that is to be edited is larger than `max_body`
    """

    body = "buffer"
    response_body = "buffer"

    def __init__(self, config: TransformConfig) -> None:
        super().__init__(config)
        self.max_body = config.max_body
        self._methods = frozenset(method.upper() for method in config.methods)

    def _concerns(self, exchange: Exchange, headers: Headers) -> bool:
        if self._methods and exchange.request.method not in self._methods:
            return False
        kind = (headers.get("content-type") or "").partition(";")[0].strip().lower()
        is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
        return is_json and headers.get("content-encoding", "identity") == "identity"

    def wants_body(self, exchange: Exchange) -> bool:
        """Only JSON that is to be edited."""
        return self.config.request is not None and self._concerns(exchange, exchange.request.headers)

    def wants_response_body(self, exchange: Exchange, response: Response) -> bool:
        """Only JSON that is to be edited, and never of an answer without a body or of a refusal."""
        if exchange.request.method == "HEAD" or response.status in (204, 304) or exchange.reason is not None:
            return False
        return self.config.response is not None and self._concerns(exchange, response.headers)

    def on_request(self, exchange: Exchange) -> None:
        """Edit the request's body."""
        if self.config.request is not None and self.wants_body(exchange):
            _edit(exchange.request, self.config.request)

    def on_response(self, exchange: Exchange, response: Response) -> None:
        """Edit the answer's body."""
        if self.config.response is not None and self.wants_response_body(exchange, response):
            _edit(response, self.config.response)


def _edit(message: Message, edits: JsonEdits) -> None:
    try:
        document = _decode(message.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if not isinstance(document, dict):
        return
    for path in edits.remove:
        _take(document, path)
    for old, new in edits.rename.items():
        found, value = _take(document, old)
        if found:
            _put(document, new, value)
    for path, value in edits.set.items():
        _put(document, path, value)
    message.body = _encode(document)


def _take(document: dict[str, Any], path: str) -> tuple[bool, Any]:
    *parents, last = path.split(".")
    place: Any = document
    for name in parents:
        place = place.get(name) if isinstance(place, dict) else None
    if isinstance(place, dict) and last in place:
        return True, place.pop(last)
    return False, None


def _put(document: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    place = document
    for name in parents:
        inner = place.get(name)
        if not isinstance(inner, dict):
            inner = place[name] = {}
        place = inner
    place[last] = value
