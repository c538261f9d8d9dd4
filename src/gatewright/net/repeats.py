"""Requests that come again byte by byte, and get the answer of before without being read again.

Why: with a cache in front of a service, nearly all of what a hit costs is what any request costs: its head is read,
it becomes an exchange, a route takes it, plugins run, an answer is made and written as bytes. None of that can come
out differently for a request of the same bytes, as long as the configuration is the same (the proxy clears all
repeats when it goes over to another) and whoever made the answer stands by it (its `Repetition` is asked each time).
What is left is to look up the bytes: a hit takes 2 us of Python instead of 8. An exchange is made all the same, for
the counters and the access log.

The connections look here before they read. Peers that are trusted have no part in it: what their requests say of their
clients counts.
"""

import logging

from gatewright.core.exchange import Downstream, Exchange
from gatewright.core.headers import DATE
from gatewright.core.peer import Peer
from gatewright.core.repetition import Repeater, Repetition
from gatewright.http1.serialize import response_head

_log = logging.getLogger("gatewright.net")
_ID = b"X-Request-ID: "
_MOST = 4096
LONGEST = 2048  # bytes of a request that is remembered; looking up what is longer would cost as much as reading it


class Repeat:
    """A request, and the answer that it gets for now."""

    __slots__ = ("_after", "_before", "_kept", "_repetition", "_request", "_route", "_service", "_status", "_until")

    def __init__(self, first: Exchange, repetition: Repetition) -> None:
        """`first` was answered in the usual way; it is not kept, for it holds the answer. `renew` must follow."""
        self._request = first.request
        self._route = first.route
        self._service = first.service
        self._kept = first.kept
        self._repetition = repetition
        self._status: int | None = None
        self._before = self._after = b""  # what stands around the ID in the head
        self._until = 0.0

    def renew(self, now: float) -> bool:
        """Learn what the answer is from now on. Return False if it may not be given."""
        response = self._repetition.renew(now)
        if response is None or type(response.content) is not bytes or not response.content:
            return False
        if response.status in (204, 304) or not response.headers.marks & DATE:
            return False  # sent without a body; with another Date each second
        head = response_head(response, "", len(response.content), chunked=False, connection=b"")
        before, name, self._after = head.rpartition(_ID)
        self._before = before + name
        self._status = response.status
        self._until = self._repetition.until
        return True

    def answer(self, peer: Peer, downstream: Downstream, now: float) -> tuple[Exchange, bytes] | None:
        """Return an exchange that has got the answer, and the bytes to write; None: the request must be read."""
        try:
            if now >= self._until and not self.renew(now):
                return None
            content = self._repetition.again()
        except Exception:  # a plugin's
            _log.exception("an answer of the route %s cannot be repeated", self._route)
            return None
        if content is None:
            return None
        exchange = Exchange(self._request, peer, downstream, now)
        exchange.route = self._route
        exchange.service = self._service
        exchange.kept = self._kept
        exchange.status = self._status
        exchange.bytes_out = len(content)
        return exchange, b"".join((self._before, exchange.id.encode(), self._after, content))


class Repeats(dict[bytes, Repeat]):
    """What may be answered again, by the bytes of its request. Bounded: it is emptied when it is full.

    A request is remembered when it comes for the second time, so that those that never come again cost little.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[int] = set()  # hashes of requests that came once

    def learn(self, data: bytes, exchange: Exchange, repeater: Repeater, now: float) -> None:
        """Remember `data` if `repeater` says that its answer may be repeated. It was one request and nothing else, and
        its connection stays."""
        request = exchange.request
        if len(data) > LONGEST or request.method != "GET" or not request.version or request.content_length != 0:
            return
        if (mark := hash(data)) not in self._seen:
            if len(self._seen) >= 4 * _MOST:
                self._seen.clear()
            self._seen.add(mark)
            return
        try:
            repetition = repeater(exchange)
            if repetition is None or not (repeat := Repeat(exchange, repetition)).renew(now):
                return
        except Exception:  # a plugin's
            _log.exception("request %s cannot be repeated", exchange.id, extra={"request_id": exchange.id})
            return
        if len(self) >= _MOST:
            self.clear()
        self[data] = repeat
