"""The `jwt` plugin and tokens that are wrong: forms made to deceive it, and claims."""

import json
import time
from functools import partial

import pytest
from pydantic import ValidationError

from gatewright.core.exchange import Exchange
from gatewright.core.headers import Headers
from gatewright.core.messages import Request
from gatewright.core.peer import Peer
from gatewright.plugins.jwt_config import JwtConfig
from tests.kit.tokens import SECRET, b64, claims, forged, jwk, jwks, private_key, public_pem, token
from tests.plugins.jwt_kit import HEADER, INVALID, ask, bearer, cause, started, told


@pytest.fixture
def plugin(tmp_path):
    """Make a plugin that has started."""
    return partial(started, tmp_path)


# Attacks on the form


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "...", "a.b", "a.b.c.d", "a.b.c", "ä.b.c", "e30.e30.", ".e30.e30", "e30..e30", " e30.e30.e30",
        "e30.e30.e30 x", "e30 .e30.e30", "e30.e30.e3=", "e30=.e30.e30", "e30.e30.e+/0", '"e30.e30.e30"', "e30.e30.e30,x",
        "\x00", "W10.W10.W10", "bnVsbA.e30.e30", "MQ.e30.e30", "IiI.e30.e30", "gA.e30.e30", "77u_e30.e30.e30", "A.A.A",
    ],
)  # fmt: skip
def test_garbage(plugin, text):
    request = Request("GET", "/", None, 1, b"test", Headers())
    value = b"Bearer " + text.encode()
    request.headers.fields = [(b"authorization", value, b"", 0)]
    exchange = Exchange(request, Peer("127.0.0.1", 1, 80), None, 0.0)
    assert told(plugin().on_request(exchange)) == INVALID


@pytest.mark.parametrize("place", [0, 1, 2])
def test_padding_and_stray_bits_are_refused(plugin, place):
    """One token has one spelling: what says the same in other letters is not the token that was issued."""
    made = plugin()
    parts = token(sub="alicealice").split(".")
    assert told(ask(made, bearer(".".join(parts)))[1]) is None
    padded = [part + "=" if index == place else part for index, part in enumerate(parts)]
    assert told(ask(made, bearer(".".join(padded)))[1]) == INVALID
    tried = 0
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = parts[place][-1]
    for letter in alphabet.replace(last, ""):
        changed = [part[:-1] + letter if index == place else part for index, part in enumerate(parts)]
        tried += told(ask(made, bearer(".".join(changed)))[1]) == INVALID
    assert tried == 63


def test_size(plugin):
    made = plugin()
    room = 16 * 1024 - len(token(pad=""))
    fits = token(pad="x" * (room * 3 // 4 - 8))
    assert 16_000 < len(fits) <= 16 * 1024
    assert ask(made, bearer(fits))[1] is None
    assert "16384 at most" in cause(made, token(pad="x" * (room * 3 // 4 + 8)))
    assert "16384 at most" in cause(made, "A" * 30_000)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"alg": "none"}, 'algorithm "none"'),
        ({"alg": "None"}, 'algorithm "None"'),
        ({"alg": "hs256"}, "algorithm"),
        ({"alg": "HS384"}, "algorithm"),
        ({"alg": "RS256"}, "algorithm"),
        ({"alg": ["HS256"]}, "algorithm"),
        ({"alg": None}, "algorithm null"),
        ({"alg": 256}, "algorithm"),
        ({}, "algorithm null"),
        ({"alg": "HS256", "crit": ["exp"]}, "extensions"),
        ({"alg": "HS256", "crit": []}, "extensions"),
        ({"alg": "HS256", "crit": ["b64"], "b64": False}, "extensions"),
        ({"alg": "HS256", "b64": True}, "extensions"),
        ({"alg": "HS256", "kid": 7}, "kid"),
        ({"alg": "HS256", "kid": None}, "kid"),
        ({"alg": "HS256", "typ": 7}, "typ"),
        ({"alg": "HS256", "typ": "dpop+jwt"}, "typ"),
        ({"alg": "HS256", "typ": "application/logout+jwt"}, "typ"),
        ('{"alg": "HS256", "alg": "HS256"}', "twice"),
        ('{"alg": "none", "alg": "HS256"}', "twice"),
        ('{"alg": "HS256", "x": {"a": 1, "a": 2}}', "twice"),
        ('{"alg": "HS256", "x": NaN}', "no JSON"),
        ('{"alg": "HS256"} {}', "no JSON"),
        ('{"alg": "HS256"', "no JSON"),
        ('["HS256"]', "no JSON object"),
        ("[" * 5000, "no JSON"),
        ('{"alg": "HS256", "x": 1' + "0" * 5000 + "}", "no JSON"),
    ],
)
def test_headers(plugin, header, words):
    assert words in cause(plugin(), forged(header, claims()))


@pytest.mark.parametrize("kind", [None, "JWT", "jwt", "at+jwt", "application/at+JWT"])
def test_the_usual_types_pass(plugin, kind):
    header = {"alg": "HS256"} | ({"typ": kind} if kind else {})
    assert ask(plugin(), bearer(forged(header, claims())))[1] is None
    made = plugin(types=["application/at+jwt"])
    assert (ask(made, bearer(forged(header, claims())))[1] is None) is ("at+jwt" in (kind or "").lower())


@pytest.mark.parametrize(
    "kid", ["../../etc/passwd", "' OR 1=1 --", "x" * 5000, "", "\x00", "\ud800", "http://evil.test"]
)
def test_a_kid_is_only_a_name(plugin, tmp_path, kid):
    """A lone secret has no name, so whatever a token calls it is the same; in a set it finds nothing."""
    text = forged({"alg": "HS256", "kid": kid}, claims())
    assert ask(plugin(), bearer(text))[1] is None
    (tmp_path / "keys.json").write_bytes(jwks({"kty": "oct", "k": b64(SECRET.encode()), "kid": "s"}))
    assert "no key" in cause(plugin(algorithms=["HS256"], jwks={"file": "keys.json"}), text)


def test_keys_that_a_token_brings_along_are_not_used(plugin):
    key, mine = private_key("rsa", 1), private_key("rsa")
    made = plugin(algorithms=["RS256"], public_key=public_pem(mine))
    for more in ({"jwk": jwk(key)}, {"jku": "http://127.0.0.1:1/"}, {"x5u": "http://127.0.0.1:1/"}, {"x5c": ["MII"]}):
        assert "signature" in cause(made, token(key, "RS256", more))
        assert ask(made, bearer(token(mine, "RS256", more)))[1] is None


def test_a_public_key_is_never_a_secret(plugin):
    """The classic: the public key, which everybody has, as the secret of an HS256 token."""
    key = private_key("rsa")
    pem = public_pem(key)
    made = plugin(algorithms=["RS256"], public_key=pem)
    for text in (pem, pem.strip(), json.dumps(jwk(key))):
        assert "algorithm" in cause(made, forged(HEADER, claims(), text))
        with pytest.raises(ValidationError, match="of another kind"):
            JwtConfig(algorithms=["HS256"], secret=text)
    with pytest.raises(ValidationError, match="HS256 needs a `secret`"):
        JwtConfig(algorithms=["RS256", "HS256"], public_key=pem)


def test_an_algorithm_that_is_allowed_still_needs_its_own_kind_of_key(plugin, tmp_path):
    rsa = private_key("rsa")
    secret = {"kty": "oct", "k": b64(SECRET.encode()), "kid": "s"}
    (tmp_path / "keys.json").write_bytes(jwks(jwk(rsa, kid="r"), secret))
    made = plugin(algorithms=["RS256", "HS256"], jwks={"file": "keys.json"})
    for text in (public_pem(rsa), json.dumps(jwk(rsa)), jwk(rsa)["n"]):
        for kid in ("r", "s"):
            assert cause(made, forged(HEADER | {"kid": kid}, claims(), text))


def test_signatures(plugin):
    made = plugin()
    head, body, signature = token().split(".")
    _, other, _ = token(sub="mallory").split(".")
    assert "signature" in cause(made, f"{head}.{other}.{signature}")
    assert cause(made, f"{head}.{body}.{signature[:-4]}")
    assert "signature" in cause(made, f"{head}.{body}.AAAA")
    key = private_key("p256")
    made = plugin(algorithms=["ES256"], public_key=public_pem(key))
    head, body, _ = token(key, "ES256").split(".")
    for forged_signature in (b"", b"\0" * 64, b"\0" * 63, b"\xff" * 64, b"\0" * 1000):
        assert cause(made, f"{head}.{body}.{b64(forged_signature)}")


# Claims


NOW = int(time.time())  # when the tests were collected: minutes ago, perhaps
DAY = 86400


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"exp": None}, "claim exp is missing"),
        ({"exp": str(NOW + 600)}, "exp is no time"),
        ({"exp": True}, "exp is no time"),
        ({"exp": [NOW + 600]}, "exp is no time"),
        ({"exp": 1e300}, "exp is no time"),
        ({"exp": 10**400}, "exp is no time"),
        ({"exp": -1e13}, "exp is no time"),
        ({"nbf": "soon"}, "nbf is no time"),
        ({"nbf": NOW + DAY}, "not valid yet"),
        ({"iat": NOW + DAY}, "not valid yet"),
        ({"iat": {}}, "iat is no time"),
        ({"sub": None}, "names no consumer"),
        ({"sub": ""}, "names no consumer"),
        ({"sub": ["alice"]}, "names no consumer"),
        ({"sub": True}, "names no consumer"),
        ({"sub": 1.5}, "names no consumer"),
        ({"sub": "a\r\nX-Admin: 1"}, "names no consumer"),
        ({"sub": "\ud800"}, "names no consumer"),
        ({"sub": "x" * 257}, "names no consumer"),
        ({"groups": 7}, "no list of groups"),
        ({"groups": ["a", 7]}, "no list of groups"),
        ({"groups": ["a\nb"]}, "no list of groups"),
    ],
)
def test_bad_claims(plugin, more, words):
    assert words in cause(plugin(), forged(HEADER, claims(**more)))


@pytest.mark.parametrize("exp", [-1, 0, -1e11, 1.5])
def test_long_gone(plugin, exp):
    assert told(ask(plugin(), bearer(forged(HEADER, claims(exp=exp))))[1]) == (401, "jwt_expired")


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ('{"sub": "alice", "exp": NaN}', "no JSON"),
        ('{"sub": "alice", "exp": Infinity}', "no JSON"),
        ('{"sub": "alice", "exp": 1e999}', "no time"),
        ('{"sub": "alice", "exp": 99999999999, "sub": "root"}', "twice"),
        ('{"sub": "alice", "exp": 1, "exp": 99999999999}', "twice"),
        ("[]", "no JSON object"),
        ("null", "no JSON object"),
        ("", "is not three parts"),
        ("{" * 3000, "no JSON"),
    ],
)
def test_payloads(plugin, payload, words):
    assert words in cause(plugin(), forged(HEADER, payload))


def test_a_float_is_a_time(plugin):
    assert ask(plugin(), bearer(token(exp=time.time() + 5.5)))[1] is None


def test_clocks_may_be_apart_by_the_leeway(plugin):
    strict, lenient, now = plugin(), plugin(leeway="30s"), int(time.time())
    for more, reason in (
        ({"exp": now - 10}, "jwt_expired"),
        ({"nbf": now + 20}, "jwt_invalid"),
        ({"iat": now + 20}, "jwt_invalid"),
    ):
        assert told(ask(strict, bearer(token(**more)))[1]) == (401, reason)
        assert ask(lenient, bearer(token(**more)))[1] is None
    assert told(ask(lenient, bearer(token(exp=now - 40)))[1]) == (401, "jwt_expired")


def test_issuer_and_audience(plugin):
    made = plugin(issuer="https://issuer.test", audience=["shop", "till"])
    good = {"iss": "https://issuer.test", "aud": "till"}
    assert ask(made, bearer(token(**good)))[1] is None
    assert ask(made, bearer(token(**good | {"aud": ["other", "shop"]})))[1] is None
    for wrong in ("https://issuer.test/", None, ["https://issuer.test"], 7):
        assert "issuer" in cause(made, forged(HEADER, claims(**good | {"iss": wrong})))
    for wrong in ("shopping", None, [], [["shop"]], {"shop": 1}, 7):
        assert "audience" in cause(made, forged(HEADER, claims(**good | {"aud": wrong})))


def test_required_claims(plugin):
    made = plugin(required=["tenant"])
    assert ask(made, bearer(token(tenant=0, exp=None)))[1] is None
    assert "tenant is missing" in cause(made, token())
    assert "tenant is missing" in cause(made, forged(HEADER, claims() | {"tenant": None}))


def test_the_consumer(plugin):
    made = plugin(consumer_claim="user.id", groups_claim="https://a.test/roles")
    exchange, answer = ask(made, bearer(token(user={"id": 7}, **{"https://a.test/roles": ["admin", "dev"]})))
    assert answer is None
    assert (exchange.consumer.name, exchange.consumer.groups) == ("7", {"admin", "dev"})
    assert exchange.consumer.claims["user"] == {"id": 7}
    exchange, _ = ask(plugin(groups_claim="scope"), bearer(token(scope="read write")))
    assert exchange.consumer.groups == {"read", "write"}
