"""The settings of the `jwt` plugin: what they may be, what must fit what, and the keys that they name.

Everything that can be judged without a network is judged here, so that `gatewright check` tells it with its place. The
`jwt` plugin and `gatewright token` use it.
"""

import logging
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gatewright.core.contents import read
from gatewright.core.headers import make_field, mark_of
from gatewright.core.units import Duration, DurationOrZero
from gatewright.plugins.base import PluginConfig
from gatewright.plugins.jwt_keys import SECRET_BYTES, Algorithm, BadKey, KeySet, from_pem, from_secret, read_jwks
from gatewright.plugins.jwt_places import AUTHORIZATION, parse_place

_log = logging.getLogger("gatewright.plugins.jwt")
_MORE = "such as `openssl rand -hex 32` prints"


def _place(text: str) -> str:
    parse_place(text)
    return text


def _header_name(name: str) -> str:
    key = make_field(name, "")[0]
    if mark_of(key) or key in (AUTHORIZATION, b"cookie"):
        raise ValueError(f"{name} is not for claims: the gateway or the client writes it")
    return name


def _url(text: str) -> str:
    scheme, mark, rest = text.partition("://")
    if scheme not in ("http", "https") or not mark or not rest or "@" in rest or not all("!" <= c <= "~" for c in text):
        raise ValueError("must be an http or https URL, without a user or blanks")
    return text


def _realm(text: str) -> str:
    if not text.isascii() or not text.isprintable() or '"' in text or "\\" in text:
        raise ValueError("must be plain ASCII text without quotes and backslashes")
    return text


def _wrong_key(message: str) -> PydanticCustomError:
    """Return the error for a key or secret: one whose message is never followed by the value."""
    return PydanticCustomError("secret", "{text}", {"text": message})


Texts = str | tuple[str, ...]


class JwksConfig(PluginConfig):
    """A JWK Set (RFC 7517): in a file, or fetched from an issuer."""

    url: Annotated[str, AfterValidator(_url)] | None = Field(None, description="Where the issuer publishes its keys")
    file: str | None = Field(None, description="File with a JWK Set, read at each start and reload")
    refresh: Duration = Field(600.0, description="How often keys are fetched")
    cooldown: Duration = Field(10.0, description="Least time between fetches that tokens with an unknown key cause")
    timeout: Duration = Field(5.0, description="Time for one fetch")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.url is None) == (self.file is None):
            raise ValueError("needs either `url` or `file`")
        return self


class JwtConfig(PluginConfig):
    """Let in requests with a good token. One of `secret`, `public_key`, `public_key_file` and `jwks` is given."""

    enabled: bool = Field(True, description="false opens a route that a farther `jwt` would close")
    algorithms: tuple[Algorithm, ...] = Field((), description="Algorithms that tokens may be signed with, no others")
    secret: str | None = Field(
        None, description="Shared secret (HS*), at least as long as the hash: 32, 48 or 64 bytes"
    )
    public_key: str | None = Field(None, description="PEM text of a public key or certificate")
    public_key_file: str | None = Field(None, description="PEM file with it, read at each start and reload")
    jwks: JwksConfig | None = Field(None, description="Keys as a JWK Set")
    places: tuple[Annotated[str, AfterValidator(_place)], ...] = Field(
        ("authorization",),
        min_length=1,
        description="Where tokens are looked for: authorization, header:NAME, cookie:NAME, query:NAME",
    )
    forward: bool = Field(True, description="Whether the target gets the token too; false takes it out")
    optional: bool = Field(
        False, description="Whether a request without a token passes; one with a bad token never does"
    )
    issuer: Texts = Field((), description="Accepted `iss`, one or several; none named: any")
    audience: Texts = Field((), description="Accepted `aud`, one or several; none named: any")
    required: tuple[str, ...] = Field(("exp",), description="Claims that must be there")
    leeway: DurationOrZero = Field(0.0, description="How far the clocks of issuer and gateway may be apart")
    types: tuple[str, ...] = Field((), description="Accepted `typ`; none named: JWT, at+jwt and none at all")
    consumer_claim: str = Field("sub", min_length=1, description="Claim with the name of the consumer")
    groups_claim: str = Field("groups", description="Claim with its groups: a list, or words in a text such as `scope`")
    claims_to_headers: dict[str, Annotated[str, AfterValidator(_header_name)]] = Field(
        {},
        description="Claim to the field that tells it to the target; the client's own fields of that name are dropped",
    )
    realm: Annotated[str, AfterValidator(_realm)] = Field("gatewright", description="The realm in WWW-Authenticate")
    remember: int = Field(10_000, ge=0, le=1_000_000, description="How many good tokens are remembered")

    @field_validator("secret")
    @classmethod
    def _long_enough(cls, secret: str | None, info: ValidationInfo) -> str | None:
        if secret is None:
            raise _wrong_key(f"has no value: set it to a secret {_MORE}")
        if not secret:
            raise _wrong_key(f"is empty: set it to a secret {_MORE}")
        if info.data.get("enabled"):
            least = max((SECRET_BYTES.get(name, 0) for name in info.data.get("algorithms", ())), default=0)
            try:
                from_secret(secret)
            except BadKey as error:
                raise _wrong_key(f"{error}: take one {_MORE}") from None
            if len(secret.encode()) < least:
                raise _wrong_key(f"has fewer than the {least} bytes that its algorithms ask for: take one {_MORE}")
        return secret

    @field_validator("public_key")
    @classmethod
    def _is_public_key(cls, text: str | None) -> str | None:
        try:
            from_pem(text or "")
        except BadKey as error:
            raise _wrong_key(str(error)) from None
        return text

    @field_validator("claims_to_headers")
    @classmethod
    def _each_once(cls, names: dict[str, str]) -> dict[str, str]:
        if len({spelling(name.encode()) for name in names.values()}) < len(names):
            raise ValueError("two claims have the same header")
        return names

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.enabled:
            return self
        sources = [self.secret, self.public_key, self.public_key_file, self.jwks]
        if sum(source is not None for source in sources) != 1:
            raise ValueError("needs exactly one of `secret`, `public_key`, `public_key_file` and `jwks`")
        if not self.algorithms:
            raise ValueError("needs `algorithms`, a list of those that tokens may be signed with, such as [HS256]")
        has_secrets = self.secret is not None or (self.jwks is not None and self.jwks.file is not None)
        for name in self.algorithms:
            if name in SECRET_BYTES and not has_secrets:
                raise ValueError(f"{name} needs a `secret`: a public key is none")
            if name not in SECRET_BYTES and self.secret is not None:
                raise ValueError(f"{name} needs a public key, and there is a `secret`")
        if self.public_key is not None:
            check_fit(KeySet([from_pem(self.public_key)]), self.algorithms)
        return self


def check_fit(keys: KeySet, algorithms: tuple[Algorithm, ...]) -> None:
    """Raise ValueError when an algorithm has no key that serves it."""
    for name in algorithms:
        if name not in keys.algorithms:
            raise ValueError(
                f"no key is for {name}; there are keys for {', '.join(sorted(keys.algorithms)) or 'nothing'}"
            )


def spelling(name: bytes) -> bytes:
    """Return what applications behind CGI-like interfaces make of a name: they read X_User as X-User."""
    return name.lower().replace(b"_", b"-")


def texts(value: Texts) -> frozenset[str]:
    return frozenset({value} if isinstance(value, str) else value)


def known_keys(config: JwtConfig, base_dir: Path) -> KeySet | None:
    """Return the keys that an enabled plugin finds without asking anybody, None if they are an issuer's.

    Relative file names start from `base_dir`. Raises ValueError for a file that is no good.
    """
    jwks = config.jwks
    if config.secret is not None:
        return KeySet([from_secret(config.secret)])
    if config.public_key is not None:
        return KeySet([from_pem(config.public_key)])
    if jwks is not None and jwks.url is not None:
        return None
    key, name = ("public_key_file", config.public_key_file) if jwks is None else ("jwks.file", jwks.file)
    path = base_dir / (name or "")
    try:
        data = read(path)
        if jwks is None:
            keys = KeySet([from_pem(data.decode("latin-1"))])
        else:
            keys, problems = read_jwks(data, secrets=True)
            for problem in problems:
                _log.warning("%s: %s", path, problem)
        check_fit(keys, config.algorithms)
    except OSError as error:
        raise ValueError(f"jwt: {key}: {path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except BadKey as error:
        raise ValueError(f"jwt: {key}: {path} {error}") from error
    except ValueError as error:
        raise ValueError(f"jwt: {key}: {path}: {error}") from error
    return keys
