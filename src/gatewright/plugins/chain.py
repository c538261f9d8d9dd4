"""A route's plugins, compiled: one flat tuple per phase that holds only the hooks that are overridden.

Six synchronous hooks cost about a microsecond. A chain with an `async def` hook says so (`waits`), and its exchanges
run in a Task, as do those that an `around` wants; all others never leave the event loop's callback.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gatewright.core.repetition import Repeater
from gatewright.plugins.base import AnyPlugin, Plugin

Hook = Callable[..., Any]
_QUESTIONS = ("wants_body", "wants_response_body", "wants_around", "repeat")


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A hook that is not a plain call: it waits, or wants a body first. No two are equal."""

    hook: Hook | None
    plugin: AnyPlugin
    is_async: bool
    buffers: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """The hooks of one route. `request` and `response` are called plainly unless `*_steps` is set."""

    plugins: tuple[AnyPlugin, ...] = ()
    request: tuple[Hook, ...] = ()
    request_steps: tuple[Step, ...] | None = None
    upstream: tuple[Step, ...] = ()
    around: tuple[AnyPlugin, ...] = ()
    response: tuple[Hook, ...] = ()
    response_steps: tuple[Step, ...] | None = None
    request_chunks: tuple[Hook, ...] = ()
    response_chunks: tuple[Hook, ...] = ()
    done: tuple[Hook, ...] = ()
    waits: bool = False  # some hook is `async def`
    needs_task: bool = False  # that, or an `around` that may want the exchange
    repeater: Repeater | None = None  # who may know that an answer can be repeated: nobody else has a part in it

    def for_refusals(self) -> "Chain":
        """Return the chain of answers to requests that no route takes: it sees the answer, not the request."""
        return compile_chain(self.plugins, request=False)


def overrides(plugin: AnyPlugin, phase: str) -> bool:
    """Tell whether the plugin has its own `phase`: by its settings it may have the base's, as what a property gives."""
    return getattr(getattr(plugin, phase), "__func__", None) is not getattr(Plugin, phase)


def compile_chain(plugins: Sequence[AnyPlugin], request: bool = True) -> Chain:
    """Compile plugins in run order. Raises TypeError for an `async def` where only `def` can work."""
    for plugin in plugins:
        for phase in ("on_done", "on_request_chunk", "on_response_chunk", *_QUESTIONS):
            if inspect.iscoroutinefunction(getattr(plugin, phase)):
                raise TypeError(f"plugin {plugin.name}: {phase} must be a plain def")
        if not inspect.iscoroutinefunction(plugin.around):
            raise TypeError(f"plugin {plugin.name}: around must be an async def")
    before = _steps(plugins, "on_request", "body") if request else ()
    upstream = _steps(plugins, "on_upstream_request", None) if request else ()
    around = tuple(plugin for plugin in plugins if overrides(plugin, "around")) if request else ()
    after = _steps(plugins, "on_response", "response_body")
    waits = any(step.is_async for step in (*before, *upstream, *after))
    return Chain(
        plugins=tuple(plugins),
        request=_plain(before),
        request_steps=before if _needs_steps(before) else None,
        upstream=upstream,
        around=around,
        response=_plain(after),
        response_steps=after if _needs_steps(after) else None,
        request_chunks=_hooks(plugins, "on_request_chunk") if request else (),
        response_chunks=_hooks(plugins, "on_response_chunk"),
        done=_hooks(plugins, "on_done"),
        waits=waits,
        needs_task=waits or bool(around),
        repeater=_repeater(plugins) if request else None,
    )


def _repeater(plugins: Sequence[AnyPlugin]) -> Repeater | None:
    """Return the `repeat` of the only plugin. A subclass may do more than what its base repeats: its own is needed."""
    return plugins[0].repeat if len(plugins) == 1 and "repeat" in vars(type(plugins[0])) else None


def _steps(plugins: Sequence[AnyPlugin], phase: str, body: str | None) -> tuple[Step, ...]:
    steps = []
    for plugin in plugins:
        hook = getattr(plugin, phase) if overrides(plugin, phase) else None
        buffers = body is not None and getattr(plugin, body) == "buffer"
        if hook is not None or buffers:
            steps.append(Step(hook, plugin, hook is not None and inspect.iscoroutinefunction(hook), buffers))
    return tuple(steps)


def _needs_steps(steps: tuple[Step, ...]) -> bool:
    return any(step.is_async or step.buffers for step in steps)


def _plain(steps: tuple[Step, ...]) -> tuple[Hook, ...]:
    return tuple(step.hook for step in steps if step.hook is not None)


def _hooks(plugins: Sequence[AnyPlugin], phase: str) -> tuple[Hook, ...]:
    return tuple(getattr(plugin, phase) for plugin in plugins if overrides(plugin, phase))
