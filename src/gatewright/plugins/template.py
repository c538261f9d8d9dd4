"""Values with variables: `"{client_ip}"`, `"user {param.id}"`; `{{` and `}}` stand for braces. Parsed once, at load."""

import re
from collections.abc import Callable
from urllib.parse import unquote_plus

from gatewright.core.exchange import Exchange

Render = Callable[[Exchange], str]

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_SIMPLE: dict[str, Render] = {
    "client_ip": lambda exchange: exchange.client_ip,
    "request_id": lambda exchange: exchange.id,
    "method": lambda exchange: exchange.request.method,
    "scheme": lambda exchange: exchange.scheme,
    "host": lambda exchange: exchange.host,
    "path": lambda exchange: exchange.request.path,
    "query": lambda exchange: exchange.request.query or "",
    "route": lambda exchange: exchange.route or "",
    "service": lambda exchange: exchange.service or "",
    "target": lambda exchange: exchange.target or "",
    "consumer": lambda exchange: exchange.consumer.name if exchange.consumer is not None else "",
    "status": lambda exchange: str(exchange.response.status) if exchange.response is not None else "",
}
_FAMILIES: dict[str, Callable[[str], Render]] = {
    "param": lambda name: lambda exchange: exchange.params.get(name, ""),
    "header": lambda name: lambda exchange: exchange.request.headers.get(name) or "",
    "query": lambda name: lambda exchange: _query_value(exchange.request.query, name),
}


def parse_template(text: str) -> str | Render:
    """Return the text itself where it has no variables, else what renders it.

    Raises ValueError for an unknown one, without quoting the text: it may be a credential.
    """
    parts: list[str | Render] = []
    for match in _PART.finditer(text):
        piece, variable = match.group(), match.group(1)
        if variable is not None:
            parts.append(_variable(variable))
        elif piece in ("{", "}"):
            raise ValueError("has a brace without its other half; write {{ or }} for a brace")
        else:
            parts.append(piece[0] if piece in ("{{", "}}") else piece)
    if all(isinstance(part, str) for part in parts):
        return "".join(str(part) for part in parts)
    return lambda exchange: "".join([part if isinstance(part, str) else part(exchange) for part in parts])


def _variable(name: str) -> Render:
    if name in _SIMPLE:
        return _SIMPLE[name]
    family, dot, key = name.partition(".")
    if dot and key and family in _FAMILIES:
        return _FAMILIES[family](key)
    known = ", ".join([*_SIMPLE, *(f"{kind}.<name>" for kind in _FAMILIES)])
    raise ValueError(f"{{{name}}} is not a variable: known are {known}")


def _query_value(query: str | None, name: str) -> str:
    for pair in (query or "").split("&"):
        key, _, value = pair.partition("=")
        if unquote_plus(key) == name:
            return re.sub(r"[\x00-\x1f\x7f]", "", unquote_plus(value))
    return ""
