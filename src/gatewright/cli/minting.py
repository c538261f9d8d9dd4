"""Making a token that a configuration's own `jwt` plugin takes: `gatewright token` calls it.

It finds the plugin, signs with the shared secret of its settings or with a private key of the caller's, and holds the
result against the plugin's rules before it gives it out.
"""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gatewright.control.errors import closest
from gatewright.control.listing import services_of
from gatewright.control.models import GatewayConfig
from gatewright.control.plugin_models import PluginRef
from gatewright.plugins.jwt import JwtPlugin
from gatewright.plugins.jwt_config import JwtConfig, known_keys
from gatewright.plugins.jwt_keys import SECRET_BYTES, BadKey, algorithms_of


class MintError(Exception):
    """There is no token to be had; the message says why, and what to do."""


def settings_for(config: GatewayConfig, route: str | None) -> JwtConfig:
    """Return the settings of the `jwt` plugin that a route has, or that all of them share. Raises MintError."""
    if route is not None:
        found = _of_route(config, route)
    else:
        found = list(_jwt(config.plugins))
        if not found:
            nearer = [each.plugins for each in config.services.values()] + [each.plugins for each in config.routes]
            for settings in (settings for plugins in nearer for settings in _jwt(plugins)):
                if settings.enabled and settings not in found:
                    found.append(settings)
        if len(found) > 1:
            raise MintError("the configuration has several jwt plugins: name a route with --route")
    if not found:
        raise MintError(
            "no jwt plugin is there" + (f" for the route {route}" if route else "") + ": no token is needed"
        )
    if not found[0].enabled:
        raise MintError(f"{'the route ' + route if route else 'the gateway'} takes requests without a token")
    return found[0]


def _of_route(config: GatewayConfig, name: str) -> list[JwtConfig]:
    for route in config.routes:
        if route.name == name:
            services = (config.services[each].plugins for each in services_of(route))
            near = [route.plugins, *services, config.plugins]
            return next((found for plugins in near if (found := list(_jwt(plugins)))), [])
    meant = closest(name, [route.name for route in config.routes if route.name])
    raise MintError(f"there is no route {name}" + (f"; did you mean {meant}?" if meant else ""))


def _jwt(plugins: Iterable[PluginRef]) -> Iterator[JwtConfig]:
    return (JwtConfig.model_validate(dict(each.config)) for each in plugins if each.name == JwtPlugin.name)


def mint(
    settings: JwtConfig,
    base_dir: Path,
    private_key: bytes | None,
    algorithm: str | None,
    name: str,
    more: Iterable[str],
    seconds: float,
) -> str:
    """Return a token that is good for `seconds` from now, signed with the settings' secret or `private_key` (PEM).

    `more` are further claims, NAME=VALUE. Raises MintError or ValueError when none can be made that would be taken.
    """
    key, fitting = _signing_key(settings, private_key)
    usable = [each for each in settings.algorithms if each in fitting]
    if algorithm is not None and algorithm not in settings.algorithms:
        raise MintError(f"the configuration does not take {algorithm}, only {', '.join(settings.algorithms)}")
    if not usable or (algorithm is not None and algorithm not in usable):
        raise MintError(f"this key cannot sign with {algorithm or ' or '.join(settings.algorithms)}")
    now = time.time()
    claims: dict[str, Any] = {"sub": name, "iat": int(now), "exp": int(now + seconds)}
    if "." not in settings.consumer_claim:
        claims[settings.consumer_claim] = name
    for member, accepted in (("iss", settings.issuer), ("aud", settings.audience)):
        if accepted:
            claims[member] = accepted if isinstance(accepted, str) else accepted[0]
    for text in more:
        member, equals, value = text.partition("=")
        if not equals or not member:
            raise MintError(f"--claim {text}: write NAME=VALUE")
        claims[member] = _value(value)
    headers = {"typ": settings.types[0]} if settings.types else None
    made = jwt.encode(claims, key, algorithm or usable[0], headers)
    reason = JwtPlugin(settings).objection(made.encode(), known_keys(settings, base_dir), now)
    if reason:
        raise MintError(f"the gateway would not take the token: {reason}")
    return made


def _signing_key(settings: JwtConfig, private_key: bytes | None) -> tuple[Any, frozenset[str]]:
    """Return the key to sign with, and the algorithms that it is for."""
    if private_key is None:
        if settings.secret is None:
            raise MintError("the jwt plugin has public keys only: give the private one, a PEM file, with --key")
        return settings.secret, frozenset(SECRET_BYTES)
    try:
        key: Any = load_pem_private_key(private_key, password=None)
        return key, algorithms_of(key.public_key())
    except (ValueError, TypeError, UnsupportedAlgorithm, BadKey) as error:
        raise MintError(f"the file of --key holds no private key that can be used: {error}") from None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
