"""How many CPUs this process may use: what `workers: auto` means.

It asks the system: the process's affinity, and the quota that a container gives it. The supervisor calls it.
"""

import os
from contextlib import suppress
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2, as a container sees its own


def usable_cpus(quota: Path = _QUOTA) -> int:
    """Return the number of CPUs, at least 1. Of a quota of 2.5 CPUs two count: a third worker would be throttled."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    with suppress(OSError, ValueError):
        allowed, period = quota.read_text().split()  # "max 100000" where there is no quota
        count = min(count, int(allowed) // int(period))
    return max(1, count)
