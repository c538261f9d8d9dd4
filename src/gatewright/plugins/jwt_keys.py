"""The keys that tokens are verified with, from a secret, PEM text or a JWK Set, and which of them a token may use.

A key knows the algorithms that it may serve, so that no word of a token's can make an HMAC secret of a public key. It
knows neither tokens nor where keys are fetched. The `jwt` plugin and the source of its keys (`jwt_source`) call it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"
]
# RFC 7518 section 3.2: a secret has at least as many bytes as the hash.
SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA_BITS = range(2048, 16385)  # RFC 7518 section 3.3; above, a single check would take milliseconds
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
_MOST_KEYS = 100
_MOST_TRIES = 8  # for a token that does not say which key it is signed with

Material = bytes | RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey


class BadKey(ValueError):
    """A key cannot be used; the message says why and shows nothing of it."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key, the algorithms that it may be used with, and its name if it has one."""

    material: Material
    algorithms: frozenset[str]
    kid: str | None = None

    def verify(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Tell whether `signature` over `signed` is this key's. `algorithm` must be one of its own."""
        assert algorithm in self.algorithms
        try:
            return jwt.get_algorithm_by_name(algorithm).verify(signed, self.material, signature)
        except ValueError:  # a signature whose form alone is wrong
            return False


class KeySet:
    """Keys, by name."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = tuple(keys)
        self.algorithms = frozenset(name for key in self.keys for name in key.algorithms)
        self._named: dict[str, tuple[Key, ...]] = {}
        for key in self.keys:
            if key.kid is not None:
                self._named[key.kid] = (*self._named.get(key.kid, ()), key)
        self._nameless = tuple(key for key in self.keys if key.kid is None)

    def knows(self, kid: str | None) -> bool:
        """Tell whether a key has this name."""
        return kid in self._named

    def candidates(self, kid: str | None, algorithm: str) -> list[Key]:
        """Return the keys that a token may be signed with.

        A token that names a key is held against the keys of that name, or if there are none, against those without a
        name; a token that names none against any that fits, but only so many.
        """
        keys = self.keys if kid is None else self._named.get(kid, self._nameless)
        return [key for key in keys if algorithm in key.algorithms][:_MOST_TRIES]


def from_secret(secret: str) -> Key:
    """Return the key that a shared secret is. Raises BadKey when it is too short, or no secret at all."""
    return Key(raw := _secret(secret.encode()), algorithms_of(raw))


def _secret(raw: bytes) -> bytes:
    if not raw:
        raise BadKey("is empty")
    try:
        prepared = HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(raw)
    except jwt.InvalidKeyError:
        raise BadKey("is a key or certificate of another kind, not a shared secret") from None
    if len(prepared) < SECRET_BYTES["HS256"]:
        least = SECRET_BYTES["HS256"]
        raise BadKey(f"has {len(prepared)} bytes: a shared secret has at least {least} (RFC 7518 section 3.2)")
    return prepared


def from_pem(text: str) -> Key:
    """Return the key in the text of a PEM public key or certificate. Raises BadKey."""
    if "PRIVATE KEY-----" in text:
        raise BadKey("is a private key: verifying takes the public one only, and the private one is the issuer's")
    raw = text.strip().encode()
    try:
        if raw.startswith(b"-----BEGIN CERTIFICATE-----"):
            found: Any = x509.load_pem_x509_certificate(raw).public_key()
        else:
            found = load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey("is no PEM public key or certificate") from None
    return Key(found, algorithms_of(found))


def from_jwk(data: Any, secrets: bool) -> Key:
    """Return the key that a JWK is (RFC 7517); of a private one, the public half.

    `secrets`: whether it may be a shared secret (`oct`). Raises BadKey.
    """
    if not isinstance(data, dict):
        raise BadKey("is no JSON object")
    kind, kid, alg, operations = data.get("kty"), data.get("kid"), data.get("alg"), data.get("key_ops")
    if data.get("use", "sig") != "sig" or not (operations is None or {"verify", "sign"} & _texts(operations)):
        raise BadKey("is not for signatures")
    if kid is not None and not isinstance(kid, str):
        raise BadKey("its kid is no text")
    public = {name: value for name, value in data.items() if name not in _PRIVATE}
    try:
        if kind == "RSA":
            found: Any = RSAAlgorithm.from_jwk(public)
        elif kind == "EC":
            found = ECAlgorithm.from_jwk(public)
        elif kind == "OKP":
            found = OKPAlgorithm.from_jwk(public)
        elif kind == "oct" and secrets:
            found = _secret(HMACAlgorithm.from_jwk(data))
        else:
            raise BadKey("is a secret, which has no place in public" if kind == "oct" else "is of an unknown kind")
    except BadKey:
        raise
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm):
        raise BadKey("its numbers make no key") from None
    algorithms = algorithms_of(found)
    if alg is not None:
        algorithms &= {alg} if isinstance(alg, str) else set()
    if not algorithms:
        raise BadKey("is for no algorithm that is known here")
    return Key(found, algorithms, kid)


def _texts(value: Any) -> set[str]:
    return {item for item in value if isinstance(item, str)} if isinstance(value, list) else set()


def algorithms_of(material: Any) -> frozenset[str]:
    """Return the algorithms that a public key, or a secret's bytes, may be used with. Raises BadKey."""
    if isinstance(material, bytes):
        return frozenset(name for name, least in SECRET_BYTES.items() if len(material) >= least)
    if isinstance(material, RSAPublicKey):
        if material.key_size not in _RSA_BITS:
            raise BadKey(f"has {material.key_size} bits: an RSA key has {_RSA_BITS[0]} to {_RSA_BITS[-1]} of them")
        return _RSA
    if isinstance(material, EllipticCurvePublicKey) and material.curve.name in _CURVES:
        return frozenset({_CURVES[material.curve.name]})
    if isinstance(material, Ed25519PublicKey | Ed448PublicKey):
        return frozenset({"EdDSA"})
    raise BadKey("is for no algorithm that is known here")


def read_jwks(document: bytes, secrets: bool) -> tuple[KeySet, list[str]]:
    """Return the keys of a JWK Set (RFC 7517 section 5), or of a lone JWK, and what is wrong with the unusable ones.

    Raises BadKey when it is neither.
    """
    try:
        data = json.loads(document)
    except (ValueError, RecursionError):
        raise BadKey("is no JSON") from None
    entries = data.get("keys", [data] if "kty" in data else None) if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise BadKey('is no JWK Set: it has no list "keys"')
    keys, problems = [], []
    for number, entry in enumerate(entries[:_MOST_KEYS], start=1):
        try:
            keys.append(from_jwk(entry, secrets))
        except BadKey as error:
            problems.append(f"key {number} {error}")
    if len(entries) > _MOST_KEYS:
        problems.append(f"there are {len(entries)} keys, of which the first {_MOST_KEYS} count")
    return KeySet(keys), problems
