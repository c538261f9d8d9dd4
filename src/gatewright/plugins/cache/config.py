"""The settings of `cache`. What they mean in terms of the RFCs is the policy's `Rules`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gatewright.core.units import Duration, DurationOrZero, Share, Size
from gatewright.plugins.base import PluginConfig


def _or_memory(value: Any) -> Any:
    return "memory" if value == "" else value  # "${REDIS_URL:+redis}" where there is none


Store = Annotated[Literal["memory", "redis"], BeforeValidator(_or_memory)]


class CacheConfig(PluginConfig):
    """Keep answers and serve them again, by the rules of HTTP."""

    ttl: Duration | None = Field(
        None, description="How long answers are fresh that say nothing about it; none: they are not kept"
    )
    heuristic: Share | None = Field(
        None, description="How long such answers are fresh as a part of the time since their Last-Modified, say 10%"
    )
    stale_while_revalidate: DurationOrZero = Field(
        0.0, description="How long a stale answer is served while a new one is fetched, where the answer does not say"
    )
    stale_if_error: DurationOrZero = Field(
        0.0, description="How long a stale answer is better than a failure, where the answer does not say"
    )
    each_consumer: bool = Field(
        False, description="Keep answers for each caller apart: by consumer, Authorization and Cookie"
    )
    collapse: DurationOrZero = Field(
        5.0, description="How long a request waits for another that is fetching the same; 0: not at all"
    )
    max_entry: Size = Field(1024 * 1024, description="Largest body that is kept")
    memory: Size = Field(
        64 * 1024 * 1024, description="Room for answers in each worker; the largest of all caches counts"
    )
    store: Store = Field(
        "memory",
        description="Where answers are kept: `memory`, each worker's own, or `redis`, the one of `state.redis` for all",
    )
    redis_timeout: Duration = Field(0.05, description="How long a request waits for Redis; then it is a miss")
