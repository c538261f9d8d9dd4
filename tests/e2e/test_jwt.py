"""The `jwt` plugin in a running gateway: keys of every kind, open routes, the log, an issuer that rotates and dies."""

import json
import time

import pytest

from gatewright.app import ConfigurationError
from tests.kit.answers import why
from tests.kit.tokens import KINDS, SECRET, Issuer, claims, forged, jwk, jwks, private_key, public_pem, token
from tests.kit.wire import get, request

HS256 = f'jwt: {{algorithms: [HS256], secret: "{SECRET}"}}'


@pytest.fixture
def guarded(proxy, target):
    """Start a gateway whose only route is behind a jwt plugin: (running, target)."""

    def start(plugin=HS256, **more):
        upstream = target()
        return proxy(upstream, extra=f"plugins:\n  - {plugin}\n", **more), upstream

    return start


def ask(running, text, path="/", more=""):
    return get(running.port, path, (f"Authorization: Bearer {text}\r\n" if text else "") + more)


def test_a_good_token_reaches_the_target_and_no_other(guarded):
    running, upstream = guarded()
    assert why(ask(running, None)) == (401, "jwt_missing")
    assert why(ask(running, token(exp=1))) == (401, "jwt_expired")
    assert why(ask(running, token("not the secret, but as long as one"))) == (401, "jwt_invalid")
    assert why(ask(running, forged({"alg": "none"}, claims()))) == (401, "jwt_invalid")
    assert why(get(running.port, "/", "Authorization: Basic YTpi\r\n")) == (401, "jwt_scheme")
    assert upstream.received == b""
    for _ in range(3):
        assert ask(running, token()).status == 200
    lines = running.access_log()
    assert [line["status"] for line in lines] == [401] * 5 + [200] * 3
    assert [line.get("reason") for line in lines[:5]] == [
        "jwt_missing", "jwt_expired", "jwt_invalid", "jwt_invalid", "jwt_scheme",
    ]  # fmt: skip
    assert [line.get("consumer") for line in lines] == [None] * 5 + ["alice"] * 3
    assert lines[2]["cause"] == "the signature is wrong"
    assert lines[3]["cause"] == 'the algorithm "none" is not allowed'


def test_the_answer_to_a_missing_token(guarded):
    answer = ask(guarded()[0], None)
    assert answer.get("www-authenticate") == 'Bearer realm="gatewright"'
    problem = json.loads(answer.body)
    assert (problem["detail"], problem["title"]) == ("Authorization header missing", "Token missing")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_public_keys(guarded, algorithm):
    key = private_key(KINDS[algorithm])
    pem = json.dumps(public_pem(key))
    running, _ = guarded(f"jwt: {{algorithms: [{algorithm}], public_key: {pem}}}")
    text = token(key, algorithm)
    assert [ask(running, text).status for _ in range(3)] == [200] * 3
    assert why(ask(running, token(private_key(KINDS[algorithm], 1), algorithm))) == (401, "jwt_invalid")
    assert why(ask(running, forged({"alg": "HS256"}, claims(), public_pem(key)))) == (401, "jwt_invalid")


def test_open_routes(gateway, target):
    upstream = target()
    running = gateway(f"""
services: {{s: {{targets: ["{upstream.url}"]}}}}
routes:
  - {{name: closed, match: {{path: /closed}}, service: s}}
  - {{name: open, match: {{path: /open}}, service: s, plugins: [jwt: {{enabled: false}}]}}
  - {{name: both, match: {{path: /both}}, service: s, plugins: [jwt: {{algorithms: [HS256], secret: "{SECRET}", optional: true}}]}}
plugins:
  - {HS256}
""")
    assert [ask(running, None, path).status for path in ("/closed", "/open", "/both")] == [401, 200, 200]
    assert [ask(running, token(), path).status for path in ("/closed", "/open", "/both")] == [200, 200, 200]
    assert [ask(running, "x", path).status for path in ("/closed", "/open", "/both")] == [401, 200, 401]


def test_claims_for_the_target_and_nothing_that_the_client_made_up(guarded):
    running, upstream = guarded(HS256[:-1] + ", claims_to_headers: {sub: X-User, groups: X-Groups}, forward: false}")
    text = token(groups=["a", "b"])
    for _ in range(2):
        assert ask(running, text, more="X-User: root\r\nX_User: root\r\nx-groups: root\r\nX-Kept: 1\r\n").status == 200
    assert upstream.received.count(b"X-User: alice\r\n") == 2
    assert upstream.received.count(b'X-Groups: ["a","b"]\r\n') == 2
    assert upstream.received.count(b"X-Kept: 1\r\n") == 2
    for gone in (b"root", b"Authorization", text.encode()):
        assert gone not in upstream.received


def test_fields_that_connection_names_cannot_take_the_claims_away(guarded):
    running, upstream = guarded(HS256[:-1] + ", claims_to_headers: {sub: X-User}}")
    assert ask(running, token(), more="Connection: X-User\r\nX-User: root\r\n").status == 200
    assert b"X-User: alice\r\n" in upstream.received
    assert why(ask(running, token(), more="Connection: Authorization\r\n")) == (401, "jwt_missing")


@pytest.mark.parametrize("forward", [True, False])
def test_a_token_in_the_query_is_in_no_log(guarded, forward):
    setting = f', places: ["query:access_token"], forward: {str(forward).lower()}}}'
    running, upstream = guarded(HS256[:-1] + setting)
    good, bad = token(), token(exp=1)
    assert get(running.port, f"/?a=1&access_token={good}&b=2").status == 200
    assert why(get(running.port, f"/?access%5Ftoken={bad}")) == (401, "jwt_expired")
    assert (good.encode() in upstream.received) is forward
    assert (b"GET /?a=1&b=2 HTTP" in upstream.received) is not forward
    written = json.dumps(running.access_log())
    assert len(running.access_log()) == 2
    for text in (good, bad):
        assert not any(part in written for part in text.split("."))


def test_two_fields_and_other_tricks_on_the_wire(guarded):
    running, upstream = guarded()
    good = f"Authorization: Bearer {token()}\r\n"
    for fields in (good + good, good + "authorization: Basic YTpi\r\n", good.replace("Bearer ", "Bearer\t")):
        assert get(running.port, "/", fields).status == 401
    assert get(running.port, "/", good.replace("Authorization: ", "Authorization:")).status == 200
    assert get(running.port, "/", good.replace("\r\n", " \t\r\n")).status == 200
    assert why(get(running.port, "/", good.replace("Authorization", "Authorizatio_n"))) == (401, "jwt_missing")
    assert why(get(running.port, "/", good.replace(".", ".\xe4", 1))) == (401, "jwt_invalid")
    assert upstream.received.count(b"GET / ") == 2


def test_a_request_with_a_body_and_a_websocket_are_guarded_too(guarded):
    running, upstream = guarded()
    head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n"
    assert request(running.port, f"{head}\r\nhello".encode()).status == 401
    assert request(running.port, f"{head}Authorization: Bearer {token()}\r\n\r\nhello".encode()).status == 200
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    assert why(get(running.port, "/", upgrade)) == (401, "jwt_missing")
    assert upstream.received.count(b" / HTTP/1.1\r\n") == 1


def test_a_short_secret_has_its_place(proxy, target):
    with pytest.raises(ConfigurationError) as caught:
        proxy(target(), extra='plugins:\n  - jwt:\n      algorithms: [HS256]\n      secret: "tooshort"\n')
    (error,) = caught.value.errors
    assert error.path == "plugins[0].jwt.secret"
    assert error.line > 1
    assert "has 8 bytes" in str(error)
    assert "tooshort" not in str(error)


# An issuer


@pytest.fixture
def issuer(stack):
    def make(*keys):
        return stack.enter_context(Issuer(jwks(*keys)))

    return make


def by_issuer(issuer, more="cooldown: 50ms"):
    return f'jwt: {{algorithms: [RS256, ES256], jwks: {{url: "{issuer.url}", {more}}}}}'


def settled(running, text):
    """Ask until the gateway knows: the answer that is no 503."""
    deadline = time.monotonic() + 10
    while (answer := ask(running, text)).status == 503 and time.monotonic() < deadline:
        assert why(answer) == (503, "jwt_keys_unavailable")
        assert answer.get("retry-after") == "1"
    return answer


def comes_to_pass(running, text):
    """Ask until the token passes: within the cooldown after a fetch the gateway takes the issuer's last word for it."""
    deadline = time.monotonic() + 10
    while (answer := ask(running, text)).status != 200:
        assert why(answer) in [(401, "jwt_invalid"), (503, "jwt_keys_unavailable")]
        assert time.monotonic() < deadline


def test_keys_rotate_the_issuer_dies_and_comes_back(guarded, issuer):
    old, new = private_key("rsa"), private_key("p256")
    source = issuer(jwk(old, kid="old"))
    running, _ = guarded(by_issuer(source))
    before = token(old, "RS256", {"kid": "old"})
    assert ask(running, before).status == 200
    assert source.asked == 1

    source.document = jwks(jwk(new, kid="new"))
    after = token(new, "ES256", {"kid": "new"})
    comes_to_pass(running, after)
    assert why(settled(running, before)) == (401, "jwt_invalid")

    source.stop()
    for _ in range(3):
        assert ask(running, after).status == 200
        assert ask(running, token(new, "ES256", {"kid": "new"}, sub="bob")).status == 200
    unknown = token(old, "RS256", {"kid": "third"})
    assert why(ask(running, unknown))[0] in (401, 503)

    source.document = jwks(jwk(new, kid="new"), jwk(old, kid="third"))
    source.start()
    comes_to_pass(running, unknown)
    assert ask(running, after).status == 200


def test_an_issuer_that_is_down_at_the_start(guarded, issuer):
    key = private_key("rsa")
    source = issuer(jwk(key, kid="a"))
    source.stop()
    running, upstream = guarded(by_issuer(source))
    text = token(key, "RS256", {"kid": "a"})
    answer = ask(running, text)
    assert why(answer) == (503, "jwt_keys_unavailable")
    assert answer.get("www-authenticate") is None
    assert why(ask(running, None)) == (401, "jwt_missing")
    assert why(ask(running, "x.y.z")) == (401, "jwt_invalid")
    assert upstream.received == b""
    source.start()
    assert settled(running, text).status == 200


def test_a_slow_issuer_holds_up_the_start_for_a_while_only_and_no_request(guarded, issuer):
    source = issuer(jwk(private_key("rsa")))
    source.gate.clear()
    began = time.monotonic()
    running, _ = guarded(by_issuer(source, "timeout: 30s"))
    assert time.monotonic() - began < 8
    began = time.monotonic()
    for _ in range(20):
        assert why(ask(running, token(private_key("rsa"), "RS256"))) == (503, "jwt_keys_unavailable")
    assert time.monotonic() - began < 2
    source.gate.set()
    assert settled(running, token(private_key("rsa"), "RS256")).status == 200


def test_unknown_keys_do_not_make_the_gateway_ask_without_end(guarded, issuer):
    key = private_key("rsa")
    source = issuer(jwk(key, kid="a"))
    running, _ = guarded(by_issuer(source, "cooldown: 1h"))
    for number in range(50):
        assert why(ask(running, token(key, "RS256", {"kid": str(number)}))) == (401, "jwt_invalid")
    assert source.asked == 1
    assert ask(running, token(key, "RS256", {"kid": "a"})).status == 200


def test_no_word_of_a_token_makes_the_gateway_ask_elsewhere(guarded, issuer):
    key, evil = private_key("rsa"), private_key("rsa", 1)
    source, other = issuer(jwk(key, kid="a")), issuer(jwk(evil, kid="b"))
    running, _ = guarded(by_issuer(source))
    for more in ({"jku": other.url}, {"x5u": other.url}, {"kid": other.url}, {"iss": other.url}):
        assert settled(running, token(evil, "RS256", {"kid": "a"} | more)).status == 401
    assert other.asked == 0
