"""`headers`: set, add, remove and rename header fields of requests and answers.

plugins:
  - headers:
      request:
        set: {X-Client: "{client_ip}"}
        remove: [Cookie]
      response:
        rename: {X-Powered-By: X-Engine}
        add: {Strict-Transport-Security: max-age=31536000}
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, Field

from gatewright.core.exchange import Exchange
from gatewright.core.headers import DATE, TRACE, VIA, Headers, make_field, mark_of
from gatewright.core.headers import Field as HeaderField
from gatewright.core.messages import Response
from gatewright.plugins.base import Plugin, PluginConfig
from gatewright.plugins.template import parse_template


def _name(value: str) -> str:
    field = make_field(value, "")
    if mark_of(field[0]) & ~(DATE | VIA | TRACE):  # a trace's only while it traces
        raise ValueError(f"the gateway writes {value} itself")
    return value


def _template(value: str) -> str:
    parsed = parse_template(value)
    if isinstance(parsed, str):
        make_field("x", parsed)
    return value


Name = Annotated[str, AfterValidator(_name)]
Value = Annotated[str, AfterValidator(_template)]


class HeaderEdits(PluginConfig):
    """Edits of one message's header fields, in the order in which they are made."""

    remove: list[Name] = Field([], description="Names of fields to drop")
    rename: dict[Name, Name] = Field({}, description="Old name to new name")
    set: dict[Name, Value] = Field({}, description="Fields that replace every field of the same name")
    add: dict[Name, Value] = Field({}, description="Fields that are put beside others of the same name")


class HeadersConfig(PluginConfig):
    """Set, add, remove and rename header fields."""

    request: HeaderEdits = Field(HeaderEdits(), description="Edits of what the target sees")
    response: HeaderEdits = Field(HeaderEdits(), description="Edits of what the client sees")


Edit = Callable[[Headers, Exchange], None]


class HeadersPlugin(Plugin[HeadersConfig], name="headers"):
    """Edits header fields: the request's before a target is asked, the answer's whoever made it.

    Steps run in the order `remove`, `rename`, `set`, `add`. Names are case-insensitive; order, case and duplicates of
    fields survive. Fields that the gateway writes itself (framing, `Host`, `X-Forwarded-*`, `X-Request-ID`) cannot be
    edited: that is a configuration error.

    Values may hold variables: `{client_ip}`, `{request_id}`, `{method}`, `{scheme}`, `{host}`, `{path}`, `{query}`,
    `{route}`, `{service}`, `{target}`, `{consumer}`, `{status}`, `{param.NAME}`, `{header.NAME}`, `{query.NAME}`; one
    that has no value is empty. `{{` and `}}` are braces.
    """

    def __init__(self, config: HeadersConfig) -> None:
        super().__init__(config)
        self._request = _compile(config.request)
        self._response = _compile(config.response)

    def on_request(self, exchange: Exchange) -> None:
        """Edit the request."""
        headers = exchange.request.headers
        for edit in self._request:
            edit(headers, exchange)

    def on_response(self, exchange: Exchange, response: Response) -> None:
        """Edit the answer."""
        headers = response.headers
        for edit in self._response:
            edit(headers, exchange)


def _compile(edits: HeaderEdits) -> tuple[Edit, ...]:
    compiled: list[Edit] = []
    compiled += [partial(_remove, name) for name in edits.remove]
    compiled += [partial(_rename, old, new) for old, new in edits.rename.items()]
    compiled += [_write(Headers.put, name, value) for name, value in edits.set.items()]
    compiled += [_write(Headers.append, name, value) for name, value in edits.add.items()]
    return tuple(compiled)


def _remove(name: str, headers: Headers, exchange: Exchange) -> None:
    headers.remove(name)


def _rename(old: str, new: str, headers: Headers, exchange: Exchange) -> None:
    headers.rename(old, new)


def _write(method: Callable[[Headers, HeaderField], None], name: str, value: str) -> Edit:
    template = parse_template(value)
    if isinstance(template, str):
        field = make_field(name, template)
        return lambda headers, exchange: method(headers, field)
    return lambda headers, exchange: method(headers, make_field(name, template(exchange)))
