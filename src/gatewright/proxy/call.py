"""One exchange's dealings with its service: attempts, verdicts on targets, retries."""

import asyncio
from typing import Any

from gatewright.core.clock import Clock
from gatewright.core.errors import GatewayError, Reason, Retry, UpstreamError
from gatewright.core.exchange import Exchange
from gatewright.core.headers import VIA
from gatewright.core.messages import Response
from gatewright.core.streams import Pipe
from gatewright.core.tasks import Run
from gatewright.plugins.base import UpstreamAttempt
from gatewright.proxy.attempt import Attempt, in_time
from gatewright.proxy.forwarding import check_loop
from gatewright.proxy.hooks import run_upstream_steps
from gatewright.proxy.route import Rewrite, Route
from gatewright.upstream.balancers import SET_COOKIE
from gatewright.upstream.breaker import State
from gatewright.upstream.retry import may_replay
from gatewright.upstream.service import Service, is_failure, overloaded
from gatewright.upstream.target import Target

_CLOSED = State.CLOSED


class Call:
    """The upstream side of one exchange. `run` may be called again by a plugin's `around`; `close` ends it."""

    __slots__ = (
        "_admitted",
        "_clock",
        "_exchange",
        "_replayed",
        "_retries_made",
        "_retrying",
        "_route",
        "_run",
        "_taken_over",
        "_tried",
        "attempt",
        "response",
        "service",
    )

    def __init__(self, exchange: Exchange, route: Route, run: Run, clock: Clock) -> None:
        self._exchange = exchange
        self._route = route
        self._run = run
        self._clock = clock
        self._tried: tuple[Target, ...] = ()
        self._replayed = False
        self._retries_made = 0
        self._retrying = False
        self._admitted = False
        self._taken_over = False
        self.attempt: Attempt | None = None
        self.response: Response | None = None  # the answer that this call brought
        service = route.service
        assert service is not None, "a route without a service makes no calls"
        self.service: Service = service

    def take_over(self, attempt: Attempt) -> None:
        """Go on with a first attempt that was counted in and sent already (`direct`)."""
        self.attempt = attempt
        self._admitted = True
        self._taken_over = True

    def _enter(self) -> None:
        """Count in, and settle what the target is asked for. Raises GatewayError when it may not be asked."""
        exchange, service, rewrite = self._exchange, self.service, self._route.rewrite
        if exchange.request.headers.marks & VIA:
            check_loop(exchange.request.headers)
        if not self._admitted:
            if service.in_flight >= service.max_in_flight:
                raise overloaded()
            service.in_flight += 1
            self._admitted = True
        if rewrite is not None:
            exchange.rewritten = rewritten(rewrite, exchange)
        if exchange.attempts:
            self._begin_again()

    async def run(self, first: Target | None = None) -> Response:
        """Return a target's answer, after as many attempts as the service allows. Raises GatewayError.

        `first` is the target of the first attempt if it has been picked already.
        """
        exchange, service, route = self._exchange, self.service, self._route
        if not self._taken_over:
            self._enter()
        deadline = exchange.started + service.timeouts.total
        target = first
        while True:
            now = self._clock.now()
            response: Response | None = None
            error: GatewayError | None = None
            sent, self._taken_over = self._taken_over, False
            if sent and self.attempt is not None:
                attempt, target = self.attempt, self.attempt.target
            else:
                if target is None:
                    target = service.pick(exchange, now, self._tried)
                if target.breaker is not None and target.breaker.state is not _CLOSED:
                    target.breaker.acquire(now)  # for a replay too: the attempt before it has given its place back
                attempt = self._begin(target, now)
            try:
                if route.chain.upstream:
                    await self._before(attempt)
                if not sent and not attempt.send(deadline, self._replayed):
                    attempt.send_on(_alive(await self._run), self._clock.now(), deadline)
                response = await self._run
                if exchange.trace is not None:
                    exchange.trace.answered(self._clock.now(), response.status, type(response.content) is bytes)
                if response.status < 400 or not await self._retries(None, response.status, deadline):
                    return self._accept(attempt, response)
            except GatewayError as exc:
                if response is not None:
                    raise
                error = in_time(exc, self._clock.now(), deadline, service.timeouts.total)
                if exchange.trace is not None:
                    exchange.trace.failed(self._clock.now(), error)
            except asyncio.CancelledError:
                # A plugin's own time limit: what still comes of this attempt must not be taken for another's.
                self._drop_attempt()
                self._run.clear()
                raise
            if error is not None:
                if self._replays(error):
                    continue
                if not self._goes_on(error, deadline) and not await self._retries(error, None, deadline):
                    raise error
            target = None

    def _begin(self, target: Target, now: float) -> Attempt:
        exchange = self._exchange
        headers = exchange.request.headers
        if self._route.chain.upstream:
            headers = headers.copy()
        exchange.attempts += 1
        exchange.target = target.name
        if exchange.trace is not None:
            exchange.trace.begin_attempt(target, now)
        attempt = self.attempt = Attempt(exchange, self.service, target, headers, self._run, now)
        return attempt

    async def _before(self, attempt: Attempt) -> None:
        exchange = self._exchange
        seen = UpstreamAttempt(attempt.headers, attempt.target.name, exchange.attempts)
        await run_upstream_steps(self._route.chain.upstream, exchange, seen)

    def _accept(self, attempt: Attempt, response: Response) -> Response:
        exchange = self._exchange
        now = self._clock.now()
        exchange.upstream_seconds = now - attempt.started
        exchange.upstream_status = response.status
        if exchange.kept is not None and SET_COOKIE in exchange.kept:
            response.headers.add("set-cookie", exchange.kept[SET_COOKIE])
        self.response = response
        if type(response.content) is bytes and response.status != 101:
            self.service.judge(attempt.target, response.status >= 500, now, attempt.started)
            attempt.target.in_flight -= 1
            self.attempt = None
        elif response.status == 101 and exchange.request.upgrade is None:
            raise UpstreamError(Reason.UPSTREAM_MALFORMED, "The target changed protocols unasked", Retry.NEVER)
        elif attempt.target.breaker is not None and attempt.target.breaker.state is not _CLOSED:
            self._judge(None, response.status)  # a probe ends with its head: a stream may last for hours
        return response

    def _begin_again(self) -> None:
        """A plugin's `around` calls once more: give up what the call before has brought."""
        before, self.response = self.response, None
        if before is not None and self.attempt is not None:
            self._judge(None, before.status)
            if isinstance(before.content, Pipe):
                before.content.fail(GatewayError(Reason.PLUGIN_ERROR, "The answer was given up for another one"))
        self._drop_attempt()
        self._run.clear()
        if not self._replayable():
            cause = 'the body was a stream and is gone: a plugin that calls twice declares body = "buffer"'
            raise GatewayError(Reason.PLUGIN_ERROR, "The request cannot be sent a second time", cause)

    def _replays(self, error: GatewayError) -> bool:
        """Tell whether the attempt met a connection that its target had closed while idle: that is nobody's failure."""
        reused = getattr(error, "reused", False)
        method = self._exchange.request.method
        if not may_replay(method, self._replayable(), error, reused, False, self._replayed):
            return False
        self._replayed = True
        self._drop_attempt()
        return True

    def _replayable(self) -> bool:
        content = self._exchange.request.content
        return isinstance(content, bytes) or content.replayable

    def _goes_on(self, error: GatewayError, deadline: float) -> bool:
        """Tell whether the request, of which no target has seen anything, goes on to the next one at once."""
        assert self.attempt is not None
        now = self._clock.now()
        tried = (*self._tried, self.attempt.target)
        if now >= deadline or not self.service.retry.may_go_on(error) or not self.service.has_another(now, tried):
            return False
        self._leave_target(error, None)
        return True

    async def _retries(self, error: GatewayError | None, status: int | None, deadline: float) -> bool:
        """Tell whether another attempt follows the present one, which has failed; return when it may start."""
        exchange, policy = self._exchange, self.service.retry
        number = self._retries_made + 1
        if not policy.may_retry(exchange.request.method, self._replayable(), error, status, number):
            return False
        pause = policy.backoff(number)
        if self._clock.now() + pause >= deadline:
            return False
        if not self._retrying:
            self._retrying = policy.budget.acquire(self.service.in_flight)
            if not self._retrying:
                return False
        self._retries_made = number
        self._leave_target(error, status)
        # A timer of its own: retries are rare, and the shared timers are too coarse for 25 ms.
        handle = asyncio.get_running_loop().call_later(pause, self._run.wake)
        try:
            await self._run
        finally:
            handle.cancel()
        return True

    def _leave_target(self, error: GatewayError | None, status: int | None) -> None:
        assert self.attempt is not None
        self._judge(error, status)
        self._tried = (*self._tried, self.attempt.target)
        self._drop_attempt()

    def _judge(self, error: GatewayError | None, status: int | None) -> None:
        """Tell breaker and outlier ejection about the present attempt, once."""
        attempt = self.attempt
        if attempt is None or attempt.judged:
            return
        attempt.judged = True
        if status is None and not is_failure(error):
            if attempt.target.breaker is not None:
                attempt.target.breaker.release(attempt.started)
            return
        failed = is_failure(error) or (status is not None and status >= 500)
        self.service.judge(attempt.target, failed, self._clock.now(), attempt.started)

    def _drop_attempt(self) -> None:
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            if attempt.target.breaker is not None and not attempt.judged:
                attempt.target.breaker.release(attempt.started)
            content = self._exchange.request.content
            if isinstance(content, Pipe):
                content.detach()
            attempt.close(discard=True)

    def close(self, error: GatewayError | None) -> None:
        """The exchange is over, by `error` if not None: give everything back, drop what nobody will read."""
        if self.attempt is not None:
            if not self.attempt.judged:
                body = self.response.content if self.response is not None else None
                if error is None and isinstance(body, Pipe):
                    error = body.error
                self._judge(error, self.response.status if self.response is not None else None)
            self._drop_attempt()
        if self._retrying:
            self._retrying = False
            self.service.retry.budget.release()
        if self._admitted:
            self._admitted = False
            self.service.in_flight -= 1


def _alive(connection: Any) -> Any:
    """Return the connection; raise if it was lost on its way here, which takes a turn of the loop in a Task."""
    if connection.is_closed:
        raise UpstreamError(Reason.CONNECT_FAILED, "The target closed the new connection", Retry.SAFE)
    return connection


def rewritten(rewrite: Rewrite, exchange: Exchange) -> str:
    path = rewrite(exchange.params, exchange.request.path)
    query = exchange.request.query
    return path if query is None else f"{path}?{query}"
