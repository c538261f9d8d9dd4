"""One try of an exchange on one target: get a connection, send the request, tell what came of it."""

from typing import Any

from gatewright.core.errors import GatewayError, Reason, Retry, UpstreamError
from gatewright.core.exchange import Exchange
from gatewright.core.headers import Headers
from gatewright.core.messages import Response
from gatewright.core.streams import Pipe
from gatewright.core.tasks import Run
from gatewright.proxy.forwarding import request_head
from gatewright.upstream.pool import Ticket
from gatewright.upstream.service import Service
from gatewright.upstream.target import Target


class Attempt:
    """One try. It holds its target's place in flight from its making to `close`.

    `send` either writes the request or asks for a connection; what comes of it wakes the exchange's run: a connection
    (pass it to `send_on`), the answer's head, or an error.
    """

    __slots__ = (
        "_open",
        "_run",
        "_service",
        "_ticket",
        "connection",
        "exchange",
        "headers",
        "judged",
        "started",
        "target",
    )

    def __init__(
        self, exchange: Exchange, service: Service, target: Target, headers: Headers, run: Run | None, now: float
    ) -> None:
        self.exchange = exchange
        self._service = service
        self._run = run
        self._ticket: Ticket | None = None
        self._open = True
        self.connection: Any = None
        self.judged = False  # its verdict was passed on
        self.target = target
        self.headers = headers
        self.started = now
        target.in_flight += 1

    def send(self, deadline: float, fresh: bool) -> bool:
        """Send on an idle connection and return True, or return False: one is being opened.

        `deadline` in seconds of the clock bounds the attempt; `fresh` takes no connection that was used before.
        """
        pool, timeouts = self.target.pool, self._service.timeouts
        connection = None if fresh else pool.take(self.started)
        if connection is None:
            wait = min(timeouts.connect, max(0.0, deadline - self.started))
            assert self._run is not None
            self._ticket = pool.wait(self._run, wait)
            return False
        try:
            self.send_on(connection, self.started, deadline)
        except BaseException:
            connection.close()  # it is out of the pool already, and nobody else would
            raise
        return True

    def send_on(self, connection: Any, now: float, deadline: float) -> None:
        """Send the request. Raises the RequestError with which the client's body broke off, if it has by now."""
        exchange = self.exchange
        request = exchange.request
        content = request.content
        length: int | None
        if type(content) is bytes:
            length = len(content)
        else:
            assert isinstance(content, Pipe)
            if content.error is not None:
                raise content.error
            length = None if content.reshaped else request.content_length
        service = self._service
        host = request.host
        if not host or service.host != "preserve":
            host = service.host_for(self.target, host)
        head = request_head(exchange, self.headers, host, length)
        timeouts = service.timeouts
        wait = timeouts.response
        if deadline - now < wait:
            wait = max(0.0, deadline - now)
        self.connection = connection  # from here on it is `cancel` that gives it back, not the ticket
        connection.request(self, request.method, head, content, length is None, now, wait, timeouts.idle)

    # The connection's side (`net.upstream.User`)

    @property
    def client_ip(self) -> str:
        """The address of the client, seen through trusted proxies."""
        return self.exchange.client_ip

    def on_response(self, response: Response) -> None:
        """The answer's head came."""
        assert self._run is not None
        self._run.wake(response)

    def on_informational(self, response: Response) -> None:
        """Pass an interim answer on; the client's wait for 100 ends with the first one."""
        exchange = self.exchange
        if response.status == 100:
            if not exchange.request.expects_continue:
                return
            exchange.request.expects_continue = False
        exchange.downstream.inform(exchange, response.status, response.phrase, response.headers.fields)

    def on_failure(self, error: GatewayError) -> None:
        """No answer will come."""
        assert self._run is not None
        self._run.fail(error)

    # Ends

    def close(self, discard: bool) -> None:
        """Give the target's place back; `discard`: also drop the connection with what is still to come on it."""
        if not self._open:
            return
        self._open = False
        self.target.in_flight -= 1
        if discard:
            if self.connection is not None:
                self.connection.cancel(self)
            elif self._ticket is not None:
                self._ticket.cancel()


def in_time(error: GatewayError, now: float, deadline: float, total: float) -> GatewayError:
    """Return `error`, or total_timeout in its place when it was the exchange's own time that ran out."""
    if error.reason in (Reason.RESPONSE_TIMEOUT, Reason.CONNECT_TIMEOUT) and now >= deadline:
        return UpstreamError(Reason.TOTAL_TIMEOUT, f"No answer within {total:g} s, all tries included", Retry.NEVER)
    return error
