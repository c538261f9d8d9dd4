"""The stores of one process, made when they are first needed and kept while configurations come and go.

The gateway holds one `Stores` for its life and hands each generation's plugins `for_configuration(...)` of it, so that
a reload forgets no count.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gatewright.core.clock import Clock
from gatewright.state.shared import SharedStore

if TYPE_CHECKING:
    from gatewright.state.redis import RedisStore


@dataclass(frozen=True, slots=True)
class LimitStores:
    """What the limits of one configuration are counted in. `redis` is None without one.

    `redis_url` is for who keeps something else there ("" without one); it may hold a password.
    """

    owner: "Stores"
    redis: "RedisStore | None"
    redis_url: str = field(default="", repr=False)

    @property
    def shared(self) -> SharedStore:
        """The store that all workers of this machine share. Raises OSError when it cannot be made."""
        return self.owner.shared

    @property
    def private(self) -> SharedStore:
        """This process's own: for when the others fail."""
        return self.owner.private


class Stores:
    """Owns the stores. `folder` is one for all workers of a gateway (best in memory: /dev/shm); None: one process."""

    def __init__(self, folder: Path | None, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._shared: SharedStore | None = None
        self._private: SharedStore | None = None
        self._redis: dict[str, RedisStore] = {}

    @property
    def shared(self) -> SharedStore:
        """The embedded store. Raises OSError when its files cannot be made."""
        if self._shared is None:
            self._shared = self.private if self._folder is None else SharedStore(self._folder, self._clock)
        return self._shared

    @property
    def private(self) -> SharedStore:
        """An embedded store of this process alone."""
        if self._private is None:
            self._private = SharedStore(None, self._clock)
        return self._private

    def for_configuration(self, redis_url: str) -> LimitStores:
        """Return the stores for a configuration whose `state.redis` is this, "" for none. Raises ValueError."""
        if not redis_url:
            return LimitStores(self, None)
        from gatewright.state.redis import RedisStore  # here: it takes 0.1 s and 10 MB that most gateways do not need

        if redis_url not in self._redis:
            self._redis[redis_url] = RedisStore(redis_url, self._clock)
        return LimitStores(self, self._redis[redis_url], redis_url)

    async def close(self) -> None:
        """Close all of them; nothing uses them any more."""
        for redis in self._redis.values():
            await redis.stop()
        if self._shared is not None:
            self._shared.close()
        if self._private is not None and self._private is not self._shared:
            self._private.close()
