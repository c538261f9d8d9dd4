"""The two messages of an exchange. Codecs build them, plugins read and edit them, the proxy forwards them."""

import logging
from collections.abc import Callable

from gatewright.core.headers import Headers
from gatewright.core.streams import Pipe

Content = bytes | Pipe
_log = logging.getLogger("gatewright.plugins")


class Message:
    """What requests and responses share: headers and a body that is complete (bytes) or on its way (Pipe)."""

    __slots__ = ("chunked", "content", "content_length", "headers", "keep_alive", "readable")

    headers: Headers
    content: Content  # the gateway's view; plugins use `body`
    readable: bool  # the body is complete and a plugin asked for it
    content_length: int | None  # of the body as it arrives, in bytes; None: not known before its end
    chunked: bool
    keep_alive: bool

    @property
    def body(self) -> bytes:
        """The complete body.

        Raises RuntimeError unless the plugin declared `body = "buffer"`: a body that is sometimes there would make a
        plugin work in tests and fail in production, and a stream is never buffered by accident.
        """
        if not self.readable or not isinstance(self.content, bytes):
            raise RuntimeError('the body is a stream here: declare body = "buffer" in the plugin to read or replace it')
        return self.content

    @body.setter
    def body(self, data: bytes) -> None:
        if not self.readable:
            raise RuntimeError('the body is a stream here: declare body = "buffer" in the plugin to read or replace it')
        self.content = data

    def watch(self, see: Callable[[bytes], None]) -> None:
        """Have `see` called with each piece of the body as it passes, and with b"" at its end if that comes.

        Nothing is held up, kept or changed for it. Call it in `on_request` or `on_response`: what plugins behind that
        make of the body is not seen. What `see` raises is logged, and ends its watch.
        """
        watcher = _Watcher(see)
        if isinstance(self.content, Pipe):
            self.content.add_filter(watcher, keeps_length=True)
        else:
            watcher(self.content)
            if self.content:
                watcher(b"")


class _Watcher:
    """A filter that changes nothing."""

    def __init__(self, see: Callable[[bytes], None]) -> None:
        self._see: Callable[[bytes], None] | None = see

    def __call__(self, data: bytes) -> bytes:
        if self._see is not None:
            try:
                self._see(data)
            except BaseException:  # users' code may raise anything
                _log.exception("a body's watcher failed")
                self._see = None
        return data


class Request(Message):
    """A request as it arrived, with its path normalised.

    `method` is text as sent; `path` the normalised path; `query` the text after "?" or None; `version` the minor
    version of HTTP/1, or 20 for HTTP/2; `host` the Host field's value.
    """

    __slots__ = ("expects_continue", "host", "method", "path", "query", "upgrade", "version")

    def __init__(self, method: str, path: str, query: str | None, version: int, host: bytes, headers: Headers) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.version = version
        self.host = host
        self.headers = headers
        self.content = b""
        self.readable = False
        self.content_length = 0
        self.chunked = False
        self.keep_alive = True
        self.expects_continue = False
        self.upgrade: bytes | None = None  # the protocol that the client wants to change to

    @property
    def url(self) -> str:
        """Path and query, as they are forwarded unless a route rewrites them."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.host.decode('latin-1')}{self.path}>"


class Response(Message):
    """An answer: a target's, or one that a plugin or the gateway makes.

    >>> Response(200, {"content-type": "text/plain"}, b"hello")
    """

    __slots__ = ("from_target", "phrase", "status", "version")

    def __init__(
        self,
        status: int,
        headers: Headers | dict[str, str] | list[tuple[str, str]] | None = None,
        body: bytes | str = b"",
    ) -> None:
        """`status` 100 to 999; `body` text is encoded as UTF-8. Raises ValueError for a header that cannot be sent."""
        self.status = status
        if not isinstance(headers, Headers):
            headers = Headers.of(headers.items() if isinstance(headers, dict) else headers or ())
        self.headers = headers
        self.content = body.encode() if isinstance(body, str) else body
        self.readable = True
        self.phrase = b""
        self.version = 1
        self.from_target = False
        self.content_length = None
        self.chunked = False
        self.keep_alive = True

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


class ReceivedResponse(Response):
    """A target's answer, as its head told it. A class of its own, because its making is on the hot path."""

    __slots__ = ()

    def __init__(
        self,
        status: int,
        phrase: bytes,
        version: int,
        headers: Headers,
        keep_alive: bool,
        length: int | None,
        chunked: bool,
    ) -> None:
        self.status = status
        self.phrase = phrase
        self.version = version
        self.headers = headers
        self.from_target = True
        self.content = b""
        self.readable = False
        self.content_length = length
        self.chunked = chunked
        self.keep_alive = keep_alive
