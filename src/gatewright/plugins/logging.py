"""`logging`: what requests and answers hold, in the access log beside its own fields.

    plugins:
      - logging: {headers: true, body: 4KiB}
      - logging: {body: 16KiB, messages: [response], types: [application/json], from_status: 500}

Texts are made, and secrets taken out, when the exchange is over and only if its line is written.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from gatewright.core.exchange import Exchange
from gatewright.core.headers import Field as HeaderField
from gatewright.core.headers import make_field
from gatewright.core.messages import Message, Response
from gatewright.core.units import Size
from gatewright.plugins.base import Plugin, PluginConfig
from gatewright.telemetry.access_log import DETAILS
from gatewright.telemetry.redaction import Redaction

MAX_BODY = 64 * 1024
_JSON = re.compile(r"application/(?:json|[\w.!#$&^+-]+\+json)")
_FORM = "application/x-www-form-urlencoded"
_TYPE = re.compile(r"[\w!#$&^.+-]+/(?:\*|\*\+[\w.]+|[\w!#$&^.+-]+)", re.ASCII)


def _field_name(value: str) -> str:
    make_field(value, "")
    return value.lower()


def _type_pattern(value: str) -> str:
    if not _TYPE.fullmatch(value):
        raise ValueError('must be a media type such as "application/json", "text/*" or "application/*+json"')
    return value.lower()


class LoggingConfig(PluginConfig):
    """Log headers and bodies."""

    headers: bool | list[Annotated[str, AfterValidator(_field_name)]] = Field(
        True, description="Header fields: all, none, or those with these names"
    )
    body: Annotated[Size, Field(le=MAX_BODY)] = Field(
        0, description="How much of each body is kept, at most 64KiB; 0: none of it"
    )
    methods: list[str] = Field([], description="Only exchanges with these methods; none named: all")
    messages: list[Literal["request", "response"]] = Field(
        ["request", "response"], min_length=1, description="Which messages"
    )
    types: list[Annotated[str, AfterValidator(_type_pattern)]] = Field(
        ["application/json", "application/*+json", _FORM],
        description="Bodies of these types are shown; of others, type and size are",
    )
    from_status: int = Field(0, ge=0, le=999, description="Only exchanges with this status or a higher one")
    redact: list[str] = Field([], description="Further names whose values are secret: fields, parameters, JSON members")
    reveal: list[str] = Field([], description="Names whose values are no secret although they seem to be")


class LoggingPlugin(Plugin[LoggingConfig], name="logging"):
    """Adds `request` and `response` to the access log's line, without secrets.

    Each has `headers` (names in lower case; several fields of a name are joined by commas) and `body`: `type`, `bytes`
    (all that passed), `text`, and `truncated` if that is not all of it.

    It sees both messages at its place in the list of plugins: the first one logs what the client sent and what came
    back for it, the last one what the target is sent and what the client gets. Answers that the gateway makes itself
    are logged too. Bodies are watched while they stream by; nothing is held up, kept longer or sent in another way for
    it, and no more than `body` bytes of each are kept.
    """

    def __init__(self, config: LoggingConfig) -> None:
        super().__init__(config)
        self.redaction = Redaction(config.redact, config.reveal)
        self.wanted = frozenset(config.headers) if isinstance(config.headers, list) else None
        self.types = re.compile("|".join(re.escape(each).replace(r"\*", r"[\w.!#$&^+-]+") for each in config.types))
        self._methods = frozenset(method.upper() for method in config.methods)
        self._request = "request" in config.messages
        self._response = "response" in config.messages

    def on_request(self, exchange: Exchange) -> None:
        """Note the request."""
        if self._methods and exchange.request.method not in self._methods:
            return
        details = exchange.state[DETAILS] = Details(self)
        if self._request:
            details.request = Seen(exchange.request, self.config.body)

    def on_response(self, exchange: Exchange, response: Response) -> None:
        """Note the answer; and the request, if a plugin before this one has answered it."""
        if self._methods and exchange.request.method not in self._methods:
            return
        details = exchange.state.get(DETAILS)
        if not isinstance(details, Details):
            details = exchange.state[DETAILS] = Details(self)
            if self._request:
                details.request = Seen(exchange.request, 0)
        if self._response:
            bare = exchange.request.method == "HEAD" or response.status in (204, 304)
            details.response = Seen(response, 0 if bare else self.config.body)


class Seen:
    """A message as it was, and the beginning of its body."""

    __slots__ = ("_limit", "_pieces", "ended", "fields", "size")

    def __init__(self, message: Message, limit: int) -> None:
        """`limit`: how many bytes of the body are kept; 0: it is not watched."""
        self.fields: list[HeaderField] = message.headers.fields  # replaced, never changed, by whoever edits them
        self.size = 0
        self.ended = False
        self._limit = limit
        self._pieces: list[bytes] = []
        if limit:
            message.watch(self._see)

    def _see(self, data: bytes) -> None:
        room = self._limit - self.size
        if room > 0:
            self._pieces.append(bytes(data[:room]))
        self.size += len(data)
        self.ended = not data

    def value(self, name: bytes) -> str:
        """Return the first value of a field, in lower case; "" if there is none."""
        return next((field[1].decode("latin-1").strip().lower() for field in self.fields if field[0] == name), "")

    @property
    def body(self) -> bytes:
        """What was kept."""
        return b"".join(self._pieces)


class Details:
    """Both messages of an exchange, for its line in the access log."""

    __slots__ = ("_plugin", "request", "response")

    def __init__(self, plugin: LoggingPlugin) -> None:
        self._plugin = plugin
        self.request: Seen | None = None
        self.response: Seen | None = None

    def __call__(self, exchange: Exchange) -> dict[str, Any]:
        """Return what the line is to hold, without secrets (see `telemetry.access_log`)."""
        if (exchange.status or 499) < self._plugin.config.from_status:
            return {}
        seen = {"request": self.request, "response": self.response}
        return {name: found for name, each in seen.items() if each is not None and (found := self._told(each))}

    def _told(self, seen: Seen) -> dict[str, Any]:
        told: dict[str, Any] = {}
        if self._plugin.config.headers:
            told["headers"] = self._headers(seen.fields)
        if seen.size:
            told["body"] = self._body(seen)
        return told

    def _headers(self, fields: Sequence[HeaderField]) -> dict[str, str]:
        wanted, redaction = self._plugin.wanted, self._plugin.redaction
        told: dict[str, str] = {}
        for raw_name, raw_value, _, _ in fields:
            name = raw_name.decode("latin-1")
            if wanted is None or name in wanted:
                value = redaction.field(name, raw_value.decode("latin-1"))
                told[name] = f"{told[name]}, {value}" if name in told else value
        return told

    def _body(self, seen: Seen) -> dict[str, Any]:
        """Return type and size, and the text if it can be shown without secrets."""
        kind = seen.value(b"content-type").partition(";")[0].rstrip()
        told: dict[str, Any] = {"type": kind, "bytes": seen.size}
        encoding = seen.value(b"content-encoding")
        if encoding not in ("", "identity"):
            return told | {"encoding": encoding}
        body = seen.body
        if not self._plugin.types.fullmatch(kind):
            return told
        if b"\0" in body:
            return told | {"note": "binary"}
        cut = not seen.ended or len(body) < seen.size
        text = body.decode("utf-8", "replace")
        try:
            told["text"] = self._text(kind, text.rstrip("\ufffd") if cut else text, cut)
        except ValueError:
            return told | {"note": "malformed"}
        return told | {"truncated": True} if cut else told

    def _text(self, kind: str, text: str, cut: bool) -> str:
        redaction = self._plugin.redaction
        if _JSON.fullmatch(kind):
            return redaction.json(text, cut)
        return redaction.form(text) if kind == _FORM else redaction.text(text)
