"""Secrets in what the admin API shows of a configuration: which values are hidden, and how.

A value is hidden when its key says that it is secret, when it looks like a credential, or when it came from a variable
whose name says so. Hiding too much costs a look into the file; hiding too little, a password. Which names do,
`telemetry.secrets` says, and what looks like one, `telemetry.redaction`. This works on plain data and knows no models.
The rest of the admin API and the metrics call it.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any

from gatewright.telemetry.redaction import Redaction
from gatewright.telemetry.secrets import REDACTED, member_is_secret, names_secret, setting_is_secret

MASK = "***hidden***"

_REDACTION = Redaction()
# The second form is a password with what a URL should have percent-encoded. What stands before a path may be a port.
_USERINFO = re.compile(r"(?<=://)(?:[^/?#\s]*@|[^/?#\s:@\[]{0,256}:(?![0-9]{1,5}[/?#,])[^\s\"'<>]{1,256}@)")
_PAIR = re.compile(r"(?<![\w.%-])([\w.%-]{1,64})=(\"[^\"]*\"|'[^']*'|[^&#;,\s\"'<>]+)")  # `Password=...;`
_CREDENTIALS = re.compile(r"(Bearer|Basic|Token)\s+[^\s{]\S*", re.IGNORECASE)  # a template's variable is none
_SHORTEST = 4  # a shorter value is no secret, and hiding it would garble everything else


def mask_text(text: str, secrets: Collection[str] = ()) -> str:
    """Return `text` without the passwords of URLs, secret parameters, credentials and any of `secrets`."""
    if secrets:
        text = _any_of(frozenset(secrets)).sub(MASK, text)
    shown, place = [], 0
    for found in _USERINFO.finditer(text) if "://" in text else ():
        shown += [_REDACTION.credentials(text[place : found.start()]), _without_password(found)]
        place = found.end()
    text = "".join([*shown, _REDACTION.credentials(text[place:])]).replace(REDACTED, MASK)
    if "=" in text:
        text = _PAIR.sub(lambda pair: f"{pair[1]}={MASK}" if member_is_secret(pair[1]) else pair[0], text)
    credentials = _CREDENTIALS.fullmatch(text)
    return text if credentials is None else f"{credentials[1]} {MASK}"


@lru_cache(1)
def _any_of(secrets: frozenset[str]) -> re.Pattern[str]:
    """Return what finds the secrets, in any case: of hosts there is the lower one. One may be a part of another."""
    longest_first = sorted((secret for secret in secrets if len(secret) >= _SHORTEST), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)", re.IGNORECASE)


def _without_password(userinfo: re.Match[str]) -> str:
    user, colon, _ = userinfo.group().partition(":")
    return f"{user}:{MASK}@" if colon else f"{MASK}@"  # a name alone may be a token


def mask(data: Any, secrets: Collection[str] = (), key: str = "", section: str = "") -> Any:
    """Return plain data with its secrets hidden. `key` is the key that it stands under, `section` the one above.

    A key with a secret's word in it hides all that stands below it, because the names within may be secrets too. What
    is empty, null, true or false is no secret.
    """
    if data in ("", [], {}) or isinstance(data, bool | None):
        return data
    if names_secret(key) or (not isinstance(data, dict | list) and setting_is_secret(key, section)):
        return MASK
    if isinstance(data, dict):
        if key == "tracing" and data.get("headers"):  # what a collector is sent is a credential, whatever it is called
            data = {**data, "headers": dict.fromkeys(data["headers"], MASK)}
        if key in ("rename", "claims_to_headers"):  # names on both sides
            return {name: mask(value, secrets) for name, value in data.items()}
        return {mask_text(name, secrets): mask(value, secrets, name, key) for name, value in data.items()}
    if isinstance(data, list):
        return [_plugin(value, secrets) if key == "plugins" else mask(value, secrets) for value in data]
    if isinstance(data, str):
        return mask_text(data, secrets)
    return MASK if len(str(data)) >= _SHORTEST and str(data) in secrets else data


def _plugin(entry: Any, secrets: Collection[str]) -> Any:
    """Mask an entry of a list of plugins. In `{name: settings}` the name is no key: `api_key` alone is no secret."""
    if isinstance(entry, dict) and "use" not in entry:
        return {name: mask(settings, secrets) for name, settings in entry.items()}
    return mask(entry, secrets)
