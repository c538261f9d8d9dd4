"""Asking a Consul agent: requests with its token, answers or one kind of error.

It knows Consul's HTTP conventions, and no endpoint. Discovery and registration use it.
"""

import json
import re
import ssl
from typing import Any
from urllib.parse import urlencode

from gatewright.control.discovery.wanted import DiscoveryError
from gatewright.control.services import opener
from gatewright.core.clock import Clock
from gatewright.core.errors import GatewayError
from gatewright.core.messages import Response
from gatewright.net.timers import Timers
from gatewright.net.tls import TargetTls, client_context
from gatewright.upstream.client import fetch
from gatewright.upstream.service import own_host
from gatewright.upstream.target import Target

_MAX_ANSWER = 64 * 1024 * 1024
_SHOWN = 160  # characters of a refusal's text


class Refused(DiscoveryError):
    """The agent answered, and not with what was asked for."""

    def __init__(self, status: int, text: str) -> None:
        readable = re.sub(r"[^ -~]+", " ", text[:_SHOWN]).strip()
        hint = " (does the token allow it?)" if status == 403 else ""
        super().__init__(f"Consul answered {status}{hint}{': ' if readable else ''}{readable}")
        self.status = status


class ConsulAgent:
    """One agent."""

    def __init__(self, address: str, token: str, ca: str | None, clock: Clock, timers: Timers) -> None:
        """`address` is a URL of scheme, host and port; `ca` a PEM file."""
        self._target = Target.from_url(address)
        self._headers = [("User-Agent", "gatewright"), *([("X-Consul-Token", token)] if token else [])]
        self._ca = ca
        self._clock = clock
        self._timers = timers

    async def ask(
        self, path: str, query: list[tuple[str, str]], timeout: float, method: str = "GET", data: Any = None
    ) -> Response:
        """Return the agent's answer of status 200. `data` is sent as JSON. Raises DiscoveryError, or Refused."""
        headers, body = self._headers, b""
        if data is not None:
            body = json.dumps(data).encode()
            headers = [*headers, ("Content-Type", "application/json")]
        try:
            tls = self._context()
            response = await fetch(
                opener(self._target, tls, None, self._clock, self._timers),
                own_host("target", self._target),
                f"{path}?{urlencode(query)}" if query else path,
                timeout,
                headers,
                _MAX_ANSWER,
                method,
                body,
            )
        except GatewayError as error:
            raise DiscoveryError(f"{error.detail} ({error.cause})" if error.cause else error.detail) from error
        except (OSError, ValueError) as error:  # its CA file; a name that no resolver takes
            raise DiscoveryError(str(error)) from error
        assert isinstance(response.content, bytes)
        if response.status != 200:
            raise Refused(response.status, response.content.decode("utf-8", "replace"))
        return response

    def _context(self) -> ssl.SSLContext | None:
        """Return what an https agent is spoken to with, made anew: the file may have changed since the last time."""
        return client_context(TargetTls(ca=self._ca)) if self._target.scheme == "https" else None


def content_of(response: Response) -> Any:
    """Return what an answer's JSON says. Raises DiscoveryError."""
    assert isinstance(response.content, bytes)
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        raise DiscoveryError("Consul's answer is not JSON") from None
