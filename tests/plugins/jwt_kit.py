"""The `jwt` plugin without a gateway: one that has started, single requests through it, and what they are told."""

import asyncio
import json
from types import SimpleNamespace

from gatewright.core.exchange import Exchange
from gatewright.core.headers import Headers
from gatewright.core.messages import Request
from gatewright.core.peer import Peer
from gatewright.plugins.jwt import JwtPlugin
from gatewright.plugins.jwt_config import JwtConfig
from tests.kit.tokens import SECRET, MovedClock

HEADER = {"alg": "HS256", "typ": "JWT"}
INVALID = (401, "jwt_invalid")


def started(folder, **settings):
    """A plugin that has started; without settings one with a secret. Files are in `folder`."""
    if not settings.keys() & {"public_key", "public_key_file", "jwks"} and settings.get("enabled", True):
        settings.setdefault("secret", SECRET)
        settings.setdefault("algorithms", ["HS256"])
    made = JwtPlugin(JwtConfig.model_validate(settings))
    made.gateway = SimpleNamespace(clock=MovedClock(), base_dir=folder)
    asyncio.run(made.start())
    return made


def ask(plugin, *fields, query=None):
    """One request through the plugin: (exchange, its refusal or None)."""
    request = Request("GET", "/", query, 1, b"test", Headers.of(fields))
    exchange = Exchange(request, Peer("127.0.0.1", 1, 80), None, 0.0)
    return exchange, plugin.on_request(exchange)


def bearer(text):
    return ("Authorization", f"Bearer {text}")


def told(answer):
    """Status and reason of a refusal; None for none."""
    return answer if answer is None else (answer.status, json.loads(answer.body)["reason"])


def cause(plugin, text):
    exchange, answer = ask(plugin, bearer(text))
    assert told(answer) == INVALID, told(answer)
    assert text not in exchange.cause
    return exchange.cause
