"""One token: taken apart, its header and claims judged (RFC 7515, 7519, 8725), and remembered once it is found good.

Stricter than the library that checks the signature: no member twice, no `crit`, no padding, times that are plain
numbers, and the gateway's own clock. Keys that a token brings along (`jwk`, `jku`, `x5c`, `x5u`) are never looked at.
It knows nothing of requests. The `jwt` plugin calls it.
"""

import base64
import binascii
import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from gatewright.core.exchange import Consumer
from gatewright.core.headers import Field, make_field

LARGEST = 16 * 1024  # bytes of a token
_FORM = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_USUAL_TYPES = frozenset({None, "jwt", "at+jwt"})
_LONGEST_NAME = 256
_GENERATION_BYTES = 2 * 1024 * 1024


class TokenError(Exception):
    """A token is not accepted. `reason` is the public one, the text is the cause, for the log only."""

    def __init__(self, cause: str, reason: str = "jwt_invalid") -> None:
        super().__init__(cause)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Token:
    """A token that is well-formed. Nothing in it is verified."""

    algorithm: str
    kid: str | None
    signed: bytes  # what the signature is over
    signature: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Rules:
    """What a token must say. `leeway` in seconds; empty sets ask for nothing."""

    algorithms: frozenset[str]
    issuers: frozenset[str] = frozenset()
    audiences: frozenset[str] = frozenset()
    required: tuple[str, ...] = ("exp",)
    types: frozenset[str] = frozenset()
    leeway: float = 0.0


@dataclass(frozen=True, slots=True)
class Verified:
    """What a good token gives: who calls, fields for the target, and when (seconds since the epoch) it is good."""

    consumer: Consumer
    fields: tuple[Field, ...]
    begins: float
    ends: float


def parse(raw: bytes, rules: Rules) -> Token:
    """Take a token apart and check what its header says. Raises TokenError."""
    if len(raw) > LARGEST:
        raise TokenError(f"the token has {len(raw)} bytes, and {LARGEST} at most are taken")
    match = _FORM.fullmatch(raw)
    if match is None:
        raise TokenError("the token is not three parts of base64url")
    header = _object(_decode(match[1]), "header")
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str) or algorithm not in rules.algorithms:
        raise TokenError(f"the algorithm {_shown(algorithm)} is not allowed")
    if "crit" in header or "b64" in header:
        raise TokenError("the header asks for extensions (crit or b64)")
    if "kid" in header and not isinstance(kid, str):
        raise TokenError("the kid is no text")
    if "typ" in header and not isinstance(kind, str):
        raise TokenError("the typ is no text")
    kind = kind.lower().removeprefix("application/") if kind is not None else None
    if kind not in (rules.types or _USUAL_TYPES):
        raise TokenError(f"the typ {_shown(kind)} is not accepted")
    return Token(algorithm, kid, raw[: match.end(2)], _decode(match[3]), _decode(match[2]))


def _decode(segment: bytes) -> bytes:
    try:
        data = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    except binascii.Error:
        raise TokenError("a part of the token is no base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != segment:  # one token has one spelling
        raise TokenError("a part of the token has stray bits at its end")
    return data


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands there twice")
    return members


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


_parse_json = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_number).decode


def _object(data: bytes, part: str) -> dict[str, Any]:
    try:
        found = _parse_json(data.decode())
    except (ValueError, RecursionError):
        raise TokenError(f"the {part} is no JSON, or has a member twice") from None
    if not isinstance(found, dict):
        raise TokenError(f"the {part} is no JSON object")
    return found


def _shown(value: object) -> str:
    """Return a value of the token as the log may show it."""
    text = json.dumps(value)
    return text if len(text) <= 64 else text[:64] + "..."


def check_claims(payload: bytes, rules: Rules, now: float) -> tuple[dict[str, Any], float, float]:
    """Return the claims of a token whose signature is good, and from when until when it is valid.

    `now` and the results in seconds since the epoch. Raises TokenError, with jwt_expired for a token that is over.
    """
    claims = _object(payload, "payload")
    for name in rules.required:
        if claims.get(name) is None:
            raise TokenError(f"the claim {name} is missing")
    leeway = rules.leeway
    ends = _time(claims, "exp", math.inf) + leeway
    begins = max(_time(claims, "nbf", -math.inf), _time(claims, "iat", -math.inf)) - leeway
    issuer = claims.get("iss")
    if rules.issuers and not (isinstance(issuer, str) and issuer in rules.issuers):
        raise TokenError(f"the issuer {_shown(issuer)} is not accepted")
    if rules.audiences and rules.audiences.isdisjoint(_audiences(claims)):
        raise TokenError("the token is for another audience")
    if now >= ends:
        raise TokenError("the token has expired", "jwt_expired")
    if now < begins:
        raise TokenError("the token is not valid yet (nbf or iat)")
    return claims, begins, ends


def _time(claims: dict[str, Any], name: str, default: float) -> float:
    if name not in claims:
        return default
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e12 < value < 1e12:
        raise TokenError(f"the claim {name} is no time in seconds")
    return float(value)


def _audiences(claims: dict[str, Any]) -> set[str]:
    found = claims.get("aud", [])
    return {each for each in (found if isinstance(found, list) else [found]) if isinstance(each, str)}


def claim(claims: dict[str, Any], path: str) -> Any:
    """Return the claim of this name, or the one inside others that `path` leads to (`realm_access.roles`), or None."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def consumer_of(claims: dict[str, Any], name_claim: str, groups_claim: str) -> Consumer:
    """Return who the token is about. Raises TokenError when it does not tell, or in no usable form."""
    name = claim(claims, name_claim)
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not _is_plain(name):
        raise TokenError(f"the claim {name_claim} names no consumer")
    groups = claim(claims, groups_claim)
    if isinstance(groups, str):
        groups = groups.split()
    if groups is None:
        groups = []
    if not isinstance(groups, list) or not all(isinstance(each, str) and _is_plain(each) for each in groups):
        raise TokenError(f"the claim {groups_claim} is no list of groups")
    return Consumer(name, frozenset(groups), claims)


def _is_plain(text: str) -> bool:
    """Tell whether logs and header fields can hold the text."""
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write
        return False
    return _CONTROL.search(text) is None


def fields_of(claims: dict[str, Any], headers: dict[str, str]) -> tuple[Field, ...]:
    """Return the fields that tell a target the claims that `headers` (claim to field name) asks for.

    A text is sent as it is, in UTF-8; what is no text as JSON. A claim that is not there gives no field. Raises
    TokenError for a text that no field can hold unchanged.
    """
    fields = []
    for path, name in headers.items():
        value = claim(claims, path)
        if value is None:
            continue
        try:
            raw = (value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))).encode()
            if raw != raw.strip(b" \t"):
                raise ValueError("it begins or ends with a blank")
            fields.append(make_field(name, raw))
        except ValueError:
            raise TokenError(f"the claim {path} cannot be sent in a header field") from None
    return tuple(fields)


class Memory:
    """Good tokens, by what the client presented. Bounded in number and bytes; forgets what was not asked for lately.

    Two generations: what is found in the old one moves to the young one, and when that is full it becomes the old one.
    So a look-up of a token in use is one `dict.get`, against 2 us for a list of recent use.
    """

    def __init__(self, entries: int) -> None:
        """Keep about `entries` tokens, and of each generation no more than 2 MiB of token text."""
        self._most = (entries + 1) // 2
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._young: dict[bytes, Verified] = {}
        self._old: dict[bytes, Verified] = {}
        self._bytes = 0
        self.young = self._young.get  # the way of a token in use

    def older(self, presented: bytes) -> Verified | None:
        """Return what is known of a token that `young` does not find."""
        found = self._old.pop(presented, None)
        if found is not None:
            self.put(presented, found)
        return found

    def put(self, presented: bytes, verified: Verified) -> None:
        """Remember a token."""
        if len(self._young) >= self._most or self._bytes + len(presented) > _GENERATION_BYTES:
            if not self._most:
                return
            self._old, self._young, self._bytes = self._young, {}, 0
            self.young = self._young.get
        self._young[presented] = verified
        self._bytes += len(presented)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
