"""Secrets in what the admin API shows of a configuration: which values are hidden, and how.

A value is hidden when its key says that it is secret, when it is a credential within a URL or a header field, or when
it came from a variable whose name says so. Hiding too much costs a look into the file; hiding too little, a password.
Which names do, `telemetry.secrets` says. This works on plain data and knows no models. The rest of the admin API calls
it.
"""

import re
from collections.abc import Collection
from typing import Any

from gatewright.telemetry.secrets import field_is_secret, names_secret

MASK = "***hidden***"

_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
_QUERY_VALUE = re.compile(r"(?<=[?&])([^=&#\s]+)=([^&#\s]+)")
_CREDENTIALS = re.compile(r"(Bearer|Basic)\s+[^\s{]\S*", re.IGNORECASE)  # a template's variable is none
_SHORTEST = 4  # a shorter value is no secret, and hiding it would garble everything else


def mask_text(text: str, secrets: Collection[str] = ()) -> str:
    """Return `text` without the passwords of URLs, secret query parameters, credentials and any of `secrets`."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, MASK)
    if "://" in text:
        text = _USERINFO.sub(_without_password, text)
    if "?" in text:
        text = _QUERY_VALUE.sub(lambda found: f"{found[1]}={MASK}" if names_secret(found[1]) else found[0], text)
    credentials = _CREDENTIALS.fullmatch(text)
    return text if credentials is None else f"{credentials[1]} {MASK}"


def _without_password(userinfo: re.Match[str]) -> str:
    user, colon, _ = userinfo.group().partition(":")
    return f"{user}:{MASK}@" if colon else f"{MASK}@"  # a name alone may be a token


def mask(data: Any, secrets: Collection[str] = (), key: str = "") -> Any:
    """Return plain data with its secrets hidden. `key` is the key that it stands under.

    A secret key hides all that stands below it, because the names within may be secrets too. What is empty, null, true
    or false is no secret.
    """
    if names_secret(key) and data not in ("", [], {}) and not isinstance(data, bool | None):
        return MASK
    if isinstance(data, dict):
        if key == "tracing" and data.get("headers"):  # what a collector is sent is a credential, whatever it is called
            data = {**data, "headers": dict.fromkeys(data["headers"], MASK)}
        fields = key in ("headers", "set", "add")  # of a match, of a fixed answer, of a plugin's edits
        if key == "rename":  # names on both sides
            return {name: mask(value, secrets) for name, value in data.items()}
        return {
            mask_text(name, secrets): MASK
            if fields and field_is_secret(name) and isinstance(value, str) and value
            else mask(value, secrets, name)
            for name, value in data.items()
        }
    if isinstance(data, list):
        return [_plugin(value, secrets) if key == "plugins" else mask(value, secrets) for value in data]
    return mask_text(data, secrets) if isinstance(data, str) else data


def _plugin(entry: Any, secrets: Collection[str]) -> Any:
    """Mask an entry of a list of plugins. In `{name: settings}` the name is no key: `api_key` alone is no secret."""
    if isinstance(entry, dict) and "use" not in entry:
        return {name: mask(settings, secrets) for name, settings in entry.items()}
    return mask(entry, secrets)
