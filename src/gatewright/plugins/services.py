"""What the gateway does for plugins: time, the network, state, numbers. A plugin finds it as `self.gateway`.

The parts that can do these things lie to the right of plugins, so here stand only their shapes. Built-in plugins and
users' use the same; a test gives a plugin a stand-in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gatewright.core.clock import Clock
from gatewright.core.exchange import Exchange
from gatewright.core.headers import Headers
from gatewright.core.messages import Response
from gatewright.plugins.base import AnyPlugin
from gatewright.state.stores import LimitStores
from gatewright.telemetry.counters import Age

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer to `fetch`. `headers` have lower-case names; of a field that came twice the last counts."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class FetchError(Exception):
    """`fetch` got no complete answer; the message says why."""


class GatewayServices(Protocol):
    """The gateway, as a plugin sees it."""

    clock: Clock
    base_dir: Path  # where relative file names of the configuration start from
    stores: LimitStores  # where counts are kept that all workers, or all gateways, share

    async def fetch(
        self, url: str, *, headers: Sequence[tuple[str, str]] = (), timeout: float = 5.0, max_body: int = 1024 * 1024
    ) -> Fetched:
        """GET an http or https URL (certificates are verified), redirects not followed.

        `timeout` in seconds for all of it, `max_body` in bytes. Raises FetchError.
        """

    def count(self, name: str, **labels: str) -> None:
        """Add one to the counter `gateway_<name>_total` with these labels; their values must be few.

        Names are words of letters, digits and underscores, and not those of the gateway's own metrics. Raises TypeError
        and ValueError for others. A value that is no text counts by `str` of it.
        """

    def counter(self, name: str, **labels: str) -> Callable[[], None]:
        """Return a function that does the same each time it is called, for who counts often: 0.05 us instead of 1.

        The counter is there, with 0, from then on.
        """

    def age(self, name: str, **labels: str) -> Age:
        """Return what `gateway_<name>_age_seconds` is told of: set its `at` whenever the thing goes well, to seconds of
        the clock, and to None when there is no such thing any more; what is no time raises TypeError or ValueError. The
        worker where it is longest ago is the one that counts. Names and labels as with `count`; for the same ones all
        plugins of a configuration get the same object. It begins with what the configuration before has told, and is
        told for as long as there are plugins of its configuration.
        """

    def shared(self, key: str, factory: Callable[[], T]) -> T:
        """Return the one object that this process has for `key`; `factory` makes it, the first time.

        It outlives the plugin: instances of later configurations, and those of other routes, get the same. Begin `key`
        with the plugin's name.
        """

    async def ask(self, plugin: AnyPlugin, exchange: Exchange, headers: Headers, max_body: int) -> Response:
        """Ask the service of `exchange` once more for the same, with `headers` for the request's and no client waiting.

        The request goes the rest of its way as if `plugin` had let it pass: the plugins behind it see it. Returns the
        target's answer as it came, its body complete. Raises GatewayError; for a body of over `max_body` bytes too.
        """

    def publish(self, topic: str, message: Any) -> None:
        """Call what every worker of this gateway, this one too, has subscribed to `topic`; the others a little later.

        `message` is made of str, bytes, numbers, None, lists and dicts. Raises TypeError and ValueError for what no
        worker can be told, for over 64 MiB, and where so much waits already: then nobody was told.
        """

    def subscribe(self, topic: str, hear: Callable[[Any], None]) -> None:
        """Have `hear` called with each message of `topic`, for as long as the process lives."""
