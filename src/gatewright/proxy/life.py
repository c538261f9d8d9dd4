"""The life of an exchange, from its head to its last byte. Read `_live` from top to bottom.

One coroutine an exchange, stepped by the callbacks that bring what it waits for (`core.tasks`). A plugin, a target or a
client that goes away may end it at any wait; the `finally` gives back what it holds.
"""

import asyncio
import logging
from dataclasses import dataclass
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
from gatewright.core.headers import VIA, Headers
from gatewright.core.messages import Request, Response
from gatewright.core.peer import Peer
from gatewright.core.repetition import Repeater
from gatewright.core.tasks import Run
from gatewright.net.repeats import Repeats
from gatewright.plugins.base import AnyPlugin
from gatewright.plugins.chain import Chain
from gatewright.proxy.call import Call, rewritten
from gatewright.proxy.direct import DirectAttempt
from gatewright.proxy.hooks import (
    PluginError,
    call_done,
    call_plain,
    call_response_plain,
    filter_request,
    filter_response,
    run_request_steps,
    run_response_steps,
    surround,
    wanting,
)
from gatewright.proxy.route import Generation, Route, Snapshot
from gatewright.telemetry.tracing import Tracer
from gatewright.upstream.balancers import SET_COOKIE
from gatewright.upstream.breaker import State
from gatewright.upstream.service import Service
from gatewright.upstream.target import Target

_log = logging.getLogger("gatewright.proxy")
_CLOSED = State.CLOSED
_OPTIONS_STAR = {"allow": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}


class Telemetry(Protocol):
    """Who is told of each exchange at its end."""

    def record(self, exchange: Exchange, seconds: float) -> None:
        """Take a finished exchange that lasted `seconds`."""


@dataclass(frozen=True, slots=True)
class _Start:
    """How far an exchange has come before its life as a coroutine begins."""

    refusal: GatewayError | None = None  # what its answer must say
    asked: bool = False  # the request hooks have run
    response: Response | None = None  # which a request hook gave
    target: Target | None = None  # which has been picked for the first attempt
    call: Call | None = None  # which has been sent
    around: tuple[AnyPlugin, ...] | None = None  # who surrounds the call, if they have been asked


class Proxy:
    """Answers exchanges by the present snapshot. `adopt` swaps it at any time: an exchange keeps its own."""

    def __init__(
        self, snapshot: Snapshot, clock: Clock, telemetry: Telemetry | None, tracer: Tracer | None = None
    ) -> None:
        self.snapshot = snapshot
        self.telemetry = telemetry
        self.tracer = tracer
        self._clock = clock
        self._earlier: list[Generation] = []  # of snapshots before, while they have exchanges
        self.repeats = {"http": Repeats(), "https": Repeats()}
        self.over: GatewayError | None = None  # from the moment on when it is the gateway that closes connections

    def adopt(self, snapshot: Snapshot) -> None:
        """Answer by `snapshot` from now on."""
        self._earlier = [each for each in (*self._earlier, self.snapshot.generation) if each.in_flight]
        self.snapshot = snapshot
        for repeats in self.repeats.values():
            repeats.clear()

    @property
    def in_flight(self) -> int:
        """How many exchanges are under way, on whatever snapshot."""
        return sum(each.in_flight for each in (self.snapshot.generation, *self._earlier))

    # What connections call (`net.downstream.Handler`)

    def handle(self, exchange: Exchange) -> Repeater | None:
        """Answer `exchange`; see `net.answering.Handler` for what is returned."""
        snapshot = self.snapshot
        repeater: Repeater | None = None
        if self.tracer is not None:
            exchange.trace = self.tracer.begin(exchange)
        refusal: GatewayError | None = None
        try:
            match = snapshot.table.match(exchange.request)
            route = match.value
            exchange.route = route.name
            exchange.params = match.params
            repeater = route.repeater
            if route.split is not None:
                route = route.split.choose()
            exchange.service = route.service_name  # plugins of the request phase may ask
        except GatewayError as error:
            route, refusal = snapshot.unrouted, error
        route.generation.in_flight += 1
        content = exchange.request.content
        if route.direct and refusal is None and type(content) is bytes:
            start = self._go_directly(exchange, route, content)
            if start is None:
                return repeater if repeater is not None and exchange.reason is None and self.tracer is None else None
        else:
            start = _Start(refusal)
        run = exchange.run = Run()
        run.start(self._live(exchange, route, run, start), route.chain.needs_task and start.around != ())
        return None

    def repeated(self, exchange: Exchange) -> None:
        """Tell of an exchange that was answered again."""
        try:
            if self.telemetry is not None:
                self.telemetry.record(exchange, self._clock.now() - exchange.started)
        except Exception:
            _unrecorded(exchange)

    # The short way (see `direct`)

    def _go_directly(self, exchange: Exchange, route: Route, content: bytes) -> "_Start | None":
        """Send the request and return None, or return how far it came."""
        request, chain, service = exchange.request, route.chain, route.service
        assert service is not None
        if request.upgrade is not None or request.headers.marks & VIA or service.in_flight >= service.max_in_flight:
            return _Start()
        if content and route.body_limit and len(content) > route.body_limit:
            return _Start()
        if chain.request or chain.around:
            try:
                response = call_plain(chain.request, exchange)
                if response is None and (around := wanting(chain.around, exchange)):
                    return _Start(asked=True, around=around)
            except GatewayError as error:
                return _Start(error, around=())
            if response is not None:
                if type(response.content) is not bytes or response.status == 101:
                    return _Start(asked=True, response=response, around=())
                self._deliver(exchange, route, response)
                return None
        now = exchange.started
        target = service.balancer.pick(service.targets, exchange, now)
        if target is None or (target.breaker is not None and target.breaker.state is not _CLOSED):
            return _Start(asked=True, target=target, around=())
        connection = target.pool.take(now)
        if connection is None:
            return _Start(asked=True, target=target, around=())
        service.in_flight += 1
        exchange.target = target.name
        exchange.attempts = 1
        if exchange.trace is not None and exchange.trace.recording:
            exchange.trace.begin_attempt(target, now)
        attempt = DirectAttempt(exchange, route, service, target, self)
        exchange.run = attempt
        try:
            if route.rewrite is not None:
                exchange.rewritten = rewritten(route.rewrite, exchange)
            attempt.send_on(connection, now, now + service.timeouts.total)
        except Exception as exc:  # a plugin has made of the request what cannot be sent
            connection.close()
            attempt.on_failure(self._understood(exchange, exc))
        return None

    def finish(self, attempt: DirectAttempt, response: Response) -> None:
        """The answer is complete: judge, run the response phase, deliver."""
        exchange = attempt.exchange
        service: Service = attempt.route.service
        target = attempt.target
        now = attempt.connection.released_at or self._clock.now()  # an application's call knows no clock
        exchange.upstream_seconds = now - attempt.started
        exchange.upstream_status = response.status
        breaker = target.breaker
        if response.status >= 500 or target.consecutive_failures or breaker is None:
            service.judge(target, response.status >= 500, now, attempt.started)
        else:
            breaker.record(True, now, attempt.started)
        target.in_flight -= 1
        service.in_flight -= 1
        if exchange.kept is not None and SET_COOKIE in exchange.kept:
            response.headers.add("set-cookie", exchange.kept[SET_COOKIE])
        self._deliver(exchange, attempt.route, response)

    def _deliver(self, exchange: Exchange, route: Route, response: Response) -> None:
        """Run the response phase over a complete answer, send it, and end the exchange."""
        chain = route.chain
        exchange.response = response
        if chain.response:
            try:
                call_response_plain(chain.response, exchange, response)
            except GatewayError as error:
                response = exchange.response = self._refusal(exchange, error) or response
        exchange.run = None  # else exchange and attempt hold each other until the garbage collector comes
        try:
            exchange.downstream.respond(exchange, response, _nothing)
        except Exception as exc:  # a plugin has made of the answer what cannot be sent
            exchange.reason = self._understood(exchange, exc).reason
            exchange.downstream.abort(exchange)
        self._end(exchange, route)

    def hand_over(self, attempt: DirectAttempt) -> Run:
        """Let the long way go on with an attempt of the short one; return what waits for its outcome."""
        exchange = attempt.exchange
        run = exchange.run = Run()
        call = Call(exchange, attempt.route, run, self._clock)
        call.take_over(attempt)
        run.start(self._live(exchange, attempt.route, run, _Start(call=call, around=())))
        return run

    def refuse(self, error: GatewayError, downstream: Downstream, peer: Peer, started: float) -> tuple[Response, str]:
        """Return the answer to a request that could not be read, and its ID; the exchange is over with it."""
        exchange = Exchange(Request("", "", None, 1, b"", Headers()), peer, downstream, started)
        if self.tracer is not None:
            exchange.trace = self.tracer.begin(exchange)
        response = self._refusal(exchange, error)
        assert response is not None
        exchange.status = response.status
        exchange.bytes_out = len(response.content) if isinstance(response.content, bytes) else 0
        if self.telemetry is not None:
            self.telemetry.record(exchange, self._clock.now() - started)
        return response, exchange.id

    def client_gone(self, exchange: Exchange) -> None:
        """End the exchange: nobody waits for its answer any more."""
        if exchange.run is not None:
            exchange.run.fail(self.over or RequestError(Reason.CLIENT_GONE, "The client went away"))

    # The life

    async def _live(self, exchange: Exchange, route: Route, run: Run, start: "_Start") -> None:
        chain = route.chain
        call = start.call
        error: GatewayError | None = None
        try:
            try:
                if chain.needs_task:
                    run.check()  # the client may have gone before the Task began
                if start.refusal is not None:
                    raise start.refusal
                response = start.response
                if not start.asked and call is None:
                    response = await self._before(exchange, route, run)
                if response is None and route.answer is not None:
                    response = route.answer(exchange)
                elif response is None:
                    if chain.request_chunks:
                        filter_request(chain, exchange)
                    call = call or Call(exchange, route, run, self._clock)
                    around = wanting(chain.around, exchange) if start.around is None else start.around
                    if around:
                        response = await surround(around, exchange, call.run)()
                    else:
                        response = await call.run(start.target)
            except (GatewayError, asyncio.CancelledError, Exception) as exc:
                error = self._understood(exchange, exc)
                response = self._refusal(exchange, error)
            if response is not None:
                exchange.response = response
                if chain.response or chain.response_chunks or chain.response_steps:
                    response = await self._after(exchange, chain, response, run)
                if call is not None and call.response is not None and response is not call.response:
                    call.close(error)
                if chain.needs_task:
                    run.check()  # a plugin's own time limit may have hidden that the client has gone
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
            self._end(exchange, route)

    async def _before(self, exchange: Exchange, route: Route, run: Run) -> Response | None:
        """Run the request phase; a plugin may answer in it."""
        chain = route.chain
        if exchange.request.content or exchange.request.content_length != 0:
            route.limit_body(exchange.request)
        if chain.request_steps is not None:
            return await run_request_steps(chain.request_steps, exchange, run)
        return call_plain(chain.request, exchange) if chain.request else None

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
            raise UpstreamError(Reason.UPSTREAM_MALFORMED, "Nothing is behind this change of protocols", Retry.NEVER)
        connection = call.attempt.connection
        exchange.downstream.tunnel(exchange, response, connection, run.wake)
        connection.watch_tunnel(call.service.timeouts.tunnel)
        await run

    def _end(self, exchange: Exchange, route: Route) -> None:
        route.generation.in_flight -= 1
        if route.chain.done:
            call_done(route.chain.done, exchange)
        if self.telemetry is None:
            return
        try:
            self.telemetry.record(exchange, self._clock.now() - exchange.started)
        except Exception:
            _unrecorded(exchange)

    # Errors

    def _understood(self, exchange: Exchange, exc: BaseException) -> GatewayError:
        """Return what `exc` means for the exchange; a defect of the gateway is logged with its traceback."""
        if isinstance(exc, GatewayError):
            return exc
        extra = {"request_id": exchange.id}
        if isinstance(exc, asyncio.CancelledError):
            cause = exchange.run.cancelled_by() if isinstance(exchange.run, Run) else None
            if isinstance(cause, GatewayError):
                return cause
            _log.error("request %s was cancelled, though not by the gateway", exchange.id, exc_info=exc, extra=extra)
            return PluginError("a plugin", exc)
        _log.error("request %s failed by a defect of the gateway", exchange.id, exc_info=exc, extra=extra)
        return GatewayError(Reason.INTERNAL_ERROR, "The gateway failed on this request", repr(exc))

    def _refusal(self, exchange: Exchange, error: GatewayError) -> Response | None:
        """Return the answer that tells `error`, or None when nobody is left to be told."""
        exchange.reason = error.reason
        exchange.cause = error.cause
        status = status_for(error.reason)
        if error is self.over:
            exchange.status = status  # as for the others that the gateway did not wait for
            return None
        if status is None:
            return None
        if error.reason is Reason.NO_ROUTE and exchange.request.path == "*":
            exchange.reason = None
            return Response(204, dict(_OPTIONS_STAR))
        headers: dict[str, str] = {}
        if isinstance(error, ServiceUnavailable):
            headers["Retry-After"] = str(error.retry_after)
        elif status == 503:
            headers["Retry-After"] = "1"
        elif isinstance(error, MethodNotAllowed):
            headers["Allow"] = ", ".join(error.allowed)
        return problem(status, error.reason, error.detail, exchange.id, headers)


def _unrecorded(exchange: Exchange) -> None:
    """A plugin's text that no encoder takes, say: one line is lost, no connection."""
    _log.exception("request %s could not be recorded", exchange.id, extra={"request_id": exchange.id})


def _nothing() -> None:
    """Nobody waits for the end of an answer that was complete."""
