"""The rules of a shared cache, one by one: terms, whose it is, what may be served stale, what a 304 changes."""

from email.utils import formatdate

import pytest

from gatewright.core.headers import Headers
from gatewright.core.messages import Response
from gatewright.plugins.cache import policy
from gatewright.plugins.cache.entry import Terms
from gatewright.plugins.cache.policy import Rules, Words
from gatewright.plugins.cache.request import AUTHORIZATION, CONSUMER, COOKIE, EVERYBODY, Facts, facts_of

WALL = 1_800_000_000.0


def words(*fields):
    return Words(Headers.of(field.split(": ", 1) for field in fields).fields)


def terms(*fields, status=200, rules=None):
    return policy.terms_of(status, words(*fields), rules or Rules(), WALL)


def facts(*fields):
    return Facts(Headers.of(field.split(": ", 1) for field in fields))


def answer(*fields, status=200):
    return Response(status, [tuple(field.split(": ", 1)) for field in fields])


@pytest.mark.parametrize(
    ("fields", "lifetime"),
    [
        (["Cache-Control: max-age=5"], 5),
        (["Cache-Control: max-age=5, s-maxage=7"], 7),
        (["Cache-Control: max-age=5, s-maxage=x", 'ETag: "a"'], 0),
        ([f"Expires: {formatdate(WALL + 9, usegmt=True)}"], 9),
        ([f"Expires: {formatdate(WALL + 9, usegmt=True)}", f"Date: {formatdate(WALL + 2, usegmt=True)}"], 7),
        (["Cache-Control: max-age=5", f"Expires: {formatdate(WALL + 9, usegmt=True)}"], 5),
        (["Cache-Control: max-age=99999999999999999999"], 2**31),
    ],
)  # fmt: skip
def test_lifetimes(fields, lifetime):
    assert terms(*fields).lifetime == lifetime


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (["Cache-Control: no-store, max-age=5"], "no-store"),
        (["Cache-Control: private, max-age=5"], "private"),
        (["Cache-Control: max-age=5", "Set-Cookie: a=b"], "set-cookie"),
        (["Cache-Control: public, max-age=5", "Set-Cookie: a=b"], "set-cookie"),
        (["Cache-Control: max-age=5", "Vary: *"], "vary"),
        (["Cache-Control: max-age=5", f"Vary: {', '.join(map(str, range(99)))}"], "vary"),
        (["Cache-Control: max-age=5", "Vary: X-Forwarded-For"], "vary"),
        (["Cache-Control: max-age=5", "Vary: Forwarded"], "vary"),
        (["Cache-Control: max-age=5", "Vary: X-Request-ID"], "vary"),
        (["Cache-Control: max-age=5", "Content-Type: Text/Event-Stream; charset=utf-8"], "stream"),
        ([], "no-freshness"),
        (["ETag: x"], "no-freshness"),
        (["Cache-Control: public"], "no-freshness"),
        (["Cache-Control: max-age=0"], "stale"),
        (["Cache-Control: no-cache"], "stale"),
    ],
)
def test_why_not(fields, why):
    assert terms(*fields) == why


@pytest.mark.parametrize("status", [100, 101, 206, 304])
def test_statuses_that_are_never_stored(status):
    assert terms("Cache-Control: max-age=5", status=status) == "status"


def test_what_the_key_has_is_not_varied_by():
    assert policy.vary_names(words("Vary: Host, X-Forwarded-Proto, Foo")) == ("foo",)


def test_must_understand():
    assert terms("Cache-Control: max-age=5, must-understand", status=299) == "status"
    assert terms("Cache-Control: max-age=5, must-understand, no-store").lifetime == 5


@pytest.mark.parametrize(
    ("fields", "audience"),
    [
        (["Cache-Control: max-age=5"], 0),
        (["Cache-Control: public, max-age=5"], EVERYBODY),
        (["Cache-Control: s-maxage=5"], EVERYBODY),
        (["Cache-Control: max-age=5, must-revalidate"], AUTHORIZATION),
        (["Cache-Control: max-age=5, proxy-revalidate"], 0),
        (["Cache-Control: max-age=5", "Vary: Accept, Cookie"], COOKIE),
        (["Cache-Control: max-age=5", "Vary: Authorization"], 0),
    ],
)
def test_whose_requests_it_answers(fields, audience):
    assert terms(*fields).audience == audience


@pytest.mark.parametrize("bits", range(8))
@pytest.mark.parametrize("audience", range(8))
def test_nobody_gets_what_is_not_for_them(bits, audience):
    allowed = all(not bits & bit or audience & bit for bit in (COOKIE, AUTHORIZATION, CONSUMER))
    assert (policy.may_keep(facts(), bits, Terms(audience=audience)) is None) == allowed


def test_a_lifetime_by_configuration_is_only_for_answers_that_say_nothing():
    rules = Rules(ttl=60.0)
    assert terms(rules=rules).lifetime == 60
    assert terms("Cache-Control: public", rules=rules).lifetime == 60
    assert terms("Cache-Control: max-age=5", rules=rules).lifetime == 5
    assert terms("Expires: 0", 'ETag: "a"', rules=rules).lifetime == 0
    assert [terms(f"Cache-Control: {word}", rules=rules) for word in ("no-store", "private", "no-cache")] == [
        "no-store", "private", "stale",
    ]  # fmt: skip
    assert terms("Pragma: no-cache", rules=rules) == "no-freshness"
    assert [terms(status=status, rules=rules) for status in (204, 302, 404, 500)] == ["no-freshness"] * 4


def test_a_guess():
    rules = Rules(heuristic=0.1)
    assert terms(f"Last-Modified: {formatdate(WALL - 1000, usegmt=True)}", rules=rules).lifetime == 100
    assert terms(f"Last-Modified: {formatdate(WALL + 1000, usegmt=True)}", rules=rules).lifetime == 0
    assert terms("Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT", rules=rules).lifetime == 86400
    assert terms("Last-Modified: yesterday", rules=rules) == "no-freshness"


@pytest.mark.parametrize(
    ("value", "told", "configured"),
    [("max-age=5", 7, 9), ("max-age=5, must-revalidate", 0, 0), ("max-age=5, proxy-revalidate", 0, 0), ("s-maxage=5", 7, 0), ("no-cache", 0, 0)],
)  # fmt: skip
def test_how_long_it_may_be_served_stale(value, told, configured):
    rules = Rules(while_revalidating=9, if_error=9)
    with_word = terms(f"Cache-Control: {value}, stale-while-revalidate=7, stale-if-error=7", 'ETag: "a"', rules=rules)
    without = terms(f"Cache-Control: {value}", 'ETag: "a"', rules=rules)
    assert (with_word.while_revalidating, with_word.if_error) == (told, told)
    assert (without.while_revalidating, without.if_error) == (configured, configured)


@pytest.mark.parametrize(
    ("fields", "delay", "age"),
    [
        ([], 0, 0), ([], 2.5, 2.5), (["Age: 5"], 2, 7), ([f"Date: {formatdate(WALL - 9, usegmt=True)}"], 2, 9),
        (["Age: 20", f"Date: {formatdate(WALL - 9, usegmt=True)}"], 0, 20), ([f"Date: {formatdate(WALL + 9, usegmt=True)}"], 0, 0),
    ],
)  # fmt: skip
def test_age_at_arrival(fields, delay, age):
    assert policy.initial_age(words(*fields), WALL, delay) == age


def stored(*fields, vary=()):
    response = answer(*fields)
    said = Words(response.headers.fields)
    found = policy.terms_of(200, said, Rules(), WALL)
    return policy.make_entry("http://h/p", "r", facts(*vary), response, said, found, b"body", 100.0, WALL)


def test_what_is_kept_of_a_head():
    entry = stored(
        "Cache-Control: max-age=5, no-cache=secret", "A: 1", "Secret: x", "Age: 3", "Set-Cookie2: x", "Connection: x",
        "Transfer-Encoding: x", "Content-Length: 4", "X-Request-ID: x", "Trailer: x", "Proxy-Authentication-Info: x",
    )  # fmt: skip
    assert [each[0] for each in entry.fields] == [b"cache-control", b"a", b"date"]
    assert entry.get("date") == formatdate(WALL, usegmt=True)


def test_what_a_304_changes():
    entry = stored("Cache-Control: max-age=5", 'ETag: "a"', "A: 1", "B: 1", "B: 2", "Content-Encoding: x")
    reply = answer(
        "Cache-Control: max-age=9",
        "B: 3",
        "Content-Encoding: y",
        "Content-Length: 0",
        "Set-Cookie: a=b",
        "Age: 2",
        status=304,
    )
    fresh, refused = policy.freshened(entry, facts(), 0, reply, Rules(), 200.0, WALL + 100, 0.5)
    assert refused is None
    assert (fresh.body, fresh.born, fresh.terms.lifetime) == (b"body", 197.5, 9)
    assert {name: fresh.get(name) for name in ("a", "b", "content-encoding", "etag", "set-cookie", "age")} == {
        "a": "1", "b": "3", "content-encoding": "x", "etag": '"a"', "set-cookie": None, "age": None,
    }  # fmt: skip
    assert fresh.get("date") == formatdate(WALL + 100, usegmt=True)


@pytest.mark.parametrize("value", ["no-store", "private"])
def test_a_304_may_forbid_to_keep_it(value):
    entry = stored("Cache-Control: max-age=5", 'ETag: "a"')
    assert (
        policy.freshened(entry, facts(), 0, answer(f"Cache-Control: {value}", status=304), Rules(), 200.0, WALL, 0)[1]
        == value
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [(["Vary: A"], "A: 1", True), (["Vary: a"], "A: 2", False), ([], "A: 2", True), (["Vary: A, b"], "A: 1", True), (["Vary: B"], "A: 2", True)],
)  # fmt: skip
def test_which_requests_an_entry_answers(one, other, same):
    entry = stored("Cache-Control: max-age=5", *one, vary=["A: 1"])
    assert entry.answers(facts(other)) is same


def test_conditions_take_the_place_of_the_client_s():
    headers = Headers.of([("If-None-Match", '"z"'), ("Range", "bytes=0-1"), ("If-Range", "x"), ("A", "1")])
    entry = stored("Cache-Control: max-age=5", 'ETag: W/"a"', "Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT")
    assert dict(policy.conditions(headers, entry).items()) == {
        "A": "1", "If-None-Match": 'W/"a"', "If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT",
    }  # fmt: skip
    assert dict(policy.conditions(headers, None).items()) == {"A": "1"}
    assert headers.get("range") == "bytes=0-1"


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("/b", ["http://h/b"]), ("c?x#y", ["http://h/a/c?x"]), ("http://h/b", ["http://h/b"]), ("//h/b", ["http://h/b"]),
        ("https://h/b", []), ("http://h.evil/b", []), ("http://h:1/b", []), ("http://[/", []), ("", []),
    ],
)  # fmt: skip
def test_related_urls(location, found):
    assert policy.related_urls("http://h/a/b", answer(f"Location: {location}")) == found


def test_requests_are_told_apart_by_who_makes_them():
    names = [
        facts(*fields).identity(consumer)
        for fields in ([], ["Authorization: a"], ["Cookie: a"], ["Authorization: a", "Cookie: b"])
        for consumer in (None, "ann", "bob")
    ]
    assert len(set(names)) == len(names)
    assert names[0] == ""
    assert not any("ann" in name for name in names)


def test_a_head_that_was_read_before_is_not_read_again():
    def headers():
        return Headers(Headers.of([("Cookie", "a=b")]).fields, 0, b"Cookie: a=b remembered\r\n")

    facts_of(headers())
    second = facts_of(headers())
    assert facts_of(headers()) is second
    assert second.personal == COOKIE
