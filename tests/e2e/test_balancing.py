"""Which target a request goes to, seen from outside: targets that answer with their names."""

from collections import Counter

import pytest

from tests.kit.answers import reply, services
from tests.kit.inside import target as inner
from tests.kit.wire import answer_all, get


@pytest.fixture
def named(target):
    """Make targets that answer with their names; return their URLs."""

    def make(*names):
        return [target(answer_all(reply(200, name.encode()))).url for name in names]

    return make


def asked(running, count=12, path="/", headers=""):
    return Counter(get(running.port, path, headers).body.decode() for _ in range(count))


def test_round_robin_gives_each_its_turn(gateway, named):
    running = gateway(services({"s": named("a", "b", "c")}, "balance: round_robin"))
    assert [get(running.port).body for _ in range(6)] == [b"a", b"b", b"c"] * 2


def test_weighted_follows_the_weights_exactly_and_without_bursts(gateway, named):
    one, two, three = named("a", "b", "c")
    urls = [f'{{url: "{one}", weight: 3}}', f'{{url: "{two}", weight: 1}}', f'{{url: "{three}", weight: 0}}']
    running = gateway(services({"s": urls}, "balance: weighted"))
    order = [get(running.port).body.decode() for _ in range(8)]
    assert Counter(order) == {"a": 6, "b": 2}
    assert "b" in order[:4]


@pytest.mark.parametrize("balance", ["p2c", "least_requests"])
def test_the_idle_one_of_two_is_chosen(gateway, named, balance):
    running = gateway(services({"s": named("a", "b")}, f"balance: {balance}"))
    busy = inner(running, 0)

    def load(by):
        busy.in_flight += by

    running.call(load, 5)
    assert asked(running) == {"b": 12}
    running.call(load, -5)
    assert set(asked(running, 40)) == {"a", "b"}


@pytest.mark.parametrize("balance", ["p2c", "round_robin", "least_requests", "weighted", "hash: {by: path}", "sticky"])
def test_weight_0_gets_nothing(gateway, named, balance):
    one, two = named("a", "b")
    text = f"balance: {{{balance}}}" if ":" in balance else f"balance: {balance}"
    running = gateway(services({"s": [f'{{url: "{one}", weight: 0}}', two]}, text))
    assert asked(running) == {"b": 12}


@pytest.mark.parametrize(
    ("by", "request_of"),
    [
        ("header:X-User", lambda key: ("/", f"X-User: {key}\r\n")),
        ("cookie:user", lambda key: ("/", f"Cookie: other=1; user={key}\r\n")),
        ("path", lambda key: (f"/{key}?ignored={key}", "")),
    ],
)
def test_hash_sends_the_same_key_to_the_same_target(gateway, named, by, request_of):
    running = gateway(services({"s": named("a", "b", "c")}, f"balance: {{hash: {{by: '{by}'}}}}"))
    homes = {}
    for key in range(20):
        seen = asked(running, 3, *request_of(key))
        assert len(seen) == 1, f"key {key} went to {seen}"
        homes[key] = next(iter(seen))
    assert set(homes.values()) == {"a", "b", "c"}


def test_hash_by_client_address_keeps_a_client_on_one_target_and_believes_trusted_proxies_only(gateway, named):
    urls = named("a", "b", "c")
    balance = "balance: {hash: {by: client_ip}}"
    plain = gateway(services({"s": urls}, balance))
    assert len(Counter(get(plain.port, "/", f"X-Forwarded-For: 10.0.0.{n}\r\n").body for n in range(12))) == 1
    trusting = 'listeners: [{bind: "127.0.0.1:0", trusted_proxies: [127.0.0.0/8]}]\n' + services({"s": urls}, balance)
    behind = gateway(trusting)
    assert len(Counter(get(behind.port, "/", f"X-Forwarded-For: 10.0.0.{n}\r\n").body for n in range(12))) == 3


def test_a_key_moves_only_when_its_target_is_out_and_comes_back_with_it(gateway, named):
    running = gateway(services({"s": named("a", "b", "c")}, "balance: {hash: {by: path}}"))
    home = get(running.port, "/key").body
    index = [b"a", b"b", b"c"].index(home)

    def set_healthy(value):
        inner(running, index).healthy = value

    running.call(set_healthy, False)
    assert home not in asked(running, 5, "/key")
    assert len(asked(running, 5, "/key")) == 1
    running.call(set_healthy, True)
    assert asked(running, 3, "/key") == {home.decode(): 3}


def test_sticky_sets_a_cookie_once_and_follows_it(gateway, named):
    running = gateway(services({"s": named("a", "b", "c")}, "balance: {sticky: {cookie: home, ttl: 1h}}"))
    first = get(running.port)
    assert len(first.all("set-cookie")) == 1
    cookie, *attributes = first.get("set-cookie").split("; ")
    assert cookie.startswith("home=")
    assert set(attributes) == {"Path=/", "HttpOnly", "SameSite=Lax", "Max-Age=3600"}
    for _ in range(8):
        answer = get(running.port, "/", f"Cookie: {cookie}\r\n")
        assert (answer.body, answer.all("set-cookie")) == (first.body, [])


def test_sticky_adds_its_cookie_to_the_targets_own(gateway, target):
    upstream = target(answer_all(reply(200, b"ok", "Set-Cookie: theirs=1", "Set-Cookie: more=2")))
    running = gateway(services({"s": [upstream.url]}, "balance: sticky"))
    for _ in range(2):  # an answer's head is remembered by its bytes: the cookie must not stay in it
        cookies = get(running.port).all("set-cookie")
        assert cookies[:2] == ["theirs=1", "more=2"]
        assert [cookie.split("=")[0] for cookie in cookies[2:]] == ["gw_sticky"]


def test_sticky_moves_a_client_whose_target_is_out(gateway, named):
    running = gateway(services({"s": named("a", "b")}, "balance: sticky"))
    first = get(running.port)
    cookie = first.get("set-cookie").split(";")[0]

    def take_out():
        inner(running, [b"a", b"b"].index(first.body)).healthy = False

    running.call(take_out)
    moved = get(running.port, "/", f"Cookie: {cookie}\r\n")
    assert moved.body != first.body
    new = moved.get("set-cookie").split(";")[0]
    assert new != cookie
    assert get(running.port, "/", f"Cookie: {new}\r\n").all("set-cookie") == []


def test_a_cookie_that_nobody_set_is_replaced(gateway, named):
    running = gateway(services({"s": named("a", "b")}, "balance: sticky"))
    assert len(get(running.port, "/", "Cookie: gw_sticky=forged\r\n").all("set-cookie")) == 1


def split(first, second):
    entries = f"[{{service: one, weight: {first}}}, {{service: two, weight: {second}}}]"
    return f"routes: [{{name: all, match: {{path: '/{{rest...}}'}}, split: {entries}}}]\n"


def test_split_divides_by_weight(gateway, named):
    one, two = named("a", "b")
    running = gateway(services({"one": [one], "two": [two]}, routes=split(3, 1)))
    seen = asked(running, 400)
    assert 240 < seen["a"] < 360, seen  # 300 expected; six standard deviations are 52
    assert {line["service"] for line in running.access_log()} == {"one", "two"}


def test_a_side_of_weight_0_gets_nothing(gateway, named):
    one, two = named("a", "b")
    running = gateway(services({"one": [one], "two": [two]}, routes=split(0, 5)))
    assert asked(running) == {"b": 12}
