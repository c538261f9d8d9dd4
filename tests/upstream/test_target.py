"""Addresses are read strictly, and a target is usable only when nothing speaks against it."""

import pytest

from gatewright.upstream.target import Target
from tests.upstream.build import make_targets, open_breaker


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "name"),
    [
        ("http://127.0.0.1:8001", "http", "127.0.0.1", 8001, "127.0.0.1:8001"),
        ("http://api.internal", "http", "api.internal", 80, "api.internal:80"),
        ("https://API.internal/", "https", "api.internal", 443, "api.internal:443"),
        ("HTTPS://a:65535", "https", "a", 65535, "a:65535"),
        ("http://[::1]:8001", "http", "::1", 8001, "[::1]:8001"),
    ],
)
def test_reads_an_address(url: str, scheme: str, host: str, port: int, name: str) -> None:
    target = Target.from_url(url, 7)
    assert (target.url, target.scheme, target.host, target.port) == (url, scheme, host, port)
    assert (target.name, target.weight) == (name, 7)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "http://host:port"),
        ("127.0.0.1:8001", "http://host:port"),
        ("ftp://a:1", "http://host:port"),
        ("http://", "http://host:port"),
        ("http://:80", "http://host:port"),
        ("http://a:port", "not a target's address"),
        ("http://a:65536", "not a target's address"),
        ("http://[::1", "not a target's address"),
        ("http://a:0", "port 0"),
        ("http://a:1/base", "rewrite"),
        ("http://a:1?x=1", "rewrite"),
        ("http://a:1#x", "rewrite"),
        ("http://a b:1", "space"),
        ("http://a\r\nx:1", "control character"),
    ],
)
def test_refuses_what_is_no_address(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Target.from_url(url)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="password") as caught:
        Target.from_url("ftp://root:hunter2@a:1")
    assert "hunter2" not in str(caught.value)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="weight -1"):
        Target.from_url("http://a:1", -1)


def test_usable_until_something_speaks_against_it() -> None:
    (target,) = make_targets(1)
    assert target.usable(0)
    for attribute, bad in [("healthy", False), ("draining", True), ("weight", 0), ("ejected_until", 5.1)]:
        good = getattr(target, attribute)
        setattr(target, attribute, bad)
        assert not target.usable(5), attribute
        setattr(target, attribute, good)
    target.ejected_until = 5
    assert target.usable(5)


def test_usable_follows_the_breaker_and_takes_no_probe() -> None:
    (target,) = make_targets(1)
    target.breaker = open_breaker(10)
    assert not target.usable(9.9)
    assert target.usable(10)
    assert target.usable(10)
    assert target.breaker.acquire(10)
    assert not target.usable(10)
    target.breaker.record(True, 10)
    assert target.usable(10)


def test_repr_tells_its_trouble() -> None:
    (target,) = make_targets(1)
    target.in_flight = 3
    assert repr(target) == "<Target 127.0.0.1:8001 in_flight=3>"
    target.healthy, target.draining, target.breaker = False, True, open_breaker()
    assert repr(target) == "<Target 127.0.0.1:8001 in_flight=3 unhealthy draining open>"
