"""The `rate_limit` plugin on single requests: what it charges, refuses, tells, counts and gives back."""

import asyncio
import inspect
import json

import pytest

from gatewright.core.exchange import Consumer, Exchange
from gatewright.core.headers import Headers
from gatewright.core.messages import Request, Response
from gatewright.core.peer import Peer
from gatewright.plugins.chain import compile_chain
from gatewright.plugins.rate_limit import RateLimit
from gatewright.plugins.rate_limit_config import RateLimitConfig
from gatewright.state.limits import StoreUnavailable
from gatewright.state.redis import RedisStore
from tests.state.services import Services


class Hands:
    """A clock that is moved by hand."""

    def __init__(self):
        self.time = 1000.0

    def now(self):
        return self.time

    wall = now


@pytest.fixture
def services():
    made = Services(clock=Hands())
    yield made
    asyncio.run(made.all_stores.close())


@pytest.fixture
def plugin(services):
    """Make a plugin that has started."""

    def make(place="somewhere", given=services, **settings):
        made = RateLimit(RateLimitConfig.model_validate(settings))
        made.gateway, made.place = given, place
        asyncio.run(made.start())
        return made

    return make


class Asked:
    """One request through plugins, to its end unless it is `held`."""

    def __init__(self, *plugins, address="192.0.2.7", consumer=None, held=False):
        request = Request("GET", "/", None, 1, b"test", Headers())
        self.exchange = Exchange(request, Peer(address, 1, 80), None, 0.0)
        self.exchange.route = "r"
        self.exchange.consumer = Consumer(consumer) if consumer else None
        self.plugins = plugins
        self.refusal = next((found for plugin in plugins if (found := plugin.on_request(self.exchange))), None)
        self.response = self.refusal or Response(200)
        for plugin in plugins:
            plugin.on_response(self.exchange, self.response)
        if not held:
            self.end()

    def end(self):
        for plugin in self.plugins:
            plugin.on_done(self.exchange)

    @property
    def status(self):
        return self.response.status

    def __getitem__(self, name):
        return self.response.headers.get(name)


def statuses(count, *plugins, **who):
    return [Asked(*plugins, **who).status for _ in range(count)]


# Answers


def test_a_route_can_be_freed_of_a_limit(plugin, services):
    freed = plugin(enabled=False)
    assert not compile_chain([freed]).needs_task
    for _ in range(3):
        answer = Asked(freed)
        assert (answer.status, answer["ratelimit"], answer["ratelimit-policy"]) == (200, None, None)
    chain = compile_chain([plugin(enabled=False, limit="1/minute")])
    assert (chain.request, chain.done) == ((), ())


def test_only_what_is_held_must_be_given_back(plugin, services):
    assert compile_chain([plugin(limit="1/minute")]).done == ()
    assert len(compile_chain([plugin(limit=1, algorithm="concurrency")]).done) == 1


def test_the_headers_of_a_limit(plugin, services):
    limited = plugin(limit="2/minute")
    first = Asked(limited)
    assert (first.status, first["RateLimit-Policy"], first["RateLimit"]) == (
        200,
        '"default";q=2;w=60',
        '"default";r=1;t=30',
    )
    assert Asked(limited)["RateLimit"] == '"default";r=0;t=30'
    refused = Asked(limited)
    assert (refused.status, refused["RateLimit"], refused["Retry-After"]) == (429, '"default";r=0;t=30', "30")
    assert refused["RateLimit-Policy"] == '"default";q=2;w=60'
    body = json.loads(refused.response.content)
    assert (body["reason"], body["title"]) == ("rate_limited", "Too many requests")
    assert body["detail"] == "Rate limit exceeded: try again in 30 seconds"
    assert refused.exchange.cause == "limit default"
    services.clock.time += 29.999
    assert Asked(limited)["Retry-After"] == "1"  # never 0, and never too early
    services.clock.time += 0.001
    assert Asked(limited).status == 200


def test_what_came_with_an_answer_stays_beside(plugin):
    limited = plugin(limit="2/minute")
    exchange = Asked(limited, held=True).exchange
    headers = Headers.of([("RateLimit", '"inner";r=1'), ("X-A", "b")])
    response = Response(200, headers)
    headers.wire = headers.join(0)
    shared = headers.fields
    limited.on_response(exchange, response)
    assert response.headers.get_all("ratelimit") == ['"inner";r=1', '"default";r=1;t=30']
    assert response.headers.wire == response.headers.join(0)
    assert len(shared) == 2  # the list may belong to others too


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"headers": False}, (None, None, None)),
        ({"legacy_headers": True}, ('"default";r=1;t=30', "2", "30")),
        ({"legacy_headers": True, "headers": False}, (None, "2", "30")),
        ({"shadow": True, "legacy_headers": True}, (None, None, None)),
    ],
)
def test_which_headers_are_sent(plugin, settings, expected):
    asked = Asked(plugin(limit="2/minute", **settings))
    assert (asked["RateLimit"], asked["X-RateLimit-Limit"], asked["X-RateLimit-Reset"]) == expected


def test_policies_of_every_kind(plugin):
    limits = [
        {"limit": "2/minute"},
        {"limit": "3/minute", "algorithm": "fixed_window"},
        {"limit": "3/10s", "burst": 9},
        {"limit": "5/500ms", "algorithm": "sliding_window"},
        {"limit": 4, "algorithm": "concurrency"},
        {"limit": "1/day", "name": "minute"},
    ]
    asked = Asked(plugin(limits=limits, legacy_headers=True))
    assert asked["RateLimit-Policy"] == (
        '"minute-2";q=2;w=60, "minute-3";q=3;w=60, "10s";q=3;w=10, "500ms";q=5, '
        '"concurrent";q=4;qu="concurrent-requests", "minute";q=1;w=86400'
    )
    assert asked["RateLimit"] == (
        '"minute-2";r=1;t=30, "minute-3";r=2;t=60, "10s";r=8;t=4, "500ms";r=4;t=1, "concurrent";r=3, "minute";r=0;t=86400'
    )
    # The old ones have room for one limit: the one that is nearest to its end.
    assert [asked[f"X-RateLimit-{name}"] for name in ("Limit", "Remaining", "Reset")] == ["1", "0", "86400"]


# Whom it counts


def test_by_consumer_and_by_address(plugin):
    limited = plugin(limit="1/minute", by="consumer")
    assert statuses(2, limited, consumer="a") == [200, 429]
    assert statuses(2, limited, consumer="b", address="192.0.2.9") == [200, 429]
    assert statuses(2, limited, consumer="a", address="192.0.2.10") == [429, 429]
    assert statuses(2, limited) == [200, 429]
    assert statuses(1, limited, address="2001:db8::1") + statuses(1, limited, address="2001:db8::2") == [200, 429]


def test_limits_in_different_places_count_apart_and_named_ones_together(plugin):
    assert statuses(2, plugin("one", limit="1/minute")) == [200, 429]
    assert statuses(2, plugin("two", limit="1/minute")) == [200, 429]
    assert statuses(2, plugin("one", limit="1/minute", name="all")) == [200, 429]
    assert statuses(2, plugin("two", limit="1/minute", name="all")) == [429, 429]


def test_a_limit_counts_on_after_a_reload(plugin):
    assert statuses(3, plugin(limit="3/minute", algorithm="sliding_window")) == [200] * 3
    assert statuses(3, plugin(limit="5/minute", algorithm="sliding_window")) == [200, 200, 429]


def test_cost_and_burst(plugin):
    assert statuses(4, plugin(limit="10/minute", cost=4)) == [200, 200, 429, 429]
    assert statuses(4, plugin("b", limit="10/minute", burst=3)) == [200, 200, 200, 429]
    # A dear and a cheap route may share one limit.
    dear, cheap = plugin(limit="10/minute", name="x", cost=5), plugin(limit="10/minute", name="x")
    assert statuses(1, dear) + statuses(4, cheap) + statuses(1, dear) + statuses(2, cheap) == [200] * 5 + [
        429,
        200,
        429,
    ]


# Several, and shadows


def test_a_request_that_one_limit_refuses_takes_nothing_of_the_others(plugin, services):
    limits = [{"limit": "1/minute", "algorithm": "fixed_window"}, {"limit": "3/hour", "algorithm": "fixed_window"}]
    limited = plugin(limits=limits)
    assert statuses(9, limited) == [200] + [429] * 8
    for expected in ([200, 429], [200, 429], [429, 429]):
        services.clock.time += 61
        assert statuses(2, limited) == expected


@pytest.mark.parametrize("periods", [("minute", "hour"), ("hour", "minute")])
def test_of_two_limits_that_refuse_the_longer_wait_is_told(plugin, periods):
    limits = [{"limit": f"1/{period}", "algorithm": "fixed_window"} for period in periods]
    limited = plugin(limits=limits)
    Asked(limited)
    assert Asked(limited)["Retry-After"] == "3600"


def test_a_shadow_counts_and_logs_and_refuses_nothing(plugin, services, caplog):
    limits = [{"limit": "1/minute", "shadow": True, "name": "ghost"}, {"limit": "3/minute"}]
    limited = plugin(limits=limits)
    asked = [Asked(limited) for _ in range(4)]
    assert [one.status for one in asked] == [200, 200, 200, 429]
    assert asked[1]["RateLimit"] == '"minute";r=1;t=20'
    assert services.counted["ratelimit_limited", ("limit", "ghost"), ("mode", "shadow")] == 3
    assert services.counted["ratelimit_limited", ("limit", "minute"), ("mode", "enforced")] == 1
    assert caplog.text.count("limit ghost (shadow) would have refused request") == 1  # once a second at most
    services.clock.time += 1
    Asked(limited)
    assert caplog.text.count("would have refused") == 2


# At the same time


def test_what_is_under_way_is_counted_until_its_end(plugin):
    limited = plugin(limit=2, algorithm="concurrency")
    first, second = Asked(limited, held=True), Asked(limited, held=True)
    refused = Asked(limited)
    assert (refused.status, refused["Retry-After"], refused["RateLimit"]) == (429, "1", '"default";r=0')
    assert "at the same time: try again in 1 second" in json.loads(refused.response.content)["detail"]
    first.end()
    first.end()  # gives back once
    third = Asked(limited, held=True)
    assert (third.status, Asked(limited).status) == (200, 429)
    for one in (second, third):
        one.end()
    assert statuses(5, limited) == [200] * 5


def test_what_another_limit_refuses_is_not_held(plugin):
    limited = plugin(limits=[{"limit": 1, "algorithm": "concurrency"}, {"limit": "1/minute", "by": "consumer"}])
    assert statuses(1, limited, consumer="a") == [200]
    assert statuses(3, limited, consumer="a") == [429] * 3
    assert Asked(limited, consumer="b").status == 200


def test_a_shadow_that_is_full_gives_back_only_what_it_holds(plugin):
    limited = plugin(limit=1, algorithm="concurrency", shadow=True)
    bound = plugin(limit=1, algorithm="concurrency", shadow=False)
    first = Asked(limited, held=True)
    assert statuses(3, limited) == [200] * 3
    assert Asked(bound).status == 429  # the same place, the same counts: the first is still under way
    first.end()
    assert Asked(bound).status == 200


def test_an_exchange_that_never_came_to_it_ends_quietly(plugin):
    limited = plugin(limit=2, algorithm="concurrency")
    exchange = Asked().exchange
    limited.on_response(exchange, Response(404))
    limited.on_done(exchange)


# Stores


def test_the_hook_is_plain_without_redis_and_waits_with_it(plugin):
    with_redis = Services("redis://127.0.0.1:1")
    chain = compile_chain([plugin(limit="1/s")])
    assert (len(chain.request), chain.needs_task) == (1, False)
    limited = RateLimit(RateLimitConfig(limit="1/s"))
    assert not inspect.iscoroutinefunction(limited.on_request)  # at check time there is no gateway yet
    limited.gateway = with_redis
    chain = compile_chain([limited])
    assert chain.needs_task
    assert chain.request_steps[0].is_async


class Broken:
    """A store that fails."""

    def decide(self, *_):
        raise StoreUnavailable("it is broken")

    decide_one = decide


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("open", [200] * 4), ("closed", [503] * 4), ("local", [200, 200, 429, 429])],
)
def test_when_the_embedded_store_fails(plugin, services, caplog, policy, expected):
    limited = plugin(limit="2/minute", on_failure=policy)
    limited._shared = Broken()
    asked = [Asked(limited) for _ in range(4)]
    assert [one.status for one in asked] == expected
    assert services.counted["ratelimit_store_errors", ("limit", "default")] == 4
    assert caplog.text.count("it is broken") == 1
    if policy == "closed":
        body = json.loads(asked[0].response.content)
        assert (body["reason"], asked[0]["Retry-After"]) == ("rate_limit_unavailable", "1")
        assert asked[0].exchange.cause == "it is broken"


@pytest.mark.parametrize(
    ("policy", "expected"), [("open", [200] * 3), ("closed", [503] * 3), ("local", [200, 429, 429])]
)
def test_when_redis_fails(policy, expected):
    async def main():
        services = Services("redis://127.0.0.1:1")
        limited = RateLimit(RateLimitConfig(limit="1/minute", on_failure=policy))
        limited.gateway = services
        await limited.start()
        told = []
        for _ in range(3):
            exchange = Asked().exchange
            refusal = await limited.on_request(exchange)
            told.append(refusal.status if refusal else 200)
        await services.all_stores.close()
        return told

    assert asyncio.run(main()) == expected


def test_one_url_is_one_store_over_reloads():
    services = Services()
    first = services.all_stores.for_configuration("redis://h")
    assert first.redis is services.all_stores.for_configuration("redis://h").redis
    assert first.redis is not services.all_stores.for_configuration("redis://h/1").redis
    assert first.shared is services.all_stores.for_configuration("").shared
    assert isinstance(first.redis, RedisStore)
    with pytest.raises(ValueError, match="is no Redis URL"):
        services.all_stores.for_configuration("nonsense")
