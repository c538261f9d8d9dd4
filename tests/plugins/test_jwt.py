"""The `jwt` plugin on single requests: what it takes, what it changes, and what it remembers."""

import json
import math
import time
from functools import partial

import pytest

from tests.kit.tokens import KINDS, SECRET, b64, claims, forged, jwk, jwks, private_key, public_pem, token
from tests.plugins.jwt_kit import HEADER, INVALID, ask, bearer, cause, started, told


@pytest.fixture
def plugin(tmp_path):
    """Make a plugin that has started."""
    return partial(started, tmp_path)


# What passes


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_secrets(plugin, algorithm):
    made = plugin(algorithms=[algorithm])
    exchange, answer = ask(made, bearer(token(algorithm=algorithm)))
    assert answer is None
    assert exchange.consumer.name == "alice"
    assert told(ask(made, bearer(token("another secret" * 5, algorithm)))[1]) == INVALID


@pytest.mark.parametrize("algorithm", KINDS)
def test_public_keys(plugin, algorithm):
    key = private_key(KINDS[algorithm])
    made = plugin(algorithms=[algorithm], public_key=public_pem(key))
    assert ask(made, bearer(token(key, algorithm)))[1] is None
    assert told(ask(made, bearer(token(private_key(KINDS[algorithm], 1), algorithm)))[1]) == INVALID


def test_ed448(plugin):
    key = private_key("ed448")
    assert ask(plugin(algorithms=["EdDSA"], public_key=public_pem(key)), bearer(token(key, "EdDSA")))[1] is None


def test_a_file_with_a_certificate_or_a_key(plugin, tmp_path):
    import trustme

    key = private_key("p256")
    (tmp_path / "key.pem").write_text(public_pem(key))
    made = plugin(algorithms=["ES256"], public_key_file="key.pem")
    assert ask(made, bearer(token(key, "ES256")))[1] is None
    certificate = trustme.CA().issue_cert("a.test", key_type=trustme.KeyType.RSA)
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    made = plugin(algorithms=["RS256"], public_key_file="cert.pem")
    assert ask(made, bearer(token(certificate.private_key_pem.bytes(), "RS256")))[1] is None


def test_a_file_of_keys_by_kid_and_kind(plugin, tmp_path):
    rsa, p256, secret = private_key("rsa"), private_key("p256"), {"kty": "oct", "k": b64(SECRET.encode()), "kid": "s"}
    (tmp_path / "keys.json").write_bytes(jwks(jwk(rsa, kid="r", alg="RS256"), jwk(p256, kid="e"), secret))
    made = plugin(algorithms=["RS256", "ES256", "HS256"], jwks={"file": "keys.json"})
    for kid in ("r", None):
        assert ask(made, bearer(token(rsa, "RS256", {"kid": kid} if kid else None)))[1] is None
    assert ask(made, bearer(token(p256, "ES256", {"kid": "e"})))[1] is None
    assert ask(made, bearer(token(SECRET, "HS256", {"kid": "s"})))[1] is None
    assert "no key of that name" in cause(made, token(p256, "ES256", {"kid": "r"}))
    assert "no key of that name" in cause(made, token(p256, "ES256", {"kid": "../../dev/null"}))


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer    "])
def test_the_scheme_in_any_case(plugin, scheme):
    assert ask(plugin(), ("Authorization", scheme + token()))[1] is None


# What the client is told


@pytest.mark.parametrize(
    ("fields", "reason", "detail"),
    [
        ([], "jwt_missing", "Authorization header missing"),
        ([("Authorization", "")], "jwt_missing", "Authorization header missing"),
        ([("Authorization", "Basic YTpi")], "jwt_scheme", "Invalid authorization scheme"),
        ([("Authorization", "Bearers x")], "jwt_scheme", "Invalid authorization scheme"),
        ([("Authorization", "Bearer\tx.y.z")], "jwt_scheme", "Invalid authorization scheme"),
        ([("Authorization", token())], "jwt_scheme", "Invalid authorization scheme"),
        ([("Authorization", "Bearer")], "jwt_invalid", "Invalid token"),
        ([bearer("x")], "jwt_invalid", "Invalid token"),
        ([bearer(token(exp=int(time.time()) - 1))], "jwt_expired", "Token has expired"),
    ],
)
def test_refusals(plugin, fields, reason, detail):
    exchange, answer = ask(plugin(realm="shop"), *fields)
    problem = json.loads(answer.body)
    assert (answer.status, problem["reason"], problem["detail"]) == (401, reason, detail)
    assert answer.headers.get("content-type") == "application/problem+json"
    challenge = 'Bearer realm="shop"'
    if reason in ("jwt_invalid", "jwt_expired"):
        challenge += f', error="invalid_token", error_description="{detail}"'
    assert answer.headers.get("www-authenticate") == challenge
    assert (exchange.reason, exchange.consumer) == (reason, None)


# What the target is told


def seen(exchange):
    return [(name.lower(), value) for name, value in exchange.request.headers.items()]


HEADERS = {"sub": "X-User", "admin": "X-Admin", "realm.roles": "X-Roles"}


def test_claims_become_fields(plugin):
    made = plugin(claims_to_headers=HEADERS | {"level": "X-Level", "none": "X-None"})
    text = token(sub="Zoë", admin=False, realm={"roles": ["a,b", "ü"]}, level=3)
    exchange, answer = ask(made, ("X-First", "1"), bearer(text))
    assert answer is None
    assert seen(exchange) == [
        ("x-first", "1"),
        ("authorization", f"Bearer {text}"),
        ("x-user", "Zoë".encode().decode("latin-1")),
        ("x-admin", "false"),
        ("x-roles", '["a,b","\\u00fc"]'),
        ("x-level", "3"),
    ]


@pytest.mark.parametrize("how", ["good", "again", "optional", "disabled"])
def test_what_the_client_says_under_those_names_is_dropped(plugin, how):
    more = {"optional": {"optional": True}, "disabled": {"enabled": False}}.get(how, {})
    made = plugin(claims_to_headers=HEADERS, **more)
    fields = [(name, "root") for name in ("X-User", "x_user", "X_USER", "X-Admin", "x-roles", "X_Roles")]
    text = token()
    for _ in range(2 if how == "again" else 1):
        with_token = [bearer(text)] if how in ("good", "again") else []
        exchange, answer = ask(made, *fields, ("X-Users", "kept"), *with_token)
        assert answer is None
    left = [pair for pair in seen(exchange) if pair[0] != "authorization"]
    assert left == [("x-users", "kept"), *([("x-user", "alice")] if with_token else [])]
    assert exchange.request.headers.join(0).count(b"root") == 0


@pytest.mark.parametrize("value", ["a\r\nX-Admin: true", "a\nb", "\x00", " root", "root ", "\ud800"])
def test_a_claim_that_no_field_can_hold_unchanged_refuses_the_token(plugin, value):
    made = plugin(claims_to_headers={"tenant": "X-Tenant"})
    assert "tenant cannot be sent" in cause(made, forged(HEADER, claims(tenant=value)))


# Where tokens are


def test_a_named_header(plugin):
    made = plugin(places=["header:X-Token"], forward=False)
    exchange, answer = ask(made, ("X-Token", token()), ("X-Other", "1"))
    assert answer is None
    assert seen(exchange) == [("x-other", "1")]
    assert json.loads(ask(made, bearer(token()))[1].body)["detail"] == "Token missing"
    assert told(ask(made, ("X-Token", token()), ("X-Token", token()))[1]) == INVALID
    assert told(ask(made, ("X-Token", f"Bearer {token()}"))[1]) == INVALID


def test_a_cookie(plugin):
    made = plugin(places=["cookie:session"], forward=False)
    for name, rest in ((f"a=1; session={token()}; b=2", "a=1; b=2"), (f'session="{token()}"', None)):
        exchange, answer = ask(made, ("Cookie", name))
        assert answer is None
        assert exchange.request.headers.get("cookie") == rest
    assert told(ask(made, ("Cookie", f"session={token()}"), ("Cookie", f"session={token(sub='bob')}"))[1]) == INVALID
    assert told(ask(made, ("Cookie", f"xsession={token()}; session"))[1]) == (401, "jwt_missing")


def test_a_query_parameter(plugin):
    made = plugin(places=["query:access_token"], forward=False)
    for query, rest in (("a=1&access_token={}&b=%20", "a=1&b=%20"), ("access%5Ftoken={}", None)):
        exchange, answer = ask(made, query=query.format(token()))
        assert answer is None
        assert exchange.request.query == rest
    assert told(ask(made, query=f"access_token={token()}&access_token=x")[1]) == INVALID
    assert told(ask(made, query=f"Access_Token={token()}")[1]) == (401, "jwt_missing")
    exchange, answer = ask(plugin(places=["query:access_token"]), query=f"access_token={token()}")
    assert answer is None
    assert exchange.request.query.startswith("access_token=e")


def test_several_places_and_one_token(plugin):
    made = plugin(places=["authorization", "cookie:session"], forward=False)
    assert ask(made, bearer(token()))[1] is None
    exchange, answer = ask(made, ("Authorization", "Basic YTpi"), ("Cookie", f"session={token()}"))
    assert answer is None
    assert seen(exchange) == [("authorization", "Basic YTpi")]
    assert "2 tokens" in ask(made, bearer(token()), ("Cookie", f"session={token(sub='bob')}"))[0].cause
    assert told(ask(made, ("Authorization", "Basic YTpi"))[1]) == (401, "jwt_scheme")


def test_two_authorization_fields(plugin):
    for made in (plugin(), plugin(optional=True), plugin(places=["authorization", "cookie:c"])):
        for second in (bearer(token(sub="bob")), ("Authorization", "Basic YTpi"), ("authorization", "")):
            exchange, answer = ask(made, bearer(token()), second)
            assert told(answer) == INVALID
            assert exchange.cause == "there are 2 Authorization fields"


def test_the_token_is_taken_out_only_if_asked(plugin):
    assert seen(ask(plugin(), bearer("x.y.z"))[0]) == [("authorization", "Bearer x.y.z")]
    exchange, _ = ask(plugin(forward=False), bearer(token()), ("X-A", "1"))
    assert seen(exchange) == [("x-a", "1")]


def test_optional(plugin):
    made = plugin(optional=True)
    for fields in ([], [("Authorization", "Basic YTpi")], [("Authorization", "")]):
        exchange, answer = ask(made, *fields)
        assert (answer, exchange.consumer) == (None, None)
    assert told(ask(made, bearer("x"))[1]) == INVALID
    assert told(ask(made, ("Authorization", "Bearer"))[1]) == INVALID
    assert told(ask(made, bearer(token(exp=1)))[1]) == (401, "jwt_expired")
    assert ask(made, bearer(token()))[0].consumer.name == "alice"


def test_disabled(plugin):
    made = plugin(enabled=False)
    for fields in ([], [bearer("x")]):
        exchange, answer = ask(made, *fields)
        assert (answer, exchange.consumer) == (None, None)


def test_a_disabled_plugin_leaves_the_token_to_the_target(plugin):
    made = plugin(enabled=False, forward=False, claims_to_headers={"sub": "X-User"})
    assert seen(ask(made, bearer("x"), ("X-User", "root"))[0]) == [("authorization", "Bearer x")]


# Memory


def verifications(made, monkeypatch):
    count = []
    before = made._verify
    monkeypatch.setattr(made, "_verify", lambda *arguments: count.append(1) or before(*arguments))
    return count


def test_a_good_token_is_verified_once_and_a_bad_one_each_time(plugin, monkeypatch):
    made = plugin()
    count = verifications(made, monkeypatch)
    text = token()
    assert [ask(made, bearer(text))[1] for _ in range(5)] == [None] * 5
    assert len(count) == 1
    for _ in range(3):
        assert told(ask(made, bearer(text[:-5] + "AAAAA"))[1]) == INVALID
    assert len(count) == 4


def test_a_token_beside_other_credentials_is_remembered_too(plugin, monkeypatch):
    made = plugin(places=["authorization", "cookie:session"])
    count = verifications(made, monkeypatch)
    text = token()
    for _ in range(3):
        assert ask(made, ("Authorization", "Basic YTpi"), ("Cookie", f"session={text}"))[1] is None
    assert len(count) == 1


def test_what_is_remembered_ends_with_the_token_and_follows_the_clock(plugin):
    made = plugin(leeway="50s")
    clock, now = made.gateway.clock, int(time.time())
    text = token(nbf=now - 5, exp=now + 1000)
    assert ask(made, bearer(text))[1] is None
    for ahead, reason in ((1020, None), (1051, "jwt_expired"), (50, None), (-3600, "jwt_invalid"), (0, None)):
        clock.ahead = ahead
        assert told(ask(made, bearer(text))[1]) == (reason and (401, reason)), ahead


def test_memory_is_bounded(plugin, monkeypatch):
    made = plugin(remember=100)
    texts = [token(sub=str(number)) for number in range(1000)]
    for text in texts:
        assert ask(made, bearer(text))[1] is None
        assert ask(made, bearer(texts[0]))[1] is None
        assert len(made._memory) <= 101
    count = verifications(made, monkeypatch)
    ask(made, bearer(texts[0]))
    ask(made, bearer(texts[-1]))
    assert not count, "a token that is in use was forgotten"
    ask(made, bearer(texts[1]))
    assert count


def test_memory_is_bounded_in_bytes(plugin):
    made = plugin(remember=1_000_000)
    for number in range(600):
        assert ask(made, bearer(token(sub=str(number), pad="x" * 10_000)))[1] is None
    assert sum(len(key) for each in (made._memory._young, made._memory._old) for key in each) <= 4 * 1024 * 1024


def test_remember_nothing(plugin, monkeypatch):
    made = plugin(remember=0)
    count = verifications(made, monkeypatch)
    text = token()
    for _ in range(3):
        assert ask(made, bearer(text))[1] is None
    assert (len(count), len(made._memory)) == (3, 0)


def test_a_remembered_token_costs_about_a_microsecond(plugin):
    made = plugin()
    exchange, answer = ask(made, ("User-Agent", "x"), ("Accept", "*/*"), bearer(token()), ("X-A", "1"))
    assert answer is None
    best = math.inf
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(1000):
            made.on_request(exchange)
        best = min(best, (time.perf_counter() - began) / 1000)
    assert best < 5e-6, f"{best * 1e6:.2f} us"  # 0.8 us on a quiet machine; verifying takes 20 and more
