"""The tokens that measured requests carry: JSON Web Tokens signed with HS256 and a secret of the benchmark's.

Owns the secret, as text and as a JWK Set, and how a token is made, by the standard library alone: the gateway's
own code must not decide what a good token is. Used by feature_peers and plugin_cases.
"""

import base64
import hashlib
import hmac
import json

SECRET = "the-benchmark's-secret-of-at-least-32-bytes"
_EXPIRES = 4102444800  # the year 2100


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


JWKS = json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "kid": "bench", "k": _encode(SECRET.encode())}]})
"""The secret as a JWK Set."""


def token(subject: str = "bench") -> str:
    """A good token for `subject`."""
    head = _encode(json.dumps({"alg": "HS256", "typ": "JWT", "kid": "bench"}).encode())
    claims = _encode(json.dumps({"sub": subject, "iss": "bench", "iat": 1700000000, "exp": _EXPIRES}).encode())
    signed = f"{head}.{claims}"
    return f"{signed}.{_encode(hmac.digest(SECRET.encode(), signed.encode(), hashlib.sha256))}"


def field(value: str) -> dict[str, str]:
    """The header field that carries the token `value`."""
    return {"Authorization": f"Bearer {value}"}
