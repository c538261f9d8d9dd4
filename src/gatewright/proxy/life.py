"""The life of an exchange, from its head to its last byte. Read `_live` from top to bottom.

One coroutine an exchange, stepped by the callbacks that bring what it waits for (`core.tasks`). A plugin, a target or a
client that goes away may end it at any wait; the `finally` gives back what it holds.
"""

import asyncio
import logging
from typing import Protocol

from gatewright.core.clock import Clock
from gatewright.core.errors import (
    GatewayError,
    MethodNotAllowed,
    Reason,
    RequestError,
    Retry,
    ServiceUnavailable,
    UpstreamError,
    status_for,
)
from gatewright.core.exchange import Downstream, Exchange, problem
from gatewright.core.headers import Headers
from gatewright.core.messages import Request, Response
from gatewright.core.peer import Peer
from gatewright.core.streams import Pipe
from gatewright.core.tasks import Run
from gatewright.plugins.chain import Chain
from gatewright.proxy.call import Call
from gatewright.proxy.hooks import (
    call_done,
    call_plain,
    call_response_plain,
    filter_request,
    filter_response,
    run_request_steps,
    run_response_steps,
    surround,
)
from gatewright.proxy.route import Route, Snapshot

_log = logging.getLogger("gatewright.proxy")
_OPTIONS_STAR = {"allow": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}


class Telemetry(Protocol):
    """Who is told of each exchange at its end."""

    def record(self, exchange: Exchange, seconds: float) -> None:
        """Take a finished exchange that lasted `seconds`."""


class Proxy:
    """Answers exchanges by the present snapshot. `snapshot` may be swapped at any time: an exchange keeps its own."""

    def __init__(self, snapshot: Snapshot, clock: Clock, telemetry: Telemetry) -> None:
        self.snapshot = snapshot
        self.in_flight = 0
        self._clock = clock
        self._telemetry = telemetry

    # What connections call (`net.downstream.Handler`)

    def handle(self, exchange: Exchange) -> None:
        """Answer `exchange`."""
        snapshot = self.snapshot
        refusal: GatewayError | None = None
        try:
            match = snapshot.table.match(exchange.request)
            route = match.value
            exchange.route = route.name
            exchange.params = match.params
            if route.split is not None:
                route = route.split.choose()
        except GatewayError as error:
            route, refusal = snapshot.unrouted, error
        self.in_flight += 1
        run = exchange.run = Run()
        run.start(self._live(exchange, route, run, refusal), route.chain.needs_task)

    def refuse(self, error: GatewayError, downstream: Downstream, peer: Peer, started: float) -> tuple[Response, str]:
        """Return the answer to a request that could not be read, and its ID; the exchange is over with it."""
        exchange = Exchange(Request("", "", None, 1, b"", Headers()), peer, downstream, started)
        response = self._refusal(exchange, error)
        assert response is not None
        exchange.status = response.status
        exchange.bytes_out = len(response.content) if isinstance(response.content, bytes) else 0
        self._telemetry.record(exchange, self._clock.now() - started)
        return response, exchange.id

    def client_gone(self, exchange: Exchange) -> None:
        """End the exchange: nobody waits for its answer any more."""
        if exchange.run is not None:
            exchange.run.fail(RequestError(Reason.CLIENT_GONE, "The client went away"))

    # The life

    async def _live(self, exchange: Exchange, route: Route, run: Run, refusal: GatewayError | None) -> None:
        chain = route.chain
        call: Call | None = None
        error: GatewayError | None = None
        try:
            try:
                if refusal is not None:
                    raise refusal
                if exchange.request.content or exchange.request.content_length != 0:
                    self._limit_body(exchange, route)
                response: Response | None = None
                if chain.request_steps is not None:
                    response = await run_request_steps(chain.request_steps, exchange, run)
                elif chain.request:
                    response = call_plain(chain.request, exchange)
                if response is None and route.answer is not None:
                    response = route.answer(exchange)
                elif response is None:
                    if chain.request_chunks:
                        filter_request(chain, exchange)
                    call = Call(exchange, route, run, self._clock)
                    if chain.around:
                        response = await surround(chain.around, exchange, call.run)()
                    else:
                        response = await call.run()
            except (GatewayError, asyncio.CancelledError, Exception) as exc:
                error = self._understood(exchange, exc)
                response = self._refusal(exchange, error)
            if response is not None:
                exchange.response = response
                if chain.response or chain.response_chunks or chain.response_steps:
                    response = await self._after(exchange, chain, response, run)
                if call is not None and call.response is not None and response is not call.response:
                    call.close(error)
                if response.status == 101:
                    await self._tunnel(exchange, response, call, run)
                elif not exchange.downstream.respond(exchange, response, run.wake):
                    await run
        except (GatewayError, asyncio.CancelledError, Exception) as exc:
            error = self._understood(exchange, exc)
            exchange.reason = error.reason
            exchange.downstream.abort(exchange)
        finally:
            if call is not None:
                call.close(error)
            self._end(exchange, chain)

    def _limit_body(self, exchange: Exchange, route: Route) -> None:
        limit, request = route.body_limit, exchange.request
        if not limit:
            return
        if request.content_length is not None and request.content_length > limit:
            raise RequestError(Reason.BODY_TOO_LARGE, f"The body may have {limit} bytes")
        content = request.content
        if isinstance(content, Pipe):
            content.limit = limit
            if content.total > limit:
                raise RequestError(Reason.BODY_TOO_LARGE, f"The body may have {limit} bytes")
        elif len(content) > limit:
            raise RequestError(Reason.BODY_TOO_LARGE, f"The body may have {limit} bytes")

    async def _after(self, exchange: Exchange, chain: Chain, response: Response, run: Run) -> Response:
        """Run the response phase; an answer that a plugin breaks is replaced by a 500."""
        if response.status == 101:
            return response
        try:
            if chain.response_steps is None:
                call_response_plain(chain.response, exchange, response)
            else:
                await run_response_steps(chain.response_steps, exchange, response, run)
            if chain.response_chunks:
                filter_response(chain, exchange, response)
        except GatewayError as exc:
            replacement = self._refusal(exchange, exc)
            if replacement is None:
                raise
            exchange.response = replacement
            return replacement
        return response

    async def _tunnel(self, exchange: Exchange, response: Response, call: Call | None, run: Run) -> None:
        if call is None or call.attempt is None or exchange.request.upgrade is None:
            raise UpstreamError(Reason.UPSTREAM_MALFORMED, "The target changed protocols unasked", Retry.NEVER)
        exchange.downstream.tunnel(exchange, response, call.attempt.connection, run.wake)
        await run

    def _end(self, exchange: Exchange, chain: Chain) -> None:
        self.in_flight -= 1
        if chain.done:
            call_done(chain.done, exchange)
        self._telemetry.record(exchange, self._clock.now() - exchange.started)

    # Errors

    def _understood(self, exchange: Exchange, exc: BaseException) -> GatewayError:
        """Return what `exc` means for the exchange; a defect of the gateway is logged with its traceback."""
        if isinstance(exc, GatewayError):
            return exc
        if isinstance(exc, asyncio.CancelledError):
            cause = exchange.run.cancelled_by() if exchange.run is not None else None
            if isinstance(cause, GatewayError):
                return cause
            return GatewayError(Reason.DRAINING, "The gateway is shutting down")
        _log.error("request %s failed by a defect of the gateway", exchange.id, exc_info=exc)
        return GatewayError(Reason.INTERNAL_ERROR, "The gateway failed on this request", repr(exc))

    def _refusal(self, exchange: Exchange, error: GatewayError) -> Response | None:
        """Return the answer that tells `error`, or None when nobody is left to be told."""
        exchange.reason = error.reason
        exchange.cause = error.cause
        status = status_for(error.reason)
        if status is None:
            return None
        if error.reason is Reason.NO_ROUTE and exchange.request.path == "*":
            exchange.reason = None
            return Response(204, dict(_OPTIONS_STAR))
        headers: dict[str, str] = {}
        if isinstance(error, ServiceUnavailable):
            headers["retry-after"] = str(error.retry_after)
        elif status == 503:
            headers["retry-after"] = "1"
        elif isinstance(error, MethodNotAllowed):
            headers["allow"] = ", ".join(error.allowed)
        return problem(status, error.reason, error.detail, exchange.id, headers)
