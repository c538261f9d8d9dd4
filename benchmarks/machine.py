"""What the numbers were measured on, and which core does what.

Owns the choice of cores, the description of the machine, and the reading of a core's busy time, which shows
whether something else ran on the core that was measured. It starts nothing. Called by __main__, throughput
and report.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cores:
    """The core of the measured proxy and that of load generator and upstream; equal if there is only one."""

    proxy: int
    load: int

    @property
    def shared(self) -> bool:
        """Whether load and proxy have to share a core."""
        return self.proxy == self.load


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine as the report names it."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str


def choose_cores() -> Cores:
    """The last usable core for the proxy, the first for the load: core 0 often serves interrupts as well."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(proxy=usable[-1], load=usable[0])


def describe() -> Machine:
    """Read the machine's description from /proc and the running Python."""
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return Machine(
        cpu=cpu,
        cores=os.cpu_count() or 1,
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        kernel=platform.release(),
        python=platform.python_version(),
    )


def core_busy_seconds(core: int) -> float:
    """Seconds since boot that `core` was not idle, time that a hypervisor took away included."""
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
            return (user + nice + system + irq + softirq + steal) / _TICKS_PER_SECOND
    return 0.0
