"""The gateway's own requests (health probes and the like), over the same connections as everybody else's.

For the control plane: one request on a connection of its own, the whole answer in memory, one deadline for all of it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from gatewright.core.errors import GatewayError, Reason, Retry, UpstreamError
from gatewright.core.headers import Field, make_field
from gatewright.core.messages import Response
from gatewright.core.streams import Pipe
from gatewright.net.upstream import TargetConnection

ANSWER_BYTES = 1024 * 1024


class _Owner:
    """Keeps nothing: a connection of this client serves one request."""

    def released(self, connection: TargetConnection, now: float) -> None:
        connection.close()

    def lost(self, connection: TargetConnection) -> None:
        """Nothing was counted."""


OWNER = _Owner()


class _Fetch:
    """Waits for one answer and its body."""

    client_ip = ""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.congested = False
        self.feeder: Pipe | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._response: Response | None = None

    def on_informational(self, response: Response) -> None:
        """Not what we wait for."""

    def on_response(self, response: Response) -> None:
        self._response = response
        if isinstance(response.content, Pipe):
            response.content.attach(self)
        else:
            self._settle(response.content)

    def on_failure(self, error: GatewayError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._max_body and self.feeder is not None:
            detail = f"The answer has more than {self._max_body} bytes"
            self.feeder.fail(UpstreamError(Reason.RESPONSE_TOO_LARGE, detail, Retry.NEVER))
        else:
            self._pieces.append(data)

    def end(self, trailers: list[Field]) -> None:
        self._settle(b"".join(self._pieces))

    def broken(self, error: GatewayError) -> None:
        self.on_failure(error)

    def _settle(self, body: bytes) -> None:
        assert self._response is not None
        self._response.content = body
        self._response.readable = True
        if not self.answer.done():
            self.answer.set_result(self._response)


async def fetch(
    open_connection: Callable[[Any], Coroutine[Any, Any, TargetConnection]],
    host: str,
    path: str,
    timeout: float,
    headers: Sequence[tuple[str, str]] = (),
    max_body: int = ANSWER_BYTES,
    method: str = "GET",
    body: bytes = b"",
) -> Response:
    """GET `path` from the target that `open_connection` connects to, or send it `body` by another method; `timeout` in
    seconds bounds all of it, `max_body` in bytes the answer's body.

    Raises GatewayError, with response_timeout when the time is up; ValueError for a header that cannot be sent.
    """
    head = [f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n".encode("latin-1")]
    if method != "GET":
        head.append(b"Content-Length: %d\r\n" % len(body))
    head += [make_field(name, value)[2] for name, value in headers]
    connection: TargetConnection | None = None
    fetching = _Fetch(max_body)
    try:
        async with asyncio.timeout(timeout):
            connection = await open_connection(OWNER)
            connection.request(
                fetching,
                method,
                b"".join(head) + b"\r\n",
                body,
                False,
                asyncio.get_running_loop().time(),
                timeout,
                timeout,
            )
            return await fetching.answer
    except TimeoutError:
        raise UpstreamError(Reason.RESPONSE_TIMEOUT, f"No answer within {timeout:g} s", Retry.NEVER) from None
    finally:
        if connection is not None:
            connection.close()
