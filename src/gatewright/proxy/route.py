"""A compiled route, and the snapshot of all of them. Built by `control.snapshot`, never changed."""

import random
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gatewright.core.errors import Reason, RequestError
from gatewright.core.exchange import Exchange
from gatewright.core.messages import Request, Response
from gatewright.core.repetition import Repeater
from gatewright.core.streams import Pipe
from gatewright.plugins.chain import Chain
from gatewright.routing.table import Table
from gatewright.upstream.service import Service

Rewrite = Callable[[dict[str, str], str], str]


class Generation:
    """What the exchanges of one snapshot have in common: their number. What lives with the snapshot ends after them."""

    __slots__ = ("in_flight",)

    def __init__(self) -> None:
        self.in_flight = 0


@dataclass(frozen=True, slots=True)
class Split:
    """Routes by weight: each exchange goes to one of them by chance. Between them, only services and chains differ."""

    routes: "tuple[Route, ...]"
    bounds: tuple[int, ...]  # running sums of the weights

    def choose(self, draw: Callable[[], float] = random.random) -> "Route":
        """Return a route; `draw` gives numbers from 0 to 1."""
        return self.routes[min(bisect(self.bounds, draw() * self.bounds[-1]), len(self.routes) - 1)]


@dataclass(frozen=True, slots=True)
class Route:
    """What happens to the requests that a rule matches. Exactly one of service, split and answer is set."""

    name: str | None
    chain: Chain
    service: Service | None = None
    split: Split | None = None
    answer: Callable[[Exchange], Response] | None = None
    rewrite: Rewrite | None = None  # (params, normalised path) -> path for the target
    body_limit: int = 0  # bytes; 0: any size
    generation: Generation = field(default_factory=Generation)  # one for all routes of a snapshot
    # Nothing on the route ever waits or wants to see a body: `direct` may serve it.
    direct: bool = field(init=False)
    service_name: str | None = field(init=False)
    repeater: Repeater | None = field(init=False)  # not of a split: the next request may go elsewhere

    def __post_init__(self) -> None:
        chain = self.chain
        waits = chain.waits or chain.request_steps or chain.response_steps or chain.upstream
        chunks = chain.request_chunks or chain.response_chunks
        object.__setattr__(self, "service_name", self.service.name if self.service is not None else None)
        direct = self.service is not None and not waits and not chunks
        object.__setattr__(self, "direct", direct)
        object.__setattr__(self, "repeater", chain.repeater if direct else None)

    def limit_body(self, request: Request) -> None:
        """Hold a body to the limit, what is here of it now and the rest as it comes. Raises RequestError."""
        limit, content = self.body_limit, request.content
        if isinstance(content, Pipe) and content.error is not None:
            raise content.error  # its first bytes were no body: nothing of it goes anywhere
        if not limit:
            return
        if isinstance(content, Pipe):
            content.limit = limit
        size = content.total if isinstance(content, Pipe) else len(content)
        if max(size, request.content_length or 0) > limit:
            raise RequestError(Reason.BODY_TOO_LARGE, f"The body may have {limit} bytes")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The immutable, compiled form of a configuration."""

    table: Table[Route]
    unrouted: Route  # its chain sees the answers to requests that no route takes
    services: dict[str, Service] = field(default_factory=dict)
    config: Any = None  # the configuration that it was made from

    @property
    def generation(self) -> Generation:
        """What counts the exchanges on this snapshot."""
        return self.unrouted.generation
