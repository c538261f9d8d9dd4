"""A gateway as `rate_limit` sees it, for tests: stores, a clock, and what was counted."""

from collections import Counter
from pathlib import Path

from gatewright.core.clock import SystemClock
from gatewright.state.stores import Stores


class Services:
    """Stands in for `GatewayServices`."""

    def __init__(self, redis="", folder=None, clock=None, bound=2.0):
        """`bound` is longer than a gateway's: a test's machine is busy, and its pauses are no faults."""
        self.clock = clock or SystemClock()
        self.base_dir = Path()
        self.counted = Counter()
        self.all_stores = Stores(folder, self.clock)
        self.stores = self.all_stores.for_configuration(redis)
        if self.stores.redis is not None:
            self.stores.redis._bound = bound

    def count(self, name, **labels):
        self.counted[(name, *sorted(labels.items()))] += 1

    def counter(self, name, **labels):
        return lambda: self.count(name, **labels)
