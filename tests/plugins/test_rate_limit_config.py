"""The settings of `rate_limit`: rates, whom a limit counts, and mistakes with their words."""

import pytest
from pydantic import ValidationError

from gatewright.app import ConfigurationError
from gatewright.core.exchange import Consumer, Exchange
from gatewright.core.headers import Headers
from gatewright.core.messages import Request
from gatewright.core.peer import Peer
from gatewright.plugins.rate_limit_config import RateLimitConfig, client_key, parse_by, parse_rate
from gatewright.state.limits import SECOND


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/minute", (100, 60)),
        ("100 per minute", (100, 60)),
        ("100 / min", (100, 60)),
        ("5/s", (5, 1)),
        ("5 per second", (5, 1)),
        ("1/h", (1, 3600)),
        ("1000 PER DAY", (1000, 86400)),
        ("20/10s", (20, 10)),
        ("20 per 10 seconds", (20, 10)),
        ("3/2weeks", (3, 1209600)),
        ("1/250ms", (1, 0.25)),
        (" 7/m ", (7, 60)),
        ("10", (10, 0)),
        (10, (10, 0)),
    ],
)
def test_rates(text, rate):
    assert parse_rate(text) == (rate[0], rate[1] * SECOND)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "must be a rate"),
        ("fast", "must be a rate"),
        ("100/", "must be a rate"),
        ("100permin", "must be a rate"),
        ("-1/s", "must be a rate"),
        ("1.5/s", "must be a rate"),
        ("100/fortnight", "'fortnight' is no period"),
        ("0/s", "at least 1"),
        (0, "at least 1"),
        (True, "must be a rate"),
        (None, "must be a rate"),
        (1.5, "must be a rate"),
        ("5/0s", "longer than zero"),
        ("5/400d", "at most a year"),
        ("999999999/s", "at most a million a second"),
        ("\u0661/s", "must be a rate"),
    ],
)
def test_rates_that_are_none(value, message):
    with pytest.raises(ValueError, match=message):
        parse_rate(value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "needs `limit`"),
        ({"limit": 5}, "goes with algorithm: concurrency"),
        ({"limit": "5/s", "algorithm": "concurrency"}, "must be a number"),
        ({"limit": "5/s", "algorithm": "fixed_window", "burst": 3}, "gcra only"),
        ({"limit": "5/s", "cost": 6}, "no request could pass"),
        ({"limit": "50/s", "burst": 5, "cost": 6}, "no request could pass"),
        ({"limit": "5/s", "by": "user"}, "must be client, consumer"),
        ({"limit": "5/s", "by": "header:"}, "is not a header name"),
        ({"limit": "5/s", "by": "{nobody}"}, "{nobody} is not a variable"),
        ({"limit": "1/d", "burst": 1000000}, "100 years"),
        ({"limit": "5/s", "limits": [{"limit": "5/s"}]}, "limit must be inside `limits`"),
        ({"by": "route", "limits": [{"limit": "5/s"}]}, "by must be inside `limits`"),
        ({"limits": [{"by": "route"}]}, "each of `limits` needs a `limit`"),
        ({"limits": [{"limit": "5/s", "name": "a"}, {"limit": "6/s", "name": "a"}]}, "the same name"),
        ({"limit": "5/s", "name": 'a"b'}, "String should match pattern"),
        ({"limit": "5/s", "rate": 3}, "Extra inputs"),
    ],
)
def test_mistakes(config, message):
    with pytest.raises(ValidationError, match=message):
        RateLimitConfig.model_validate(config)


def test_a_mistake_is_shown_with_its_place(gateway):
    with pytest.raises(ConfigurationError) as raised:
        gateway("plugins:\n  - rate_limit: {limit: 100/fortnight}\n")
    assert "plugins[0].rate_limit.limit: must be a rate" in str(raised.value)


# Whom a limit counts


def exchange(address="192.0.2.7", consumer=None, route="r", service=None, fields=(), query=None):
    request = Request("GET", "/p", query, 1, b"host", Headers.of(fields))
    made = Exchange(request, Peer(address, 1, 2), None, 0.0)
    made.consumer = Consumer(consumer) if consumer is not None else None
    made.route, made.service = route, service
    return made


def test_an_ipv6_client_is_its_64_and_mapped_ones_are_ipv4():
    assert client_key("2001:db8:1:2:3:4:5:6") == client_key("2001:db8:1:2::1") == client_key("2001:DB8:1:2::1%eth0")
    assert client_key("2001:db8:1:3::1") != client_key("2001:db8:1:2::1")
    assert client_key("::ffff:192.0.2.7") == client_key("192.0.2.7")
    assert client_key("192.0.2.7") != client_key("192.0.2.8")
    assert client_key(":no address:")


def test_keys_of_different_kinds_never_meet():
    tricky = "client:192.0.2.7"
    keys = [
        parse_by("client")(exchange()),
        parse_by("consumer")(exchange(consumer=tricky)),
        parse_by("consumer")(exchange(consumer="192.0.2.7")),
        parse_by("header:X-Key")(exchange(fields=[("X-Key", tricky)])),
        parse_by("header:X-Key")(exchange(fields=[("X-Key", "192.0.2.7")])),
        parse_by("{header.X-Key}")(exchange(fields=[("X-Key", tricky)])),
        parse_by("route")(exchange(route="192.0.2.7")),
        parse_by("service")(exchange(service="192.0.2.7")),
    ]
    assert len(set(keys)) == len(keys)


def test_whoever_is_unknown_counts_by_address():
    address = parse_by("client")(exchange())
    assert parse_by("consumer")(exchange()) == address
    assert parse_by("header:X-Key")(exchange()) == address
    assert parse_by("header:X-Key")(exchange(fields=[("x-key", "")])) != address


def test_variables():
    by = parse_by("{consumer}/{query.team}")
    assert by(exchange(consumer="a", query="team=x")) != by(exchange(consumer="a", query="team=y"))
    assert by(exchange(consumer="a", query="team=x&z=1")) == by(exchange(consumer="a", query="team=x"))


def test_keys_that_clients_choose_are_never_long():
    for by in ("header:X-Key", "{header.X-Key}"):
        long = [parse_by(by)(exchange(fields=[("X-Key", letter * 30_000)])) for letter in "ab"]
        assert len(long[0]) < 200
        assert long[0] != long[1]
