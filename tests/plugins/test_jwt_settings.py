"""The settings of the `jwt` plugin, and the files of keys that they name."""

import json
from functools import partial

import jwt
import pytest
from pydantic import ValidationError

from gatewright.plugins.jwt_config import JwtConfig
from tests.kit.tokens import SECRET, b64, claims, forged, jwk, jwks, private_key, private_pem, public_pem, token
from tests.plugins.jwt_kit import HEADER, ask, bearer, started


@pytest.fixture
def plugin(tmp_path):
    """Make a plugin that has started."""
    return partial(started, tmp_path)


# Settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "exactly one of"),
        ({"secret": SECRET}, "needs `algorithms`"),
        ({"secret": None}, "has no value"),
        ({"secret": ""}, "is empty"),
        ({"algorithms": ["HS256"], "secret": "x" * 31}, "has 31 bytes"),
        ({"algorithms": ["HS256", "HS512"], "secret": "x" * 63}, "fewer than the 64 bytes"),
        ({"algorithms": ["HS384"], "secret": "x" * 47}, "fewer than the 48 bytes"),
        ({"algorithms": ["RS256"], "secret": SECRET}, "RS256 needs a public key"),
        ({"algorithms": ["none"], "secret": SECRET}, "should be 'HS256'"),
        ({"algorithms": ["HS256"], "secret": SECRET, "public_key": "x"}, "no PEM"),
        ({"algorithms": ["HS256"], "secret": SECRET, "public_key_file": "x"}, "exactly one of"),
        ({"algorithms": ["RS256"], "public_key": private_pem(private_key("rsa"))}, "is a private key"),
        ({"algorithms": ["RS256"], "public_key": public_pem(private_key("rsa1024"))}, "has 1024 bits"),
        ({"algorithms": ["ES256"], "public_key": public_pem(private_key("k256"))}, "no algorithm that is known"),
        ({"algorithms": ["ES256"], "public_key": public_pem(private_key("rsa"))}, "no key is for ES256"),
        ({"algorithms": ["HS256"], "jwks": {"url": "https://a.test/"}}, "HS256 needs a `secret`"),
        ({"algorithms": ["RS256"], "jwks": {}}, "either `url` or `file`"),
        ({"algorithms": ["RS256"], "jwks": {"url": "ftp://a.test/"}}, "http or https"),
        ({"algorithms": ["RS256"], "jwks": {"url": "https://me:pw@a.test/"}}, "without a user"),
        ({"places": ["body"]}, 'must be "authorization"'),
        ({"places": []}, "at least 1"),
        ({"places": ["header:Host"]}, "cannot carry a token"),
        ({"places": ["header:Authorization"]}, "cannot carry a token"),
        ({"places": ["query:t"]}, "logs would show"),
        ({"claims_to_headers": {"sub": "X-Forwarded-For"}}, "is not for claims"),
        ({"claims_to_headers": {"sub": "Authorization"}}, "is not for claims"),
        ({"claims_to_headers": {"sub": "X-User", "id": "x_user"}}, "same header"),
        ({"claims_to_headers": {"sub": "a b"}}, "is not a header name"),
        ({"realm": 'a"b'}, "without quotes"),
    ],
)  # fmt: skip
def test_bad_settings(settings, words):
    with pytest.raises(ValidationError) as caught:
        JwtConfig.model_validate(settings)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: no such file"),
        (b"", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[]", "is no JWK Set"),
        (b'{"keys": {}}', "is no JWK Set"),
        (b'{"keys": []}', "no key is for RS256; there are keys for nothing"),
        (jwks(jwk(private_key("p256"))), "no key is for RS256; there are keys for ES256"),
        (jwks(jwk(private_key("rsa"), use="enc")), "no key is for RS256"),
        (jwks(jwk(private_key("rsa"), key_ops=["encrypt"])), "no key is for RS256"),
        (jwks(jwk(private_key("rsa"), alg="RSA-OAEP")), "no key is for RS256"),
        (jwks(jwk(private_key("rsa"), alg="PS256")), "no key is for RS256"),
        (jwks(jwk(private_key("rsa"), kid=7)), "no key is for RS256"),
        (jwks(jwk(private_key("rsa1024"))), "no key is for RS256"),
        (jwks(jwk(private_key("rsa")) | {"n": "!"}), "no key is for RS256"),
        (jwks(jwk(private_key("rsa")) | {"n": 7}), "no key is for RS256"),
        (jwks({"kty": "RSA", "e": "AQAB", "n": b64(b"\xff" * 5000)}), "no key is for RS256"),
        (jwks({"kty": "oct", "k": b64(b"short")}), "no key is for RS256"),
        (b'{"keys": [null, 7, [], {"kty": "XY"}, {"kty": ["RSA"]}, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}',
         "no key is for RS256"),
    ],
)  # fmt: skip
def test_bad_key_files_stop_the_start(plugin, tmp_path, content, words):
    if content is not None:
        (tmp_path / "keys.json").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        plugin(algorithms=["RS256"], jwks={"file": "keys.json"})
    assert words in str(caught.value)
    assert "jwks.file" in str(caught.value)


def test_a_bad_pem_file_stops_the_start(plugin, tmp_path):
    (tmp_path / "key.pem").write_text(private_pem(private_key("rsa")))
    with pytest.raises(ValueError, match=r"public_key_file: .* is a private key"):
        plugin(algorithms=["RS256"], public_key_file="key.pem")


def test_the_private_half_of_a_jwk_is_not_needed_and_not_used(plugin, tmp_path):
    from jwt.algorithms import RSAAlgorithm

    key = private_key("rsa")
    (tmp_path / "keys.json").write_text(json.dumps(RSAAlgorithm.to_jwk(key, as_dict=True)))
    made = plugin(algorithms=["RS256"], jwks={"file": "keys.json"})
    assert ask(made, bearer(token(key, "RS256")))[1] is None
    assert not hasattr(made._keys.keys[0].material, "private_numbers")


def test_our_tokens_are_those_of_the_library():
    assert jwt.decode(forged(HEADER, claims()), SECRET, ["HS256"])["sub"] == "alice"
