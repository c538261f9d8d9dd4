"""Where a request carries its token: `authorization`, `header:NAME`, `cookie:NAME`, `query:NAME`.

A place finds every token that stands there, so that two are noticed, and takes them out of what the target will see.
It judges no token. The `jwt` plugin calls it.
"""

from typing import Protocol
from urllib.parse import unquote_plus

from gatewright.core.exchange import Exchange
from gatewright.core.headers import Headers, make_field, mark_of
from gatewright.telemetry.secrets import parameter_is_secret

AUTHORIZATION = b"authorization"
BEARER = b"bearer"
_PREFIX = b"Bearer "


class Place(Protocol):
    """One place. What it finds has the form that Authorization would hold: `Bearer <token>`."""

    def find(self, exchange: Exchange) -> list[bytes]:
        """Return what stands here, in order; nothing for no token."""

    def clear(self, exchange: Exchange) -> None:
        """Take the tokens out."""


def parse_place(text: str) -> Place:
    """Return the place that a configuration names. Raises ValueError."""
    kind, _, name = text.partition(":")
    if text == "authorization":
        return Authorization()
    if kind == "header" and name:
        key = make_field(name, b"")[0]
        if key in (AUTHORIZATION, b"cookie") or mark_of(key):
            raise ValueError(f"the field {name} cannot carry a token here; Authorization is the place `authorization`")
        return NamedHeader(key)
    if kind == "cookie" and name:
        make_field(name, b"")  # a cookie's name is a token, as a field's is
        return Cookie(name)
    if kind == "query" and name:
        if not parameter_is_secret(name):
            raise ValueError(f"logs would show the parameter {name}: those of jwt and access_token are hidden")
        return Query(name)
    raise ValueError('must be "authorization", "header:NAME", "cookie:NAME" or "query:NAME"')


class Authorization:
    """`Authorization: Bearer <token>`."""

    def find(self, exchange: Exchange) -> list[bytes]:
        """Return the values of the field, whatever their scheme."""
        return [field[1] for field in exchange.request.headers.fields if field[0] == AUTHORIZATION]

    def clear(self, exchange: Exchange) -> None:
        """Drop the field, unless it is of another scheme."""
        headers = exchange.request.headers
        keep = [each for each in headers.fields if each[0] != AUTHORIZATION or scheme_of(each[1]) != BEARER]
        replace_fields(headers, keep)


class NamedHeader:
    """A field that holds a token and nothing else."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def find(self, exchange: Exchange) -> list[bytes]:
        """Return the values of the field."""
        return [_PREFIX + field[1] for field in exchange.request.headers.fields if field[0] == self._name and field[1]]

    def clear(self, exchange: Exchange) -> None:
        """Drop the field."""
        headers = exchange.request.headers
        replace_fields(headers, [each for each in headers.fields if each[0] != self._name])


class Cookie:
    """A cookie (RFC 6265)."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def _crumbs(self, exchange: Exchange) -> list[bytes]:
        fields = exchange.request.headers.fields
        return [crumb.strip(b" \t") for field in fields if field[0] == b"cookie" for crumb in field[1].split(b";")]

    def _is_ours(self, crumb: bytes) -> bool:
        return crumb.partition(b"=")[0].rstrip(b" \t") == self._name

    def find(self, exchange: Exchange) -> list[bytes]:
        """Return the values of the cookie."""
        values = [crumb.partition(b"=")[2].strip(b' \t"') for crumb in self._crumbs(exchange) if self._is_ours(crumb)]
        return [_PREFIX + value for value in values if value]

    def clear(self, exchange: Exchange) -> None:
        """Drop the cookie and leave the others."""
        headers = exchange.request.headers
        crumbs = self._crumbs(exchange)
        keep = [crumb for crumb in crumbs if crumb and not self._is_ours(crumb)]
        if len(keep) == len(crumbs):
            return
        replace_fields(headers, [field for field in headers.fields if field[0] != b"cookie"])
        if keep:
            headers.add("Cookie", b"; ".join(keep))


class Query:
    """A parameter of the query."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _is_ours(self, pair: str) -> bool:
        return unquote_plus(pair.partition("=")[0]) == self._name

    def find(self, exchange: Exchange) -> list[bytes]:
        """Return the values of the parameter."""
        pairs = (exchange.request.query or "").split("&")
        values = [unquote_plus(pair.partition("=")[2]) for pair in pairs if self._is_ours(pair)]
        return [_PREFIX + value.encode("utf-8", "replace") for value in values if value]

    def clear(self, exchange: Exchange) -> None:
        """Drop the parameter and leave the others as they are written."""
        if exchange.request.query is not None:
            keep = [pair for pair in exchange.request.query.split("&") if not self._is_ours(pair)]
            exchange.request.query = "&".join(keep) or None


def scheme_of(value: bytes) -> bytes:
    """Return the scheme of credentials in lower case (RFC 9110 section 11.4)."""
    return value.partition(b" ")[0].lower()


def replace_fields(headers: Headers, fields: list[tuple[bytes, bytes, bytes, int]]) -> None:
    """Give `headers` these fields, of which none is one that the gateway manages unless it was there before."""
    headers.fields = fields
    headers.wire = None
