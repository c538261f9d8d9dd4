"""`jwt`: let requests in that carry a good JSON Web Token (RFC 7519), and tell the target who calls.

    plugins:
      - jwt:
          algorithms: [HS256]
          secret: "${JWT_SECRET:?openssl rand -hex 32 prints one}"
          claims_to_headers: {sub: X-User}

A token that was found good is remembered until it ends or the keys change, so that the next request with it costs a
look-up. The settings are in `jwt_config`; what a token must be, `jwt_token` knows; keys are in `jwt_keys` and
`jwt_source`, places in `jwt_places`.
"""

import logging
from collections.abc import Callable

from gatewright.core.exchange import Exchange
from gatewright.core.headers import Field
from gatewright.core.messages import Response
from gatewright.plugins.base import Plugin
from gatewright.plugins.jwt_config import JwksConfig, JwtConfig, known_keys, spelling, texts
from gatewright.plugins.jwt_keys import Key, KeySet
from gatewright.plugins.jwt_places import AUTHORIZATION, BEARER, Authorization, parse_place, replace_fields, scheme_of
from gatewright.plugins.jwt_source import KeySource, source_for
from gatewright.plugins.jwt_token import (
    Memory,
    Rules,
    Token,
    TokenError,
    Verified,
    check_claims,
    consumer_of,
    fields_of,
    parse,
)
from gatewright.plugins.services import GatewayServices

_log = logging.getLogger("gatewright.plugins.jwt")
_START_SECONDS = 2.0  # that a start waits for an issuer's keys
_DETAILS = {"jwt_expired": "Token has expired", "jwt_invalid": "Invalid token"}


def _is_signed(token: Token, keys: list[Key]) -> bool:
    return any(key.verify(token.algorithm, token.signed, token.signature) for key in keys)


class JwtPlugin(Plugin[JwtConfig], name="jwt"):
    """Lets in requests with a good token, sets the consumer and tells the target the claims that it should know.

    Routes are open with `jwt: {enabled: false}` in their own list, or take a request without a token with
    `optional: true`. Answers to what is refused have `WWW-Authenticate: Bearer` (RFC 6750).

    Refusals:
        401 jwt_missing: there is no token: "Authorization header missing"
        401 jwt_scheme: `Authorization` has another scheme than Bearer: "Invalid authorization scheme"
        401 jwt_expired: the token's time is over: "Token has expired"
        401 jwt_invalid: any other bad token, or two: "Invalid token"
        503 jwt_keys_unavailable: the issuer's keys are not known yet, or the token names one that the issuer is just
            being asked for; with `Retry-After`

    Metrics:
        gateway_jwks_refreshes_total (result): fetches of an issuer's keys: `ok` or `failed`
        gateway_jwks_age_seconds (url): time since an issuer's keys were last fetched, in the worker where it is longest
    """

    gateway: GatewayServices

    def __init__(self, config: JwtConfig) -> None:
        super().__init__(config)
        self._places = tuple(parse_place(text) for text in config.places)
        self._by_header = any(isinstance(place, Authorization) for place in self._places)
        self._elsewhere = tuple(place for place in self._places if not isinstance(place, Authorization))
        self._claimed = frozenset(spelling(name.encode()) for name in config.claims_to_headers.values())
        self._edits = bool(self._claimed) or not config.forward
        self._rules = Rules(
            frozenset(config.algorithms),
            texts(config.issuer),
            texts(config.audience),
            config.required,
            frozenset(kind.lower().removeprefix("application/") for kind in config.types),
            config.leeway,
        )
        self._memory = Memory(config.remember)
        self._wall: Callable[[], float]  # set at the start
        self._keys: KeySet | None = None
        self._source: KeySource | None = None

    # Keys

    async def start(self) -> None:
        """Get the keys: from their file, or from the issuer, which may be down. Raises ValueError for a bad file."""
        jwks = self.config.jwks
        self._wall = self.gateway.clock.wall
        if self.config.enabled:
            self._keys = known_keys(self.config, self.gateway.base_dir)
            if jwks is not None and jwks.url is not None:
                await self._start_source(jwks, jwks.url)

    async def _start_source(self, jwks: JwksConfig, url: str) -> None:
        if url.startswith("http:") and not url.startswith(("http://127.", "http://localhost", "http://[::1]")):
            _log.warning("keys from %s: plain http lets whoever is on the way put in keys of their own", url)
        self._source = source_for(self.gateway, url, jwks.refresh, jwks.cooldown, jwks.timeout)
        await self._source.start(self._memory.clear, _START_SECONDS)

    async def stop(self) -> None:
        """Let go of the issuer's keys."""
        if self._source is not None:
            await self._source.stop(self._memory.clear)

    # Requests

    def on_request(self, exchange: Exchange) -> Response | None:
        """Let the request in, or answer 401; 503 when the issuer's keys are not known."""
        if not self.config.enabled:
            if self._claimed:
                self._edit(exchange, None)
            return None
        fields = exchange.request.headers.fields
        direct = [field[1] for field in fields if field[0] == AUTHORIZATION] if self._by_header else []
        found = direct
        if self._elsewhere:
            found = [*direct, *(token for place in self._elsewhere for token in place.find(exchange))]
        now = self._wall()
        verified = self._memory.young(found[0]) if len(found) == 1 else None
        if verified is None or not verified.begins <= now < verified.ends:
            try:
                verified = self._judge(direct, found, now)
            except TokenError as error:
                return self._refuse(exchange, error)
        if verified is not None:
            exchange.consumer = verified.consumer
        if self._edits:
            self._edit(exchange, verified)
        return None

    def _judge(self, direct: list[bytes], found: list[bytes], now: float) -> Verified | None:
        """Return what the one token in `found` gives, or None when none is needed. Raises TokenError.

        `direct` is the part of `found` that came in Authorization: another scheme may stand there beside a token
        elsewhere, a second field may not.
        """
        if len(direct) > 1:
            raise TokenError(f"there are {len(direct)} Authorization fields")
        tokens = [value for value in found if scheme_of(value) == BEARER]
        if len(tokens) > 1:  # RFC 6750 section 2
            raise TokenError(f"the request carries {len(tokens)} tokens")
        if not tokens:
            if self.config.optional:
                return None
            if direct and direct[0]:
                raise TokenError("the scheme of Authorization is not Bearer", "jwt_scheme")
            raise TokenError("", "jwt_missing")
        known = self._memory.young(tokens[0]) or self._memory.older(tokens[0])
        if known is not None and known.begins <= now < known.ends:
            return known
        verified = self._verify(tokens[0][len(BEARER) :].lstrip(b" "), now)
        self._memory.put(tokens[0], verified)
        return verified

    def objection(self, raw: bytes, keys: KeySet | None, now: float) -> str:
        """Return what speaks against a token at the time `now`, or "". Without `keys` any signature will do."""
        try:
            token = parse(raw, self._rules)
            self._read(token.payload, now)
            candidates = keys.candidates(token.kid, token.algorithm) if keys is not None else []
            if keys is not None and not _is_signed(token, candidates):
                return "the key is not the one that it verifies with"
        except TokenError as error:
            return str(error)
        return ""

    def _verify(self, raw: bytes, now: float) -> Verified:
        token = parse(raw, self._rules)
        keys = self._keys if self._source is None else self._source.keys
        if keys is None:
            raise TokenError("the issuer's keys have not been had yet", "jwt_keys_unavailable")
        candidates = keys.candidates(token.kid, token.algorithm)
        if not candidates and self._source is not None and not keys.knows(token.kid) and not self._source.look_again():
            raise TokenError("the token's key is not known, the issuer is being asked", "jwt_keys_unavailable")
        if not candidates:
            raise TokenError("there is no key of that name and algorithm")
        if not _is_signed(token, candidates):
            if self._source is not None and not keys.knows(token.kid):
                self._source.look_again()  # its key may be new, and has no name to tell that by
            raise TokenError("the signature is wrong")
        return self._read(token.payload, now)

    def _read(self, payload: bytes, now: float) -> Verified:
        config = self.config
        claims, begins, ends = check_claims(payload, self._rules, now)
        consumer = consumer_of(claims, config.consumer_claim, config.groups_claim)
        return Verified(consumer, fields_of(claims, config.claims_to_headers), begins, ends)

    def _edit(self, exchange: Exchange, verified: Verified | None) -> None:
        """Drop what only the gateway may say, and the token where it is not for the target; say it."""
        if verified is not None and not self.config.forward:
            for place in self._places:
                place.clear(exchange)
        if self._claimed:
            headers = exchange.request.headers
            fields: list[Field] = [
                field for field in headers.fields if field[0].replace(b"_", b"-") not in self._claimed
            ]
            replace_fields(headers, fields if verified is None else [*fields, *verified.fields])

    def _refuse(self, exchange: Exchange, error: TokenError) -> Response:
        exchange.cause = str(error)
        if error.reason == "jwt_keys_unavailable":
            detail = "The keys that tokens are checked with are not known at present"
            return exchange.reject(503, error.reason, detail, {"Retry-After": "1"})
        if error.reason == "jwt_missing":
            detail = "Authorization header missing" if self._by_header else "Token missing"
        elif error.reason == "jwt_scheme":
            detail = "Invalid authorization scheme"
        else:
            detail = _DETAILS[error.reason]
        challenge = f'Bearer realm="{self.config.realm}"'
        if error.reason in _DETAILS:  # RFC 6750 section 3.1: without credentials no error is told
            challenge += f', error="invalid_token", error_description="{detail}"'
        return exchange.reject(401, error.reason, detail, {"WWW-Authenticate": challenge})
