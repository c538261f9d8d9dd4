"""The embedded store: limits counted exactly across the workers of a machine, in a mapped file under file locks.

It owns the locks and who holds what; `table` owns the layout, `limits` the arithmetic. Plugins call `decide` and
`release`, which never wait for anything but a lock, and for that at most WAIT seconds.

Locks. A bucket's lock is one of 16 files under `flock`: the kernel releases it when its holder dies, however it dies.
The pair of calls takes 1.1 us; byte ranges of a file under `fcntl` take 1.8, and are lost when anything in the process
closes it. A holder that is stopped (SIGSTOP) keeps its lock: others try for WAIT seconds, then raise
StoreUnavailable, and for STUCK seconds do not wait for that lock again.
"""

import fcntl
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gatewright.core.clock import Clock
from gatewright.state.limits import Algorithm, Check, Concurrency, Limit, State, StoreUnavailable, Verdict
from gatewright.state.table import HOLDERS, PAIRS, Table

_log = logging.getLogger("gatewright.state")

PLACES = 65_536  # 15 MiB
LOCKS = 16
WAIT = 0.02
WAIT_AT_START = 2.0
STUCK = 1.0
_SPINS = 20
_DAY = 86_400 * 1_000_000
_COUNT = (1 << 32) - 1
_Move = tuple[int, bytes, int, State]  # bucket, tag, place (-1: none yet), numbers


class SharedStore:
    """Counts limits in the folder `folder`, with every process that opens the same; None: in this process alone.

    One thread of a process uses it. Full: see `Table.insert`; `evicted` counts states that were dropped before their
    time, `damaged` those that could not be believed (they count as used up, for a window).
    """

    def __init__(self, folder: Path | None, clock: Clock, places: int = PLACES) -> None:
        """`clock.now` must be the machine's monotonic clock when there are other processes. Raises OSError."""
        self.evicted = 0
        self.damaged = 0
        self._now = clock.now
        self._folder = folder
        self._locks: list[int] = []
        self._stuck: dict[int, float] = {}
        self._owed: list[Check] = []
        self._index = 0
        self._identity = int.from_bytes(os.urandom(3), "little") or 1
        self._holder_lock = -1
        if folder is None:
            self._table = Table(None, places)
            self._table.set_holder(0, self._identity)
            return
        with suppress(FileExistsError):  # it is there, unless somebody has deleted it
            folder.mkdir(mode=0o700, parents=True)
            _log.error("%s has gone: what it has counted is lost, and workers that run count apart from others", folder)
        # No lock of a bucket: a process that is stopped with one must not keep others from starting.
        opening = _open(folder / "lock.open")
        try:
            self._locks = [_open(folder / f"lock.{number}") for number in range(LOCKS)]
            self._wait(opening, WAIT_AT_START)
            self._table = Table(folder / "table", places)
            self._hold()
        except StoreUnavailable as error:
            self._close_files()
            raise OSError(f"{folder}: {error}") from error
        except OSError:
            self._close_files()
            raise
        finally:
            os.close(opening)

    def _hold(self) -> None:
        """Take an index that no living process has. The lock on its file is what says that we live."""
        assert self._folder is not None
        for index in range(HOLDERS):
            fd = _open(self._folder / f"holder.{index}")
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            self._holder_lock, self._index = fd, index
            self._table.set_holder(index, self._identity)
            return
        raise OSError(f"{self._folder}: {HOLDERS} processes use it already")

    def close(self) -> None:
        """Let go of it. What this process held counts no more."""
        self._close_files()
        self._table.close()

    def _close_files(self) -> None:
        for fd in (*self._locks, self._holder_lock):
            if fd >= 0:
                os.close(fd)
        self._locks, self._holder_lock = [], -1

    # Decisions

    def decide(self, checks: Sequence[Check]) -> list[Verdict]:
        """Charge all limits or none, and return the verdict of each. Raises StoreUnavailable."""
        if len(checks) == 1 and checks[0][0].algorithm.kind != Concurrency.kind:
            return [self.decide_one(*checks[0])]
        return self._all(checks)

    def decide_one(self, limit: Limit, key: str) -> Verdict:
        """Do what `decide` does for one limit that is no Concurrency: 3.8 us; by the general way it takes 7.1.

        Raises StoreUnavailable.
        """
        algorithm = limit.algorithm
        assert not isinstance(algorithm, Concurrency)
        table = self._table
        bucket, tag = table.locate(limit.scope + key)
        lock = -1
        if self._locks:
            lock = self._locks[bucket % LOCKS]
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._wait(lock)
        try:
            now = int(self._now() * 1e6)
            at = table.find(bucket, tag)
            state = table.read(at, algorithm.words) if at >= 0 else (0,) * algorithm.words
            if state is None:
                self.damaged += 1
                state = algorithm.spent(now)
                table.write(at, state)
            verdict, after = algorithm.decide(state, now, limit.cost)
            if after is None:
                return verdict
            if at >= 0:
                table.write(at, after)
            elif table.insert(bucket, tag, after, now):
                self.evicted += 1
            return verdict
        finally:
            if lock >= 0:
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _all(self, checks: Sequence[Check]) -> list[Verdict]:
        located = [self._located(limit, key) for limit, key in checks]
        held = self._lock_all({bucket % LOCKS for places in located for bucket, _ in places})
        try:
            now = int(self._now() * 1e6)
            verdicts: list[Verdict] = []
            moves: list[list[_Move]] = []
            refused = False
            for (limit, _), places in zip(checks, located, strict=True):
                algorithm = limit.algorithm
                if isinstance(algorithm, Concurrency):
                    verdict, own = self._acquire(algorithm, places, limit.cost, now)
                else:
                    verdict, own = self._charge(algorithm, *places[0], limit.cost, now)
                verdicts.append(verdict)
                moves.append(own)
                refused = refused or not (verdict[0] or limit.shadow)
            if refused:  # nothing is taken of the others; what was wrong is put right all the same
                moves = [own for verdict, own in zip(verdicts, moves, strict=True) if not verdict[0]]
            self._carry_out([move for own in moves for move in own], now)
            return verdicts
        finally:
            for lock in held:
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _located(self, limit: Limit, key: str) -> list[tuple[int, bytes]]:
        """Return the buckets and tags of a key: several where more processes hold than a place has room for."""
        text = limit.scope + key
        if not isinstance(limit.algorithm, Concurrency):
            return [self._table.locate(text)]
        return [self._table.locate(f"{text}\0{part}") for part in range(self._table.highest() // PAIRS + 1)]

    def _charge(
        self, algorithm: Algorithm, bucket: int, tag: bytes, cost: int, now: int
    ) -> tuple[Verdict, list[_Move]]:
        at = self._table.find(bucket, tag)
        state = self._table.read(at, algorithm.words) if at >= 0 else (0,) * algorithm.words
        damaged = state is None
        if state is None:
            self.damaged += 1
            state = algorithm.spent(now)
        verdict, after = algorithm.decide(state, now, cost)
        if after is None and damaged:
            after = state
        return verdict, [] if after is None else [(bucket, tag, at, after)]

    def _carry_out(self, moves: list[_Move], now: int) -> None:
        for _, _, at, state in moves:
            if at >= 0:
                self._table.write(at, state)
        for bucket, tag, at, state in moves:  # last: a new key may drive out one of those above
            if at < 0 and self._table.insert(bucket, tag, state, now):
                self.evicted += 1

    # What is held at the same time: a place has a number for each process, its identity and how many it holds

    def _acquire(
        self, algorithm: Concurrency, places: list[tuple[int, bytes]], cost: int, now: int
    ) -> tuple[Verdict, list[_Move]]:
        counts = [self._counts(place, part) for part, place in enumerate(places)]
        verdict = algorithm.verdict(_held(counts), cost)
        changed: set[int] = set()
        if not verdict[0]:
            changed = self._bury(counts)
            verdict = algorithm.verdict(_held(counts), cost)
        if verdict[0]:
            part, pair = divmod(self._index, PAIRS)
            numbers = counts[part][1]
            numbers[1 + pair] = self._identity << 32 | (numbers[1 + pair] & _COUNT) + cost
            changed.add(part)
        return verdict, [self._move(places[part], *counts[part], now) for part in sorted(changed)]

    def _move(self, place: tuple[int, bytes], at: int, numbers: list[int], now: int) -> _Move:
        numbers[0] = now + _DAY if any(numbers[1:]) else 0
        return (*place, at, tuple(numbers))

    def _counts(self, place: tuple[int, bytes], part: int) -> tuple[int, list[int]]:
        """Return where a place is and its numbers, those of processes that have been replaced set to 0."""
        at = self._table.find(*place)
        state = self._table.read(at, 1 + PAIRS) if at >= 0 else None
        if state is None:
            self.damaged += at >= 0  # what others hold is lost with it, until they end
            return at, [0] * (1 + PAIRS)
        numbers = list(state)
        for pair, number in enumerate(state[1:]):
            if number and self._table.holder(part * PAIRS + pair) != number >> 32:
                numbers[1 + pair] = 0
        return at, numbers

    def _bury(self, counts: list[tuple[int, list[int]]]) -> set[int]:
        """Set to 0 what dead processes held; return the parts where there was any. Only refusals are worth it."""
        changed = set()
        for part, (_, numbers) in enumerate(counts):
            for pair in range(PAIRS):
                if numbers[1 + pair] and not self._lives(part * PAIRS + pair):
                    numbers[1 + pair] = 0
                    changed.add(part)
        return changed

    def _lives(self, index: int) -> bool:
        if index == self._index or self._folder is None:
            return True
        try:
            fd = _open(self._folder / f"holder.{index}")
        except OSError as error:
            raise StoreUnavailable(f"who lives cannot be found out: {error}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def release(self, checks: Sequence[Check]) -> None:
        """Give back what `decide` let this process hold at the same time. Never fails: it may be done later."""
        self._owed += [check for check in checks if check[0].algorithm.kind == Concurrency.kind]
        owed, self._owed = self._owed, []
        while owed:
            try:
                self._give_back(*owed[-1])
            except StoreUnavailable:
                self._owed = owed
                return
            owed.pop()

    def _give_back(self, limit: Limit, key: str) -> None:
        part, pair = divmod(self._index, PAIRS)
        bucket, tag = self._table.locate(f"{limit.scope}{key}\0{part}")
        held = self._lock_all({bucket % LOCKS})
        try:
            at, numbers = self._counts((bucket, tag), part)
            if at >= 0:
                left = (numbers[1 + pair] & _COUNT) - limit.cost
                numbers[1 + pair] = self._identity << 32 | left if left > 0 else 0
                self._table.write(at, self._move((bucket, tag), at, numbers, int(self._now() * 1e6))[3])
        finally:
            for lock in held:
                fcntl.flock(lock, fcntl.LOCK_UN)

    # Locks

    def _lock_all(self, numbers: set[int]) -> list[int]:
        """Lock in one order everywhere, so that nobody waits in a circle. Raises StoreUnavailable."""
        held: list[int] = []
        if not self._locks:
            return held
        try:
            for number in sorted(numbers):
                lock = self._locks[number]
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    self._wait(lock)
                held.append(lock)
        except StoreUnavailable:
            for lock in held:
                fcntl.flock(lock, fcntl.LOCK_UN)
            raise
        return held

    def _wait(self, lock: int, bound: float = WAIT) -> None:
        """Take a lock that somebody holds. The usual holder is done in 2 us, or waits for a CPU: leave it ours."""
        begun = time.monotonic()  # real time: it is real microseconds that the others take
        if begun < self._stuck.get(lock, 0.0):
            raise StoreUnavailable("a process that is stopped holds the lock of the embedded store")
        tries = 0
        while True:
            tries += 1
            if tries <= _SPINS:
                os.sched_yield()
            else:
                time.sleep(0.0001)
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._stuck.pop(lock, None)
                return
            if time.monotonic() - begun > bound:
                self._stuck[lock] = time.monotonic() + STUCK
                raise StoreUnavailable(f"the lock of the embedded store was not free for {bound * 1000:g} ms")


def _held(counts: list[tuple[int, list[int]]]) -> int:
    return sum([number & _COUNT for _, numbers in counts for number in numbers[1:] if number])


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
