"""The embedded store: exact across processes, whatever becomes of them; bounded; never believing what does not fit."""

import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from gatewright.core.clock import SystemClock
from gatewright.state import table
from gatewright.state.limits import SECOND, Concurrency, FixedWindow, Gcra, Limit, SlidingWindow, StoreUnavailable
from gatewright.state.shared import WAIT, SharedStore
from tests.state.hammer import KEY, limits, line, most_in_a_window, results, say, start


class Hands:
    """A clock that is moved by hand."""

    def __init__(self, now=1000.0):
        self.time = now

    def now(self):
        return self.time

    wall = now


@pytest.fixture
def folder():
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    path = Path(tempfile.mkdtemp(prefix="gatewright-test-", dir=base))
    yield path / "limits"
    shutil.rmtree(path)


@pytest.fixture
def clock():
    return Hands()


@pytest.fixture
def opened(stack):
    def make(folder, clock=None, **options):
        store = SharedStore(folder, clock or SystemClock(), **options)
        stack.callback(store.close)
        return store

    return make


@pytest.fixture
def process(stack):
    def make(*arguments):
        child = start(*arguments)
        stack.enter_context(child)
        stack.callback(child.kill)
        return child

    return make


def allowed(store, *checks):
    return [verdict[0] for verdict in store.decide(checks)]


# One process


@pytest.mark.parametrize("kind", ["gcra", "fixed_window", "sliding_window"])
@pytest.mark.parametrize("private", [True, False])
def test_it_counts_as_the_algorithm_does(kind, private, folder, clock, opened):
    store = opened(None if private else folder, clock)
    limit = limits(f"{kind} 5 60")
    state = (0,) * limit.algorithm.words
    choose = random.Random(7)
    for _ in range(400):
        clock.time += choose.choice([0, 0.5, 3, 20, 61])
        expected, after = limit.algorithm.decide(state, int(clock.time * 1e6), 1)
        state = after or state
        assert store.decide([(limit, "a")]) == [expected]


def test_keys_and_scopes_count_apart(clock, opened):
    store = opened(None, clock)
    limit, other = limits("gcra 1 60"), limits("gcra 1 61")
    assert [allowed(store, (limit, "a")), allowed(store, (limit, "a")), allowed(store, (limit, "b"))] == [
        [True],
        [False],
        [True],
    ]
    assert allowed(store, (other, "a")) == [True]


def test_several_limits_are_charged_all_or_none(clock, opened):
    store = opened(None, clock)
    wide, narrow, held = limits("gcra 3 60"), limits("fixed_window 1 60"), limits("concurrency 3 0")
    checks = [(wide, "a"), (narrow, "a"), (held, "a")]
    assert allowed(store, *checks) == [True, True, True]
    for _ in range(5):
        assert allowed(store, *checks) == [True, False, True]
    # The five that `narrow` refused have taken nothing of the others.
    assert store.decide([(wide, "a")])[0][1] == 1
    assert store.decide([(held, "a")])[0][1] == 1


def test_a_shadow_limit_is_charged_but_stops_nothing(clock, opened):
    store = opened(None, clock)
    wide = limits("gcra 9 60")
    shadow = Limit(Gcra(1, 60 * SECOND), scope="s", shadow=True)
    assert allowed(store, (wide, "a"), (shadow, "a")) == [True, True]
    assert allowed(store, (wide, "a"), (shadow, "a")) == [True, False]
    assert store.decide([(wide, "a")])[0][1] == 6


def test_keys_that_share_a_bucket_keep_apart(clock, opened):
    store = opened(None, clock, places=16)  # one bucket
    limit = limits("fixed_window 2 60")
    assert [allowed(store, (limit, str(key))) for key in range(16) for _ in range(3)] == [[True], [True], [False]] * 16
    assert store.evicted == 0


def test_a_full_table_drops_what_was_used_least(clock, opened):
    store = opened(None, clock, places=16)
    limit = limits("gcra 10 60")
    while allowed(store, (limit, "victim")) == [True]:
        pass
    for key in range(1000):
        store.decide([(limit, f"flood {key}")])
    assert store.evicted == 1000 - 15
    assert allowed(store, (limit, "victim")) == [False]


def test_limits_of_one_decision_may_fall_into_one_full_bucket(clock, opened):
    store = opened(None, clock, places=16)
    first, second = limits("gcra 9 60"), limits("gcra 9 61")
    for key in range(100):
        assert allowed(store, (first, str(key)), (second, str(key))) == [True, True]
        assert allowed(store, (second, str(key - 1)), (first, str(key + 1))) == [True, True]
    assert store.damaged == 0


def test_expired_places_are_used_again(clock, opened):
    store = opened(None, clock, places=16)
    limit = limits("fixed_window 1 60")
    for _ in range(50):
        assert [allowed(store, (limit, str(random.random()))) for _ in range(16)] == [[True]] * 16
        clock.time += 61
    assert store.evicted == 0


# Files


def test_another_opener_of_the_folder_counts_on(folder, clock, opened):
    first = opened(folder, clock)
    second = opened(folder, clock, places=32)  # the file's own size counts
    limit = limits("gcra 2 60")
    assert [allowed(store, (limit, "a")) for store in (first, second, first)] == [[True], [True], [False]]


def test_a_file_of_another_run_of_the_machine_is_replaced(folder, clock, opened, monkeypatch):
    limit = limits("gcra 1 60")
    assert allowed(opened(folder, clock), (limit, "a")) == [True]
    monkeypatch.setattr(table, "_boot", lambda: b"x" * 16)
    assert allowed(opened(folder, clock), (limit, "a")) == [True]


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 100, b"\0" * 20_000_000])
def test_a_file_that_is_none_of_ours_is_replaced_and_its_users_unharmed(folder, clock, opened, content):
    limit = limits("gcra 1 60")
    first = opened(folder, clock)
    assert allowed(first, (limit, "a")) == [True]
    (folder / "table").unlink()
    (folder / "table").write_bytes(content)
    assert allowed(opened(folder, clock), (limit, "a")) == [True]
    assert allowed(first, (limit, "a")) == [False]


def test_no_room_for_the_file_is_an_error_at_once(folder, clock):
    with pytest.raises(OSError, match=r"No space|too large|Cannot allocate|Invalid"):
        SharedStore(folder, clock, places=1 << 42)
    assert not list(folder.glob("table*"))


def test_files_are_the_owners_alone(folder, opened):
    opened(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("kind", ["gcra", "fixed_window", "sliding_window"])
def test_a_damaged_place_counts_as_used_up_for_one_window(kind, clock, opened):
    limit = limits(f"{kind} 9 60")
    choose = random.Random(3)
    for _ in range(200):
        store = opened(None, clock, places=16)
        assert allowed(store, (limit, "a")) == [True]
        at = store._table.find(*store._table.locate(limit.scope + "a"))
        byte = at + choose.randrange(8 * (limit.algorithm.words + 1))
        store._table._memory[byte] ^= 1 << choose.randrange(8)
        assert allowed(store, (limit, "a")) == [False]
        assert store.damaged == 1
        clock.time += 61
        assert allowed(store, (limit, "a")) == [True]
        assert store.damaged == 1


def test_noise_in_the_whole_table_breaks_nothing(clock, opened):
    store = opened(None, clock, places=64)
    names = ["gcra 9 60", "fixed_window 9 60", "sliding_window 9 60", "concurrency 9 0"]
    checks = [(limits(name), "a") for name in names]
    choose = random.Random(5)
    for _ in range(300):
        noise = choose.randbytes(64)
        place = choose.randrange(table.HEADER, len(store._table._memory) - 64)
        store._table._memory[place : place + 64] = noise
        for verdict in store.decide(checks):
            assert 0 <= verdict[1] <= 9
        store.release(checks)
        clock.time += 1


# Several processes


@pytest.mark.parametrize(
    "name", ["gcra 40 0.3", "fixed_window 40 0.3", "sliding_window 40 0.3", "sliding_window 7 0.3"]
)
def test_four_processes_never_exceed_a_limit(name, folder, process):
    """Over several windows. What counts is the time at which a decision must have been made: between two readings."""
    _, quota, period = name.split()
    window = round(float(period) * SECOND)
    children = [process("count", folder, name, 1.3) for _ in range(4)]
    for child in children:
        assert line(child) == "ready"
    for child in children:
        say(child)
    damaged, times = 0, []
    for child in children:
        broken, own = results(child)
        damaged += broken
        times += own
    assert damaged == 0
    span = max(last for _, last in times) - min(first for first, _ in times)
    most = {"gcra": 2 * int(quota), "fixed_window": 2 * int(quota), "sliding_window": int(quota)}[name.split()[0]]
    assert most_in_a_window(times, window) <= most
    if name.startswith("gcra"):
        assert len(times) <= int(quota) + -(-span * int(quota) // window) + 1
    if name.startswith("fixed"):
        assert len(times) <= int(quota) * (span // window + 1)
    assert len(times) >= int(quota) * 3  # and they did get what they may


def test_a_process_that_is_killed_with_a_lock_leaves_it_free_and_the_count_whole(folder, process, opened):
    child = process("die_with_the_lock", folder, "gcra 5 600")
    assert child.wait(10) == -signal.SIGKILL
    store = opened(folder)
    verdict = store.decide([(limits("gcra 5 600"), KEY)])[0]
    assert (verdict[:2], store.damaged) == ((True, 2), 0)


def test_a_process_that_is_stopped_with_a_lock_delays_others_by_a_bound_once(folder, process, opened):
    store, limit = opened(folder), limits("gcra 5 600")  # first: which lock it is, is chance, and opening needs one too
    child = process("stop_with_the_lock", folder, "gcra 5 600")
    assert line(child) == "stopping"
    os.waitpid(child.pid, os.WUNTRACED)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match="was not free for 20 ms"):
        store.decide([(limit, KEY)])
    assert WAIT <= time.monotonic() - begun < 50 * WAIT
    begun = time.monotonic()
    for _ in range(100):
        with pytest.raises(StoreUnavailable, match="is stopped"):
            store.decide([(limit, KEY), (limits("fixed_window 5 60"), KEY)])
    assert time.monotonic() - begun < 50 * WAIT, "else it would be a hundred times that"
    free = next(str(key) for key in range(99) if _lock(store, limit, str(key)) != _lock(store, limit, KEY))
    assert allowed(store, (limit, free)) == [True]
    os.kill(child.pid, signal.SIGCONT)
    assert line(child) == "went on"
    assert store.decide([(limit, KEY)])[0][1] == 2


def _lock(store, limit, key):
    return store._table.locate(limit.scope + key)[0] % 16


def test_what_a_dead_process_held_at_the_same_time_is_free(folder, process, opened):
    name = "concurrency 3 0"
    first, second = process("hold", folder, name), process("hold", folder, name)
    assert [line(first), line(second)] == ["True", "True"]
    store, check = opened(folder), (limits(name), KEY)
    assert [allowed(store, check), allowed(store, check)] == [[True], [False]]
    first.kill()
    first.wait(10)
    assert [allowed(store, check), allowed(store, check)] == [[True], [False]]
    # Its successor, under the same index, holds nothing of it either.
    third = process("hold", folder, name)
    assert line(third) == "False"
    second.kill()
    second.wait(10)
    fourth = process("hold", folder, name)
    assert line(fourth) == "True"
    assert allowed(store, check) == [False]


def test_what_is_given_back_is_free_also_when_the_lock_is_not(folder, process, opened):
    store, check = opened(folder), (limits("concurrency 1 0"), KEY)
    assert [allowed(store, check), allowed(store, check)] == [[True], [False]]
    child = process("stop_with_the_lock", folder, "gcra 5 600")
    assert line(child) == "stopping"
    os.waitpid(child.pid, os.WUNTRACED)
    child_lock = _lock(store, limits("gcra 5 600"), KEY)
    other = next(
        (limits("concurrency 1 0"), str(key))
        for key in range(999)
        if store._table.locate(f"{check[0].scope}{key}\0000")[0] % 16 == child_lock
    )
    store._stuck[store._locks[child_lock]] = time.monotonic() + 60
    store.release([other])  # cannot be done now
    store.release([check])
    os.kill(child.pid, signal.SIGCONT)
    assert line(child) == "went on"
    store.release([])
    assert allowed(store, check) == [True]
    assert store._owed == []


def test_more_processes_than_a_place_has_room_for_hold_exactly(folder, stack):
    """Stores in one process are like processes: each has its own files. 26 fit into a place."""
    stores = []
    for _ in range(60):
        stores.append(SharedStore(folder, SystemClock(), places=1024))
        stack.callback(stores[-1].close)
    check = (Limit(Concurrency(50), scope="c"), KEY)
    assert [allowed(store, check) for store in stores] == [[True]] * 50 + [[False]] * 10
    for store in stores[:30]:
        store.release([check])
    assert sum(allowed(store, check)[0] for store in stores) == 30


def test_too_many_processes_are_refused(folder, stack, monkeypatch):
    monkeypatch.setattr("gatewright.state.shared.HOLDERS", 2)
    for _ in range(2):
        stack.callback(SharedStore(folder, SystemClock()).close)
    with pytest.raises(OSError, match="2 processes use it already"):
        SharedStore(folder, SystemClock())


def test_a_release_of_what_is_not_held_takes_nothing_from_others(folder, opened):
    first, second = opened(folder), opened(folder)
    check = (limits("concurrency 1 0"), KEY)
    assert allowed(first, check) == [True]
    second.release([check])
    first.release([(limits("concurrency 1 0"), "never held")])
    assert allowed(second, check) == [False]


def test_windows_of_every_kind_take_part_in_the_layout():
    assert {algorithm(1, 1).words for algorithm in (Gcra, FixedWindow, SlidingWindow)} <= table._STATES.keys()
    assert 1 + table.PAIRS in table._STATES
