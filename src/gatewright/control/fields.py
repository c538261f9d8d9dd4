"""The text forms that configuration values have beside quantities: addresses, URLs, networks, files, names,
templates.

Each is a parser that raises with a sentence that does not quote the value, and a pydantic type around it. It
knows the routing package's grammars, and nothing of the models.
"""

import ipaddress
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    PlainValidator,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationInfo,
    WithJsonSchema,
)

from gatewright.control.base import complaint
from gatewright.core.contents import is_recalled
from gatewright.core.files import open_file
from gatewright.core.target import is_valid_host
from gatewright.routing import pattern as patterns

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", re.ASCII)
_IMPORT_PATH = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$", re.ASCII)
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_FIELD_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_BIND_HINT = 'must be host:port, such as "0.0.0.0:8080" or "[::1]:8080"'


class Address(NamedTuple):
    """Where a listener binds. `host` is without brackets; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_bind(value: object) -> Address:
    """Return the address that "host:port" or "[ipv6]:port" writes. Raises an error with a sentence for the
    user.
    """
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise complaint(_BIND_HINT)
    host, colon, port = value.rpartition(":")
    if not colon or not _PORT.fullmatch(port):
        raise complaint(_BIND_HINT)
    if int(port) > 65535:
        raise complaint("the port must be between 0 and 65535")
    if host.startswith("[") and host.endswith("]"):
        return Address(_ipv6(host[1:-1]), int(port))
    if ":" in host:
        raise complaint("an IPv6 address stands in brackets", f"[{host}]:{port}")
    _check_host(host, _BIND_HINT)
    return Address(host.lower(), int(port))


def _ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise complaint("the brackets must hold an IPv6 address") from None


def _check_host(host: str, hint: str) -> None:
    if not _HOST_NAME.fullmatch(host) or ".." in host:
        raise complaint(hint)
    if re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise complaint("the host is neither an IPv4 address nor a name") from None


_URL_HINT = 'must be a URL such as "http://10.0.0.7:8001"'


def parse_target_url(value: str) -> str:
    """Return a target's URL without a final slash: scheme, host and port, nothing else. Raises an error for
    the user.
    """
    if not value.isascii() or not value.isprintable() or " " in value or "\\" in value:
        raise complaint(_URL_HINT)
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise complaint(f"{_URL_HINT}: its host or port is not valid") from None
    scheme, colon, _ = value.partition("://")
    if not colon:
        raise complaint(f"{_URL_HINT}: the scheme is missing", f"http://{value}" if "@" not in value else None)
    if scheme.lower() not in ("http", "https"):
        raise complaint("the scheme must be http or https")
    if "@" in parts.netloc:
        raise complaint("a target's URL holds no user or password: set the field with the headers plugin")
    if parts.path not in ("", "/"):
        raise complaint("a target's URL has no path: put it into the route's `rewrite`")
    if "?" in value or "#" in value:
        raise complaint("a target's URL has no query and no fragment")
    if not parts.hostname:
        raise complaint(f"{_URL_HINT}: the host is missing")
    if port == 0 or parts.netloc.endswith(":"):
        raise complaint("the port must be between 1 and 65535")
    return f"{scheme.lower()}://{_authority(parts, port)}"


def _authority(parts: SplitResult, port: int | None) -> str:
    host = parts.hostname or ""
    if "[" in parts.netloc:
        host = f"[{_ipv6(host)}]"
    else:
        _check_host(host, f"{_URL_HINT}: the host is not valid")
    return host if port is None else f"{host}:{port}"


def parse_network(value: object) -> Network:
    """Return the network that a CIDR, or a single address, writes. Raises an error for the user."""
    if not isinstance(value, str):
        raise complaint('must be a network such as "10.0.0.0/8" or an address')
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        pass
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise complaint('must be a network such as "10.0.0.0/8" or an address') from None
    raise complaint("the address has bits behind its mask", str(network))


def existing_file(value: object, info: ValidationInfo) -> Path:
    """Return the file's path, from the configuration's folder on; it must be there. Raises an error for the
    user.

    Without a `base_dir` in the validation context nothing is looked up.
    """
    path = resolve_path(value, info)
    if info.context and not is_recalled(path):
        try:
            open_file(path).close()
        except OSError as error:
            raise complaint(f"cannot be read: {(error.strerror or 'not a file').lower()}") from error
    return path


def resolve_path(value: object, info: ValidationInfo) -> Path:
    """Return `value` as a path from the configuration's folder on."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise complaint("must be the path of a file")
    return Path(info.context["base_dir"], value) if info.context else Path(value)


def parse_import_path(value: str) -> str:
    """Check "package.module:attribute". Raises an error for the user."""
    if not _IMPORT_PATH.fullmatch(value):
        raise complaint('must be an import path such as "package.module:app"')
    return value


def parse_name(value: str) -> str:
    """Check a name of a service or route. Raises an error for the user."""
    if not _NAME.fullmatch(value):
        raise complaint(
            "a name has letters, digits, '.', '_' and '-', begins with a letter or digit, at most 100 in all"
        )
    return value


def parse_token(value: str, what: str) -> str:
    """Check that `value` is a token (RFC 9110 section 5.6.2). `what` says what it should be. Raises an error
    for the user.
    """
    if not _TOKEN.fullmatch(value):
        raise complaint(f"must be {what}: letters, digits and !#$%&'*+-.^_`|~ only")
    return value


def parse_method(value: str) -> str:
    """Check a method's name. Raises an error for the user."""
    parse_token(value, 'a method such as "GET"')
    if value != value.upper():
        raise complaint("methods are case-sensitive, and this one is not in upper case", value.upper())
    return value


def parse_field_name(value: str) -> str:
    """Return a header field's name in lower case. Raises an error for the user."""
    return parse_token(value, "a header's name").lower()


def parse_field_value(value: str) -> str:
    """Check a header field's value. Raises an error for the user."""
    if not _FIELD_VALUE.fullmatch(value):
        raise complaint("a header's value holds no line breaks or control characters")
    return value


def parse_path_pattern(value: str) -> str:
    """Check a route's path by the routing grammar. Raises an error for the user."""
    path_pattern(value)
    return value


def path_pattern(value: str) -> patterns.Pattern:
    """Return the pattern that `value` writes. Raises ValueError with a sentence for the user."""
    with quiet_regex():
        return patterns.parse(value)


@contextmanager
def quiet_regex() -> Iterator[None]:
    """Silence `re`, which warns about what a later Python may read differently."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def parse_host_pattern(value: str) -> str:
    """Return a route's host in the form that is matched. Raises an error for the user."""
    return patterns.parse_host(value)


def parse_upstream_host(value: str) -> str:
    """Check what a target is sent as Host: "preserve", "target" or a host. Raises an error for the user."""
    if value not in ("preserve", "target") and not is_valid_host(value.encode("utf-8", "replace")):
        raise complaint('must be "preserve", "target" or a host such as "api.example.com"')
    return value


def parse_probe_path(value: str) -> str:
    """Check the path of a health check, which may have a query. Raises an error for the user."""
    if not value.startswith("/") or not value.isascii() or not value.isprintable() or " " in value or "#" in value:
        raise complaint('must be a path such as "/health"')
    return value


def placeholders(template: str) -> list[str]:
    """Return the names in braces of `template`. Raises an error for the user when braces do not pair or hold
    no name.
    """
    names = [match.group(1) for match in _PLACEHOLDER.finditer(template)]
    for name in names:
        if not _PARAMETER.fullmatch(name):
            bare = name.removesuffix("...")
            raise complaint(
                "braces hold the name of a parameter of the path",
                _PLACEHOLDER.sub(lambda found: "{" + found.group(1).removesuffix("...") + "}", template)
                if _PARAMETER.fullmatch(bare)
                else None,
            )
    if re.search(r"[{}]", _PLACEHOLDER.sub("", template)):
        raise complaint("a brace has no partner")
    return names


def parse_rewrite(value: str) -> str:
    """Check the template of a path for the target. Raises an error for the user."""
    placeholders(value)
    if not value.startswith("/"):
        raise complaint('must begin with "/"')
    if re.search(r"[?#\s\x00-\x20\x7f]", value) or not value.isascii():
        raise complaint("must be a path: no query, no fragment, no spaces, other characters percent-encoded")
    return value


def parse_location(value: str) -> str:
    """Check the template of a redirect's Location. Raises an error for the user."""
    placeholders(value)
    if not value.isascii() or re.search(r"[\x00-\x20\x7f]", value):
        raise complaint("must be ASCII without spaces; other characters are percent-encoded")
    if not value.startswith(("/", "http://", "https://")):
        raise complaint('must begin with "/", "http://" or "https://"')
    if re.match(r"https?://[^/]*\{", value):
        raise complaint('a parameter must stand behind a "/" after the host: else the client would choose the host')
    return value


def parse_prefix(value: object) -> str | bool:
    """Check `strip_prefix`: true, or a path without a final slash. Raises an error for the user."""
    if value is True:
        return True
    if not isinstance(value, str) or not value.startswith("/"):
        raise complaint(
            'must be a path such as "/service-a", or true for all of the match\'s path before its parameters'
        )
    if value.endswith("/"):
        raise complaint('must not end with "/"', value.rstrip("/") or None)
    return value


def _schema(pattern: str | None = None, *examples: Any, **more: Any) -> WithJsonSchema:
    schema: dict[str, Any] = {"type": "string", **more}
    if pattern is not None:
        schema["pattern"] = pattern
    if examples:
        schema["examples"] = list(examples)
    return WithJsonSchema(schema)


Flag = StrictBool
Whole = StrictInt
Text = StrictStr
Name = Annotated[StrictStr, AfterValidator(parse_name), _schema(_NAME.pattern)]
Bind = Annotated[Address, PlainValidator(parse_bind), _schema(None, "0.0.0.0:8080", "[::1]:8080")]
TargetUrl = Annotated[StrictStr, AfterValidator(parse_target_url), _schema("^https?://", "http://127.0.0.1:8001")]
Cidr = Annotated[Network, PlainValidator(parse_network), _schema(None, "10.0.0.0/8", "192.0.2.7")]
ExistingFile = Annotated[Path, PlainValidator(existing_file), _schema(None, "server.crt")]
ImportPath = Annotated[
    StrictStr, AfterValidator(parse_import_path), _schema(_IMPORT_PATH.pattern, "services.items.main:app")
]
Method = Annotated[StrictStr, AfterValidator(parse_method), _schema("^[A-Z][A-Z0-9_-]*$", "GET", "POST")]
FieldName = Annotated[StrictStr, AfterValidator(parse_field_name), _schema()]
FieldValue = Annotated[StrictStr, AfterValidator(parse_field_value), _schema()]
PathPattern = Annotated[
    StrictStr,
    AfterValidator(parse_path_pattern),
    _schema(r"^(/|~|\*$)", "/health", "/items/{id}", "/service-a/{rest...}", "/static/*", "~^/v[0-9]+/.*$"),
]
HostPattern = Annotated[
    StrictStr, AfterValidator(parse_host_pattern), _schema(None, "api.example.com", "*.example.com")
]
ProbePath = Annotated[StrictStr, AfterValidator(parse_probe_path), _schema("^/", "/health")]
UpstreamHost = Annotated[StrictStr, AfterValidator(parse_upstream_host), _schema(None, "preserve", "target")]
Rewrite = Annotated[StrictStr, AfterValidator(parse_rewrite), _schema("^/", "/{rest}")]
Location = Annotated[StrictStr, AfterValidator(parse_location), _schema("^(/|https?://)", "https://example.com/{rest}")]
Prefix = Annotated[
    str | bool,
    PlainValidator(parse_prefix),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": "^/.*[^/]$"}, {"const": True}]}),
]
