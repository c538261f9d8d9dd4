"""Request targets and hosts: RFC 9112 section 3.2, RFC 3986 sections 3.2.2 and 6.2.

The path is normalised here, once; routing matches and the proxy forwards that one form, so nothing can match
as one path and be served as another. Pure functions on text and bytes.
"""

import re
from typing import NamedTuple

from gatewright.core.errors import Reason, RequestError


class Target(NamedTuple):
    """A request target in its parts. `path` starts with "/" (or is "*"); `query` is None without a "?"."""

    path: str
    query: str | None
    authority: bytes | None  # of an absolute-form target; it outranks Host (RFC 9112 section 3.2.2)
    scheme: str | None


_PATH = rb"/A-Za-z0-9\-._~!$&'()*+,;=:@%"  # RFC 3986 section 3.3
_QUERY = rb"(?:\?([\x21\x22\x24-\x7e]*))?"
_ORIGIN = re.compile(rb"(/[" + _PATH + rb"]*)" + _QUERY)
# The same with what browsers send though it should be escaped. Tried last, so the usual path pays nothing.
_LENIENT = re.compile(rb"(/[" + _PATH + rb"|\[\]^`{}\"]*)" + _QUERY)
_ABSOLUTE = re.compile(rb"([Hh][Tt][Tt][Pp][Ss]?)://([^/?#]*)(.*)", re.DOTALL)
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
_MUST_ESCAPE = re.compile("[^" + _PATH.decode() + "]")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_LABEL = rb"[A-Za-z0-9\-_~]+"
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|" + _LABEL + rb"(?:\." + _LABEL + rb")*\.?)(?::([0-9]{1,5}))?")


def parse_target(raw: bytes, method: str) -> Target:
    """Split and normalise the target of a request line.

    Origin, absolute and (for OPTIONS) asterisk form are taken. Raises RequestError(invalid_path) otherwise.
    """
    match = _ORIGIN.fullmatch(raw)
    if match is None:
        return _other_form(raw, method)
    path, query = match.groups()
    text = path.decode("ascii")
    if b"%" in path or b"//" in path or b"/." in path:
        text = normalise_path(text)
    return Target(text, None if query is None else query.decode("ascii"), None, None)


def _other_form(raw: bytes, method: str) -> Target:
    if raw == b"*" and method == "OPTIONS":
        return Target("*", None, None, None)
    scheme: str | None = None
    authority: bytes | None = None
    if absolute := _ABSOLUTE.fullmatch(raw):
        scheme = absolute.group(1).decode("ascii").lower()
        authority = absolute.group(2)
        raw = absolute.group(3)
        if not is_valid_host(authority):
            raise RequestError(Reason.INVALID_HOST, "The host of the request target is not valid")
        if not raw and method == "OPTIONS":  # RFC 9112 section 3.2.4
            return Target("*", None, authority, scheme)
        if not raw.startswith(b"/"):
            raw = b"/" + raw
    elif not raw.startswith(b"/"):
        raise RequestError(Reason.INVALID_PATH, "The request target is not a path or an http URL")
    origin = _LENIENT.fullmatch(raw)
    if origin is None:
        raise RequestError(Reason.INVALID_PATH, "The request target holds characters that it may not hold")
    path, query = origin.groups()
    text_query = None if query is None else query.decode("ascii")
    return Target(normalise_path(path.decode("ascii")), text_query, authority, scheme)


def normalise_path(path: str) -> str:
    """Return the one form of `path` that is matched and forwarded.

    Escapes of unreserved characters are decoded, the others written in upper case; characters that a path may
    only hold escaped are escaped; runs of slashes become one; dot segments are resolved. Raises
    RequestError(invalid_path) for a broken escape, for `%00`, for `%2F` and `%5C` (which some servers read as
    separators and others do not), and for a path that climbs above its root.
    """

    def decode(match: re.Match[str]) -> str:
        digits = match.group(1)
        if digits is None:
            raise RequestError(Reason.INVALID_PATH, "The path holds a % without two hex digits behind it")
        char = chr(int(digits, 16))
        if char in "\x00/\\":
            raise RequestError(Reason.INVALID_PATH, f"The path holds %{digits.upper()}, which is refused")
        return char if char in _UNRESERVED else "%" + digits.upper()

    escaped = _MUST_ESCAPE.sub(_escape, path)
    decoded = _ESCAPE.sub(decode, escaped) if "%" in escaped else escaped
    kept: list[str] = []
    segments = decoded.split("/")[1:]
    last = len(segments) - 1
    for index, segment in enumerate(segments):
        if segment == "..":
            if not kept:
                raise RequestError(Reason.INVALID_PATH, "The path climbs above its root")
            kept.pop()
        elif segment.startswith(("..;", ".;")):  # some servers strip the parameter and then see a dot segment
            raise RequestError(Reason.INVALID_PATH, "The path holds a dot segment with a parameter")
        elif segment not in ("", "."):
            kept.append(segment)
            continue
        if index == last and kept:  # "/a/." and "/a/b/.." and "/a//" name a folder
            kept.append("")
    return "/" + "/".join(kept)


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogatepass"))


def is_valid_host(value: bytes) -> bool:
    """Tell whether `value` may stand in a Host field: a name or address with an optional port (RFC 9110
    section 7.2)."""
    match = _HOST.fullmatch(value)
    return match is not None and (match.group(1) is None or int(match.group(1)) <= 65535)


def host_name(value: str) -> str:
    """Return the host of a Host field in lower case, without port and without the dot that ends a full
    name."""
    name = value.lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0].removesuffix(".")
