"""Running a chain's hooks: their errors, bodies that are buffered first, hooks that wait, filters of streams.

A hook may raise anything, SystemExit and a CancelledError of its own too: that costs its exchange and no other.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from gatewright.core.errors import GatewayError, Reason, RequestError, Retry, UpstreamError
from gatewright.core.exchange import Exchange
from gatewright.core.headers import Field
from gatewright.core.messages import Message, Response
from gatewright.core.streams import Pipe
from gatewright.core.tasks import Run
from gatewright.plugins.base import AnyPlugin, Call, UpstreamAttempt
from gatewright.plugins.chain import Chain, Hook, Step

_log = logging.getLogger("gatewright.plugins")
T = TypeVar("T")


class PluginError(GatewayError):
    """A plugin raised. The client learns which request failed, not why; the log has the traceback."""

    def __init__(self, plugin: str, error: BaseException) -> None:
        super().__init__(Reason.PLUGIN_ERROR, "A plugin of the gateway failed", f"{plugin}: {error!r}")


def plugin_failed(hook: Hook | None, exchange: Exchange, error: BaseException) -> PluginError:
    """Log the traceback of a hook that raised and return the error that ends the exchange."""
    owner = getattr(hook, "__self__", None)
    name = getattr(owner, "name", "") or repr(hook)
    extra = {"request_id": exchange.id}
    _log.error("plugin %s failed in request %s", name, exchange.id, exc_info=error, extra=extra)
    return PluginError(name, error)


def _unless_ended(error: BaseException) -> None:
    """Raise `error` again if the exchange is being ended with it: what a hook raised while it waited is the hook's own
    unless its Task is cancelled, or closed with its loop.
    """
    task = asyncio.current_task()
    cancelled = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling()
    if cancelled or isinstance(error, GeneratorExit):
        raise error


def _timed(hooks: Sequence[T], exchange: Exchange, phase: str) -> Iterable[T]:
    """Return the hooks of a phase; where the exchange's trace is recorded, each is noted with its time."""
    trace = exchange.trace
    return hooks if trace is None or not trace.recording else trace.timed(hooks, phase)


def call_plain(hooks: tuple[Hook, ...], exchange: Exchange) -> Response | None:
    """Call `def` request hooks in order; the first answer ends it."""
    for hook in _timed(hooks, exchange, "on_request"):
        try:
            response = hook(exchange)
        except GatewayError:
            raise
        except BaseException as exc:
            raise plugin_failed(hook, exchange, exc) from exc
        if response is not None:
            return _checked(hook, exchange, response)
    return None


def _checked(hook: Hook, exchange: Exchange, response: Any) -> Response:
    if isinstance(response, Response):
        return response
    error = TypeError(f"on_request must return a Response or None, not {type(response).__name__}")
    raise plugin_failed(hook, exchange, error)


async def run_request_steps(steps: tuple[Step, ...], exchange: Exchange, run: Run) -> Response | None:
    """Run request hooks of which some wait or want the body."""
    request = exchange.request
    for step in _timed(steps, exchange, "on_request"):
        request.readable = False
        if step.buffers and _wants(step.plugin.wants_body, exchange):
            await _buffer(request, step.plugin.max_body, exchange, run, _too_large)
            request.content_length = len(request.content) if isinstance(request.content, bytes) else None
        if step.hook is None:
            continue
        try:
            response = step.hook(exchange)
            if step.is_async:
                response = await response
        except GatewayError:
            raise
        except BaseException as exc:
            _unless_ended(exc)
            raise plugin_failed(step.hook, exchange, exc) from exc
        if response is not None:
            return _checked(step.hook, exchange, response)
    request.readable = False
    return None


async def run_response_steps(steps: tuple[Step, ...], exchange: Exchange, response: Response, run: Run) -> None:
    """Run response hooks of which some wait or want the body."""
    for step in _timed(steps, exchange, "on_response"):
        response.readable = not response.from_target
        if step.buffers and _wants(step.plugin.wants_response_body, exchange, response):
            await _buffer(response, step.plugin.max_body, exchange, run, _answer_too_large)
        if step.hook is None:
            continue
        try:
            result = step.hook(exchange, response)
            if step.is_async:
                await result
        except GatewayError:
            raise
        except BaseException as exc:
            _unless_ended(exc)
            raise plugin_failed(step.hook, exchange, exc) from exc


def _wants(hook: Hook, exchange: Exchange, *response: Response) -> bool:
    try:
        return bool(hook(exchange, *response))
    except GatewayError:
        raise
    except BaseException as exc:
        raise plugin_failed(hook, exchange, exc) from exc


def call_response_plain(hooks: tuple[Hook, ...], exchange: Exchange, response: Response) -> None:
    """Call `def` response hooks in order."""
    for hook in _timed(hooks, exchange, "on_response"):
        try:
            hook(exchange, response)
        except GatewayError:
            raise
        except BaseException as exc:
            raise plugin_failed(hook, exchange, exc) from exc


def call_done(hooks: tuple[Hook, ...], exchange: Exchange) -> None:
    """Call done hooks; one that raises stops no other."""
    for hook in _timed(hooks, exchange, "on_done"):
        try:
            hook(exchange)
        except BaseException as exc:
            plugin_failed(hook, exchange, exc)


async def run_upstream_steps(steps: tuple[Step, ...], exchange: Exchange, attempt: UpstreamAttempt) -> None:
    """Run the hooks before an attempt."""
    for step in _timed(steps, exchange, "on_upstream_request"):
        assert step.hook is not None
        try:
            result = step.hook(exchange, attempt)
            if step.is_async:
                await result
        except GatewayError:
            raise
        except BaseException as exc:
            _unless_ended(exc)
            raise plugin_failed(step.hook, exchange, exc) from exc


def wanting(plugins: tuple[AnyPlugin, ...], exchange: Exchange) -> tuple[AnyPlugin, ...]:
    """Return those of `plugins` that want to surround this exchange's call. Ask once, after the request phase."""
    return tuple([plugin for plugin in plugins if _wants(plugin.wants_around, exchange)]) if plugins else ()


def surround(plugins: tuple[AnyPlugin, ...], exchange: Exchange, call: Call) -> Call:
    """Return `call` inside the `around` of each of `plugins`, the first outermost."""
    for plugin in reversed(plugins):
        call = partial(_around, plugin, exchange, call)
    return call


async def _around(plugin: AnyPlugin, exchange: Exchange, call: Call) -> Response:
    try:
        for around in _timed((plugin.around,), exchange, "around"):
            response: object = await around(exchange, call)
    except GatewayError:
        raise
    except BaseException as exc:
        _unless_ended(exc)
        raise plugin_failed(plugin.around, exchange, exc) from exc
    if not isinstance(response, Response):
        error = TypeError(f"around must return a Response, not {type(response).__name__}")
        raise plugin_failed(plugin.around, exchange, error)
    if isinstance(response.content, Pipe) and response.content.error is not None:
        raise response.content.error  # it broke, or was given up, before any of it was told to the client
    return response


def filter_request(chain: Chain, exchange: Exchange) -> None:
    """Put the chunk hooks into the way of the request's body."""
    if exchange.request.content or exchange.request.content_length is None:
        _filter(exchange.request, chain.request_chunks, exchange)


def filter_response(chain: Chain, exchange: Exchange, response: Response) -> None:
    """Put the chunk hooks into the way of the answer's body."""
    if response.content and exchange.request.method != "HEAD":
        _filter(response, chain.response_chunks, exchange)
        response.content_length = None


def _filter(message: Message, hooks: tuple[Hook, ...], exchange: Exchange) -> None:
    for hook in hooks:
        change = partial(_change, hook, exchange)
        if isinstance(message.content, Pipe):
            message.content.add_filter(change)
        else:
            message.content = (change(message.content) if message.content else b"") + change(b"")


def _change(hook: Hook, exchange: Exchange, chunk: bytes) -> bytes:
    try:
        result = hook(exchange, chunk)
        if not isinstance(result, bytes):
            raise TypeError(f"a chunk hook must return bytes, not {type(result).__name__}")
    except GatewayError:
        raise
    except BaseException as exc:
        raise plugin_failed(hook, exchange, exc) from exc
    return result


def _too_large(limit: int) -> GatewayError:
    return RequestError(Reason.BODY_TOO_LARGE, f"The body may have {limit} bytes here")


def _answer_too_large(limit: int) -> GatewayError:
    detail = f"The target's answer has more than the {limit} bytes that a plugin takes"
    return UpstreamError(Reason.RESPONSE_TOO_LARGE, detail, Retry.NEVER)


class _Collector:
    """A sink that keeps a body, up to a limit."""

    def __init__(self, limit: int, refuse: Callable[[int], GatewayError]) -> None:
        self.congested = False
        self.feeder: Pipe | None = None
        self.pieces: list[bytes] = []
        self._size = 0
        self._limit = limit
        self._refuse = refuse

    def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._limit:
            self.pieces.append(data)
        elif self.feeder is not None:
            self.feeder.fail(self._refuse(self._limit))

    def end(self, trailers: list[Field]) -> None:
        """Nothing to do: the pipe tells who waits."""

    def broken(self, error: GatewayError) -> None:
        self.pieces.clear()


async def buffer_answer(exchange: Exchange, response: Response, limit: int, run: Run) -> None:
    """Make an answer's body complete. Raises GatewayError, response_too_large past `limit` bytes."""
    await _buffer(response, limit, exchange, run, _answer_too_large)


async def _buffer(
    message: Message, limit: int, exchange: Exchange, run: Run, refuse: Callable[[int], GatewayError]
) -> None:
    """Make a message's body complete. Raises what `refuse` gives when it has more than `limit` bytes."""
    pipe = message.content
    if isinstance(pipe, Pipe):
        if message is exchange.request:
            exchange.downstream.proceed(exchange)
        collector = _Collector(limit, refuse)
        pipe.on_event = run.wake
        pipe.attach(collector)
        if pipe.ended or pipe.error is not None:
            pipe.on_event = None
        else:
            await run
        if pipe.error is not None:
            raise pipe.error
        message.content = b"".join(collector.pieces)
    elif len(pipe) > limit:
        raise refuse(limit)
    message.readable = True
