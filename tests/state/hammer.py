"""A process that uses a store as a worker would: `python -m tests.state.hammer folder mode ...`; results on stdout."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gatewright.core.clock import SystemClock
from gatewright.state.limits import SECOND, Concurrency, FixedWindow, Gcra, Limit, SlidingWindow, StoreUnavailable

ROOT = Path(__file__).parents[2]
KEY = "the one that all ask about"


def limits(name):
    """A limit by name: `sliding_window 50 0.2` is 50 in 0.2 seconds."""
    kind, count, period = name.split()
    quota, window = int(count), round(float(period) * SECOND)
    algorithm = Concurrency(quota) if kind == "concurrency" else None
    algorithm = algorithm or {"gcra": Gcra, "fixed_window": FixedWindow, "sliding_window": SlidingWindow}[kind](
        quota, window
    )
    return Limit(algorithm, scope=name)


def start(*arguments):
    """Run one; it says `ready` and waits for a line."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.state.hammer", *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )


def line(process):
    return process.stdout.readline().strip()


def say(process, text="go"):
    process.stdin.write(text + "\n")
    process.stdin.flush()


def _shared(folder):
    from gatewright.state.shared import SharedStore

    return SharedStore(Path(folder), SystemClock())


def count(folder, name, seconds):
    """Ask as fast as possible; print the times (microseconds) at which it was allowed."""
    store, limit = _shared(folder), limits(name)
    print("ready", flush=True)
    sys.stdin.readline()
    allowed = []
    end = time.monotonic() + float(seconds)
    while (before := time.monotonic()) < end:
        try:
            verdict = store.decide([(limit, KEY)])[0]
        except StoreUnavailable:
            continue
        if verdict[0]:
            allowed.append((round(before * 1e6), round(time.monotonic() * 1e6)))
    print(store.damaged, *(f"{first},{last}" for first, last in allowed), flush=True)


def hold(folder, name):
    """Take one of a concurrency limit and keep it."""
    store, limit = _shared(folder), limits(name)
    print(store.decide([(limit, KEY)])[0][0], flush=True)
    sys.stdin.readline()


def die_with_the_lock(folder, name):
    """Be killed in the middle of a decision."""
    store, limit = _shared(folder), limits(name)
    store.decide([(limit, KEY)])
    write = store._table.write

    def killed(at, state):
        write(at, state)
        os.kill(os.getpid(), signal.SIGKILL)

    store._table.write = killed
    store.decide([(limit, KEY)])


def stop_with_the_lock(folder, name):
    """Be stopped in the middle of a decision."""
    store, limit = _shared(folder), limits(name)
    store.decide([(limit, KEY)])
    write = store._table.write

    def stopped(at, state):
        print("stopping", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        write(at, state)

    store._table.write = stopped
    store.decide([(limit, KEY)])
    print("went on", flush=True)


def redis(url, name, seconds, parallel):
    """Ask a Redis from so many tasks; print the times around each that was allowed, and how many were unavailable."""
    from gatewright.state.redis import RedisStore

    async def main():
        store, limit = RedisStore(url, SystemClock(), bound=1.0), limits(name)
        await store.start()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        allowed, failed = [], 0
        end = time.monotonic() + float(seconds)

        async def client():
            nonlocal failed
            while (before := time.monotonic()) < end:
                try:
                    verdict = (await store.decide([(limit, KEY)]))[0]
                except StoreUnavailable:
                    failed += 1
                    await asyncio.sleep(0.005)
                    continue
                if verdict[0]:
                    allowed.append((round(before * 1e6), round(time.monotonic() * 1e6)))
                else:
                    store._hopeless.clear()  # ask again at once: the script is what is tested

        await asyncio.gather(*[client() for _ in range(int(parallel))])
        await store.stop()
        print(failed, *(f"{first},{last}" for first, last in allowed), flush=True)

    asyncio.run(main())


def results(process):
    """What `count` or `redis` printed: (first number, [(earliest, latest) time of each that was allowed])."""
    words = line(process).split()
    assert words, "it printed nothing"
    return int(words[0]), [tuple(map(int, word.split(","))) for word in words[1:]]


def most_in_a_window(times, window):
    """The least that must have passed within one window: only what lies in it with both of its times counts."""
    most = 0
    ends = sorted(last for _, last in times)
    for end in ends:
        most = max(most, sum(1 for first, last in times if last <= end and first > end - window))
    return most


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
