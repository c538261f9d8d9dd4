"""Asking a service once more for what an exchange asked for, with no client waiting: `GatewayServices.ask`.

It goes the rest of the request's way on the present snapshot: the plugins behind the one that asks, balancing, retries,
breaker. The answer comes back as the target gave it, complete. It is not recorded: nobody made this request.
"""

import asyncio
from collections.abc import Callable

from gatewright.core.clock import Clock
from gatewright.core.errors import GatewayError, Reason, RequestError
from gatewright.core.exchange import Exchange
from gatewright.core.headers import Field, Headers
from gatewright.core.messages import Request, Response
from gatewright.core.tasks import Run
from gatewright.plugins.base import AnyPlugin
from gatewright.plugins.chain import compile_chain
from gatewright.proxy.call import Call
from gatewright.proxy.hooks import buffer_answer, call_done, call_plain, run_request_steps, surround, wanting
from gatewright.proxy.route import Route, Snapshot


class Nobody:
    """The client that is not there. An exchange that is asked again has no answer to write."""

    def respond(self, exchange: Exchange, response: Response, done: Callable[[], None]) -> bool:
        """Nobody reads it."""
        return True

    def inform(self, exchange: Exchange, status: int, phrase: bytes, fields: list[Field]) -> None:
        """Nobody reads it."""

    def proceed(self, exchange: Exchange) -> None:
        """Nobody sends a body."""

    def tunnel(self, exchange: Exchange, response: Response, upstream: object, done: Callable[[], None]) -> None:
        """Nobody asked for one."""
        done()

    def abort(self, exchange: Exchange) -> None:
        """There is no connection."""


async def ask(
    snapshot: Snapshot, clock: Clock, plugin: AnyPlugin, exchange: Exchange, headers: Headers, max_body: int
) -> Response:
    """Do what `GatewayServices.ask` says. Raises GatewayError."""
    before = exchange.request
    request = Request(before.method, before.path, before.query, before.version, before.host, headers)
    route = _route_of(snapshot, request)
    if route.service is None or plugin not in route.chain.plugins:
        raise RequestError(Reason.NO_ROUTE, "The configuration has changed since")
    again = Exchange(request, exchange.peer, Nobody(), clock.now())
    again.route, again.params, again.consumer = exchange.route, exchange.params, exchange.consumer
    again.service = route.service_name
    again.kept = dict(exchange.kept or {})
    if exchange.trace is not None:
        again.trace = exchange.trace.onward()
    run = again.run = Run()
    outcome: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    run.start(_go(again, route, plugin, Call(again, route, run, clock), max_body, run, outcome), in_task=True)
    try:
        return await outcome
    except asyncio.CancelledError:
        run.fail(RequestError(Reason.CLIENT_GONE, "The plugin does not wait any more"))
        raise


def _route_of(snapshot: Snapshot, request: Request) -> Route:
    route = snapshot.table.match(request).value
    return route.split.choose() if route.split is not None else route


async def _go(
    exchange: Exchange, route: Route, plugin: AnyPlugin, call: Call, max_body: int, run: Run,
    outcome: "asyncio.Future[Response]",
) -> None:  # fmt: skip
    plugins = route.chain.plugins
    behind = compile_chain(plugins[plugins.index(plugin) + 1 :])
    route.generation.in_flight += 1
    error: GatewayError | None = None
    try:
        if behind.request_steps is not None:
            response = await run_request_steps(behind.request_steps, exchange, run)
        else:
            response = call_plain(behind.request, exchange)
        if response is None:
            response = await surround(wanting(behind.around, exchange), exchange, call.run)()
        await buffer_answer(exchange, response, max_body, run)
        if not outcome.done():
            outcome.set_result(response)
    except BaseException as exc:
        error = exc if isinstance(exc, GatewayError) else None
        if not outcome.done():
            outcome.set_exception(error or GatewayError(Reason.INTERNAL_ERROR, "The gateway failed", repr(exc)))
    finally:
        call.close(error)
        route.generation.in_flight -= 1
        call_done(behind.done, exchange)
