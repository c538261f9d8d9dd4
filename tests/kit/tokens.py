"""Tokens made by hand, so that every part of them can be wrong; keys of each kind; an issuer that publishes keys."""

import base64
import hashlib
import hmac
import json
import threading
import time
from functools import cache
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gatewright.core.clock import SystemClock
from tests.kit.wire import Target, TargetSession

SECRET = "correct horse battery staple, and then some more of it: 64 bytes"
KINDS = {"RS256": "rsa", "PS256": "rsa", "RS384": "rsa", "RS512": "rsa", "PS384": "rsa", "PS512": "rsa",
         "ES256": "p256", "ES384": "p384", "ES512": "p521", "EdDSA": "ed25519"}  # fmt: skip


@cache
def private_key(kind: str, number: int = 0) -> Any:
    """A private key: rsa, rsa1024, p256, p384, p521, k256, ed25519, ed448; others of the same kind by `number`."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind[3:] or 2048))
    curves = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1, "k256": ec.SECP256K1}
    if kind in curves:
        return ec.generate_private_key(curves[kind]())
    return {"ed25519": ed25519.Ed25519PrivateKey, "ed448": ed448.Ed448PrivateKey}[kind].generate()


def public_pem(key: Any) -> str:
    """The PEM text of the public half."""
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def private_pem(key: Any) -> str:
    """The PEM text of a private key."""
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def jwk(key: Any, **members: Any) -> dict[str, Any]:
    """The JWK of the public half, with further members."""
    public = key.public_key()
    algorithm: Any = RSAAlgorithm
    if isinstance(public, ec.EllipticCurvePublicKey):
        algorithm = ECAlgorithm
    elif isinstance(public, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        algorithm = OKPAlgorithm
    found: dict[str, Any] = algorithm.to_jwk(public, as_dict=True)
    return found | members


def jwks(*keys: dict[str, Any]) -> bytes:
    """A JWK Set."""
    return json.dumps({"keys": keys}).encode()


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**more: Any) -> dict[str, Any]:
    """Claims of a good token; None takes one away."""
    now = int(time.time())
    found = {"sub": "alice", "iat": now - 10, "exp": now + 600} | more
    return {name: value for name, value in found.items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **more: Any) -> str:
    """A token as an issuer makes it."""
    return jwt.encode(claims(**more), key, algorithm, headers)


def forged(header: str | dict[str, Any], payload: str | dict[str, Any], secret: str = SECRET) -> str:
    """A token with exactly this header and payload, and a true HS256 signature over them."""
    parts = [part if isinstance(part, str) else json.dumps(part) for part in (header, payload)]
    signed = ".".join(b64(part.encode()) for part in parts)
    return f"{signed}.{b64(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"


class MovedClock:
    """The machine's clock, as far ahead as the test says: `wall` and `now` by `ahead` seconds."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return SystemClock.now() + self.ahead

    def wall(self) -> float:
        return SystemClock.wall() + self.ahead


class Issuer:
    """Publishes a JWK Set, which can change; `stop` and `start` keep the port. `asked` counts its answers."""

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.status = 200
        self.asked = 0
        self.gate = threading.Event()  # answers wait for it
        self.gate.set()
        self._changed = threading.Condition()
        self._target: Target | None = None
        self._port = 0
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/jwks.json"

    def start(self) -> None:
        self._target = Target(self._answer, port=self._port)
        self._port = self._target.port

    def stop(self) -> None:
        if self._target is not None:
            self._target.close()
            self._target = None

    def _answer(self, session: TargetSession) -> None:
        session.read_request()
        with self._changed:
            self.asked += 1
            self._changed.notify_all()
        self.gate.wait(10)
        head = f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(self.document)}\r\nConnection: close\r\n\r\n"
        session.send(head.encode() + self.document)

    def wait_asked(self, times: int) -> None:
        """Wait until it has been asked so many times."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.asked >= times, 10), f"asked {self.asked} times only"
