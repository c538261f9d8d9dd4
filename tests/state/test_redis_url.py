"""Redis URLs: what they mean, and what is wrong with others, without a word of their passwords."""

import pytest

from gatewright.state.redis_url import parse_redis_url


@pytest.mark.parametrize(
    ("url", "kind", "hosts", "more"),
    [
        ("redis://localhost", "single", (("localhost", 6379),), {"db": 0, "tls": False}),
        ("redis://localhost:1/2", "single", (("localhost", 1),), {"db": 2}),
        ("redis://[::1]:7/", "single", (("::1", 7),), {}),
        ("rediss://me:a%40b@h", "single", (("h", 6379),), {"tls": True, "username": "me", "password": "a@b"}),
        ("redis://:p:q@h", "single", (("h", 6379),), {"username": None, "password": "p:q"}),
        ("unix:///run/r.sock", "unix", (), {"path": "/run/r.sock"}),
        ("redis+cluster://a,b:7", "cluster", (("a", 6379), ("b", 7)), {}),
        ("rediss+cluster://a?ssl_check_hostname=no", "cluster", (("a", 6379),), {"tls_options": (("ssl_check_hostname", False),)}),
        ("redis+sentinel://a,b/m/4?sentinel_password=x", "sentinel", (("a", 26379), ("b", 26379)), {"master": "m", "db": 4, "sentinel_password": "x"}),
    ],
)  # fmt: skip
def test_urls(url, kind, hosts, more):
    address = parse_redis_url(url)
    assert (address.kind, address.hosts) == (kind, hosts)
    assert {name: getattr(address, name) for name in more} == more


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:6379", "is no Redis URL"),
        ("http://h", "is no Redis URL"),
        ("redis+other://h", "is no Redis URL"),
        ("unix+cluster:///x", "is no Redis URL"),
        ("redis://", "has a host that is none"),
        ("redis://h:x", "has a host that is none"),
        ("redis://h:99999", "has a host that is none"),
        ("redis://a,b", "names several hosts"),
        ("redis://h/x", "no database number"),
        ("redis://h/1/2", "no database number"),
        ("redis+cluster://h/1", "no databases"),
        ("redis+sentinel://h", "must name the master"),
        ("redis://h?db=1", "option that is not known here: 'db'"),
        ("redis://h?ssl_ca_certs=x", "option that is not known here"),
        ("redis://h?sentinel_password=x", "option that is not known here"),
    ],
)
def test_mistakes(url, message):
    with pytest.raises(ValueError, match=message) as raised:
        parse_redis_url(url.replace("://", "://user:s3cret@", 1))
    assert "s3cret" not in str(raised.value)


def test_nothing_that_is_printed_has_a_password():
    address = parse_redis_url("rediss+sentinel://u:s3cret@h/m?sentinel_password=t4cret")
    assert str(address) == "h:26379 (sentinel, TLS)"
    assert "cret" not in repr(address)
