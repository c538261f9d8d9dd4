"""A client of the admin API: where a running gateway is, and how it is asked.

It owns the search for address and token, and turns everything that can go wrong into one line for a person. The
commands in `running` use it; what answers mean is theirs. Standard library only, and no proxy is ever asked.
"""

import http.client
import json
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from gatewright.cli import variables
from gatewright.control.errors import ConfigError
from gatewright.control.fields import Address
from gatewright.control.loader import load
from gatewright.control.process_models import DEFAULT_ADMIN
from gatewright.core.text import printable

_TIMEOUT = 150.0  # putting a large configuration in place takes seconds; the server gives up before this does
_LARGEST = 64 * 1024 * 1024
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class RemoteError(Exception):
    """What was asked for did not happen. `args[0]` is one line for a person, and `lines` stand before it.

    `problem` is how the API refused it; None where it was not the API.
    """

    def __init__(self, message: str, lines: Iterable[str] = (), problem: dict[str, Any] | None = None) -> None:
        super().__init__(printable(message))
        self.lines = [printable(line) for line in lines]
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Remote:
    """A gateway's admin API. `note` says what is uncertain about its address, for when it does not answer."""

    url: str
    token: str = field(default="", repr=False)
    note: str = ""

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the JSON that the API answers with. Raises RemoteError."""
        status, raw = self._exchange(method, path, body)
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):
            answer = None
        if answer is None or (status >= 400 and not _is_problem(answer)):
            raise RemoteError(f"what answers at {self.url} is no gateway's admin API (status {status})")
        if status == 401:
            what = "does not take this token" if self.token else "wants a token"
            raise RemoteError(f"the gateway at {self.url} {what}: set {variables.TOKEN}{self.note}", (), answer)
        if status >= 400:
            raise RemoteError(answer["detail"], _lines(answer), answer)
        return answer

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        headers = {"Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        host = parts.hostname or ""
        connection = (
            http.client.HTTPSConnection(host, parts.port, timeout=_TIMEOUT, context=ssl.create_default_context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=_TIMEOUT)
        )
        try:
            text = json.dumps(body) if body is not None else None
            connection.request(method, parts.path.rstrip("/") + path, text, headers)
            response = connection.getresponse()
            return response.status, response.read(_LARGEST)
        except TimeoutError:
            raise RemoteError(f"the gateway at {self.url} does not answer") from None
        except ConnectionRefusedError:
            raise RemoteError(f"no gateway answers at {self.url}: is it running?{self.note}") from None
        except http.client.HTTPException:  # before OSError: a connection that ends without an answer is both
            raise RemoteError(f"what answers at {self.url} is no gateway's admin API") from None
        except OSError as error:
            raise RemoteError(f"{self.url} cannot be reached: {error.strerror or error}{self.note}") from None
        finally:
            connection.close()


def path_of(*segments: str) -> str:
    """Return a path of these segments, each percent-encoded."""
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)


def find(url: str | None, token: str | None, config: Path) -> Remote:
    """Return where the gateway is: `url` if given, else what the configuration says, else the usual address.

    The configuration's token goes to the configuration's address only. Raises RemoteError.
    """
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise RemoteError("the token holds characters that no token has")
    if url is not None:
        return Remote(_checked(url), token or "")
    usual = f"http://{DEFAULT_ADMIN}"
    if not config.exists():
        return Remote(usual, token or "", f" ({config} is not there to say where; --admin does)")
    loaded = load(config, plugins=None)
    if loaded.config is None:
        return Remote(usual, token or "", f" ({config} has errors, so it was not asked where; --admin and --token say)")
    admin = loaded.config.admin
    if admin is None:
        raise RemoteError(f"{config} turns the admin API off (`admin: false`); --admin names another")
    if admin.bind.port == 0:
        raise RemoteError(f"{config} lets the system choose the admin API's port: say with --admin where it is")
    address = Address(_ANY.get(admin.bind.host, admin.bind.host), admin.bind.port)
    return Remote(f"http://{address}", token or admin.token)


def _checked(url: str) -> str:
    """Return `url` if it is one of an admin API; "host:port" is taken too."""
    if "://" not in url:
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and parts.path.isascii()
        (parts.hostname or "").encode("idna")  # what a name is looked up as, where it can be one
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username is not None or not url.isprintable() or " " in url:
        raise RemoteError("--admin must be a URL such as http://127.0.0.1:9901")
    return url.rstrip("/")


def _is_problem(answer: Any) -> bool:
    return isinstance(answer, dict) and isinstance(answer.get("detail"), str) and isinstance(answer.get("reason"), str)


def _lines(problem: dict[str, Any]) -> Iterator[str]:
    """Yield what a problem says besides its detail; a configuration's errors as `check` prints them."""
    for view in problem.get("errors") or ():
        place = Path(view["file"]), view["line"], view["column"], view["path"]
        yield str(ConfigError(*place, view["message"], view.get("suggestion")))
    for member in ("fields", "reasons"):
        yield from problem.get(member) or ()
