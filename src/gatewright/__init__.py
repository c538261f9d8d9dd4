"""Gatewright: an API gateway configured in YAML and scripted in Python.

What plugins and applications use is here: `Plugin`, `PluginConfig`, `Exchange`, `Request`, `Response`, `Headers`,
`Consumer` and `Gateway`. All of it is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatewright.app import ConfigurationError, Gateway
    from gatewright.core.exchange import Consumer, Exchange
    from gatewright.core.headers import Headers
    from gatewright.core.messages import Request, Response
    from gatewright.plugins.base import Call, Plugin, PluginConfig, UpstreamAttempt

_PLACES = {
    "Call": "gatewright.plugins.base",
    "ConfigurationError": "gatewright.app",
    "Consumer": "gatewright.core.exchange",
    "Exchange": "gatewright.core.exchange",
    "Gateway": "gatewright.app",
    "Headers": "gatewright.core.headers",
    "Plugin": "gatewright.plugins.base",
    "PluginConfig": "gatewright.plugins.base",
    "Request": "gatewright.core.messages",
    "Response": "gatewright.core.messages",
    "UpstreamAttempt": "gatewright.plugins.base",
}

__all__ = [
    "Call",
    "ConfigurationError",
    "Consumer",
    "Exchange",
    "Gateway",
    "Headers",
    "Plugin",
    "PluginConfig",
    "Request",
    "Response",
    "UpstreamAttempt",
]


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(place), name)
