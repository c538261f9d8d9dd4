"""The plugin API. The built-in plugins use it and nothing else; so do yours.

A plugin is a class with a configuration model. It overrides the phases that it cares for, each as `def` (never waits)
or `async def` (may do I/O), except `on_done` and the chunk hooks, which are always `def`:

    on_request            the head is here; return a Response to answer at once
    on_upstream_request   before each attempt; `attempt.headers` are what the target will see
    around                surrounds the upstream call: `return await call()`
    on_response           the answer's head is here, a target's or one made here
    on_request_chunk,     each piece of a body that streams; b"" at its end; return what goes on
    on_response_chunk
    on_done               the exchange is over: look, do not touch
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict

from gatewright.core.exchange import Exchange
from gatewright.core.headers import Headers
from gatewright.core.messages import Response
from gatewright.core.repetition import Repetition

BodyMode = Literal["stream", "buffer"]
Call = Callable[[], Awaitable[Response]]


class PluginConfig(BaseModel):
    """Base of every plugin's configuration: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UpstreamAttempt:
    """One try of an exchange on one target, as `on_upstream_request` sees it.

    `headers` are what the target will see, without the fields that the gateway itself adds; `target` is its address for
    logs; `number` counts from 1.
    """

    __slots__ = ("headers", "number", "target")

    def __init__(self, headers: Headers, target: str, number: int) -> None:
        self.headers = headers
        self.target = target
        self.number = number


C = TypeVar("C", bound=PluginConfig)


class Plugin(Generic[C]):
    """One behaviour on the way of a request.

    Subclass as `class Tenant(Plugin[TenantConfig], name="tenant")`. `body = "buffer"` has the request's body complete
    before `on_request` runs (413 past `max_body` bytes), `response_body = "buffer"` the answer's before `on_response`
    (502 past it); `wants_body` and `wants_response_body` narrow that to the exchanges that need it. Every other body
    streams. Hooks run in the order of the list, in every phase.
    """

    name: ClassVar[str] = ""
    config_model: ClassVar[type[PluginConfig]] = PluginConfig
    body: ClassVar[BodyMode] = "stream"
    response_body: ClassVar[BodyMode] = "stream"
    max_body: int = 1024 * 1024
    gateway: Any  # what the gateway does for plugins (`services.GatewayServices`); set before `start`
    needs_redis: str = ""  # set by `__init__`: the setting for which the configuration must have a `state.redis`
    place: str = ""  # where the configuration names it, in words that outlive changes elsewhere; set before `start`

    def __init__(self, config: C) -> None:
        """`config` is valid; raise ValueError for what its model cannot see: `check` reports it with its place."""
        self.config = config

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name or cls.__dict__.get("name") or cls.__name__.lower()
        for base in getattr(cls, "__orig_bases__", ()):
            if isinstance(get_origin(base), type) and issubclass(get_origin(base), Plugin):
                model = get_args(base)[0]
                if isinstance(model, type):
                    cls.config_model = model

    async def start(self) -> None:
        """Open what the plugin needs; the configuration goes live only when this has returned."""

    async def stop(self) -> None:
        """Close it again; no exchange uses the plugin any more."""

    def wants_body(self, exchange: Exchange) -> bool:
        """With `body = "buffer"`: whether this exchange's body is needed."""
        return True

    def wants_response_body(self, exchange: Exchange, response: Response) -> bool:
        """With `response_body = "buffer"`: whether this answer's body is needed."""
        return True

    def wants_around(self, exchange: Exchange) -> bool:
        """With an `around`: whether this exchange's call is to be surrounded. Asked after the request phase."""
        return True

    def repeat(self, exchange: Exchange) -> Repetition | None:
        """Tell whether the answer that `on_request` has just given may be given again to the same request, and how.

        Asked only where no other plugin has a part in the exchange, and of no subclass that does not override it: what
        is repeated runs no hook.
        """
        return None

    # The phases. What a subclass does not override costs nothing: the chain leaves it out.

    def on_request(self, exchange: Exchange) -> Response | Awaitable[Response | None] | None:
        """See or change the request; return a Response to answer without asking a target."""

    def on_upstream_request(self, exchange: Exchange, attempt: UpstreamAttempt) -> Awaitable[None] | None:
        """See or change what this attempt sends."""

    async def around(self, exchange: Exchange, call: Call) -> Response:
        """Surround the upstream call: make it, or answer in its place."""
        return await call()

    def on_response(self, exchange: Exchange, response: Response) -> Awaitable[None] | None:
        """See or change the answer's head, and its body if it was asked for."""

    def on_request_chunk(self, exchange: Exchange, chunk: bytes) -> bytes:
        """Change a piece of the request's body; b"" marks its end."""
        return chunk

    def on_response_chunk(self, exchange: Exchange, chunk: bytes) -> bytes:
        """Change a piece of the answer's body; b"" marks its end."""
        return chunk

    def on_done(self, exchange: Exchange) -> None:
        """The exchange is over."""


if TYPE_CHECKING:
    AnyPlugin = Plugin[Any]
else:
    AnyPlugin = Plugin
