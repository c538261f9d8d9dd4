"""The script against the arithmetic of `limits`, in a real Redis, with the time handed in."""

import hashlib
import random

import pytest

from gatewright.state.limits import SECOND, Concurrency, FixedWindow, Gcra, Limit, SlidingWindow
from gatewright.state.redis import _arguments
from gatewright.state.script import CLOCK, DECIDE, decide_script
from tests.kit.servers import redis_server

WINDOW = 60 * SECOND
SCRIPT = decide_script("local now = tonumber(ARGV[#ARGV])\n")
LIFE = "math.max(math.ceil(life / 1000), 1)"
assert LIFE in SCRIPT
STEPS = [0, 0, 0, 1, 1, SECOND, 5 * SECOND, WINDOW // 12, WINDOW - 1, WINDOW, WINDOW + 1]


@pytest.fixture(scope="module")
def redis():
    with redis_server() as server:
        yield server


def ask(redis, limits, now, member="m", lease=SECOND, script=SCRIPT):
    arguments = [word for limit in limits for word in _arguments(limit)]
    keys = [f"{{t}}{limit.scope}" for limit in limits]
    reply = redis.ask("EVAL", script, len(keys), *keys, *arguments, member, lease, now)
    return [(reply[at] == 1, *reply[at + 1 : at + 4]) for at in range(0, len(reply), 4)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "algorithm",
    [
        Gcra(5, WINDOW),
        Gcra(7, WINDOW, 3),
        Gcra(50, WINDOW, 1000),
        FixedWindow(5, WINDOW),
        SlidingWindow(5, WINDOW),
        SlidingWindow(13, WINDOW),
        SlidingWindow(40, WINDOW),
    ],
    ids=lambda algorithm: f"{algorithm.kind}-{algorithm.quota}",
)
def test_it_comes_to_the_same_verdicts(redis, algorithm, seed):
    choose = random.Random(seed)
    forever = SCRIPT.replace(LIFE, "1000000")  # keys expire by the server's clock, and ours goes back in this test
    limit = Limit(algorithm, scope=f"same {algorithm.quota} {seed}", cost=choose.choice([1, 1, 2, 3]))
    now, state = 1_700_000_000_000_000, (0,) * algorithm.words
    seen = set()
    for _ in range(150):
        now += choose.choice([*STEPS, choose.randrange(3 * SECOND), -choose.randrange(3 * SECOND), -3600 * SECOND])
        expected, after = algorithm.decide(state, now, limit.cost)
        state = after if after is not None else state
        assert ask(redis, [limit], now, script=forever) == [expected]
        seen.add(expected[0])
    assert False in seen or algorithm.quota > 10


def test_several_limits_are_charged_all_or_none(redis):
    wide, narrow = Limit(Gcra(3, WINDOW), scope="wide"), Limit(FixedWindow(1, WINDOW), scope="narrow")
    shadow = Limit(FixedWindow(1, WINDOW), scope="shadow", shadow=True)
    now = 1_700_000_000_000_000
    assert [verdict[0] for verdict in ask(redis, [wide, narrow, shadow], now)] == [True, True, True]
    for _ in range(5):
        assert [verdict[0] for verdict in ask(redis, [wide, narrow], now)] == [True, False]
    assert ask(redis, [wide], now)[0][1] == 1
    assert [verdict[0] for verdict in ask(redis, [wide, shadow], now)] == [True, False]
    assert not ask(redis, [wide], now)[0][0]


@pytest.mark.parametrize("algorithm", [Gcra(5, WINDOW), FixedWindow(5, WINDOW), SlidingWindow(5, WINDOW)])
@pytest.mark.parametrize("value", ["", "x", "1", "1 2 3", "nan", "1e400", "9e18 -4", "-1 9e18", "1.5", "0x10 1"])
def test_a_value_that_is_not_ours_lets_no_more_pass_than_the_limit(redis, algorithm, value):
    limit = Limit(algorithm, scope=f"odd {value}")
    now = 1_700_000_000_000_000
    redis.ask("SET", f"{{t}}{limit.scope}", value)
    assert sum(ask(redis, [limit], now)[0][0] for _ in range(9)) <= 5
    assert ask(redis, [limit], now + WINDOW + 5)[0][0]


def test_leases_of_the_dead_end_though_the_clock_was_set_back(redis):
    limit = Limit(Concurrency(2), scope="set back")
    now, hours = 1_700_000_000_000_000, 5 * 3600 * SECOND
    assert [ask(redis, [limit], now, member=name)[0][0] for name in "abc"] == [True, True, False]
    now -= hours
    assert not ask(redis, [limit], now)[0][0]
    assert not ask(redis, [limit], now + SECOND - 1)[0][0]
    assert ask(redis, [limit], now + SECOND)[0][:2] == (True, 1)


def test_states_expire(redis):
    for algorithm in (Gcra(5, WINDOW), FixedWindow(5, WINDOW), SlidingWindow(50, WINDOW)):
        limit = Limit(algorithm, scope=f"life {algorithm.kind}")
        ask(redis, [limit], 1_700_000_000_000_000)
        life = redis.ask("PTTL", f"{{t}}{limit.scope}")
        assert WINDOW // 5 // 1000 - 1000 <= life <= WINDOW // 1000


def test_the_servers_clock_is_the_one_that_counts(redis):
    assert DECIDE.startswith(CLOCK)
    sha = redis.ask("SCRIPT", "LOAD", DECIDE)
    assert sha == hashlib.sha1(DECIDE.encode()).hexdigest()
    limit = Limit(FixedWindow(1, WINDOW), scope="clock")
    redis.ask("EVALSHA", sha, 1, "{t}clock", *_arguments(limit), "m", SECOND)
    end, used = redis.ask("GET", "{t}clock").split()
    seconds, micro = redis.ask("TIME")
    now = int(seconds) * SECOND + int(micro)
    assert (used, now - 10 * SECOND < int(end) - WINDOW <= now) == ("1", True)
