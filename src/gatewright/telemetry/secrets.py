"""Which names say that their value is a secret: of header fields, parameters, JSON members, settings.

One list for logs, spans, the admin API and configuration errors, so that what one of them hides no other shows. It
knows names; `redaction` finds them in messages, and what looks like a credential whatever it is called.
"""

import re
from functools import lru_cache
from urllib.parse import unquote_plus

REDACTED = "[redacted]"

_SECRET = re.compile(
    r"secret|passw|passphrase|pwd|token|credential|authorization|dsn"
    r"|(?:api|private|access|signing|encryption|shared|master|auth|hmac|subscription)[_.-]?key|^keys$",
    re.IGNORECASE,
)
# What the name of a setting may end in when it is about the secret: `token_url`, `password_file`.
_ABOUT = re.compile(r"(?:url|uri|endpoint|header|name|ttl|file|path|type|algorithms?|lifetime|timeout)$", re.IGNORECASE)
_COOKIES = ("cookie", "set-cookie")  # names of fields, and also of settings: they count within header fields only

# Names that are secret only as a whole, or with "X-" before them. They are compared without case, "_", "-" and ".".
_EXACT = (
    *("cookie", "cookies", "set-cookie", "session", "sessionid", "sid", "csrf", "xsrf"),
    *("auth", "assertion", "client_assertion", "jwt", "samlrequest", "samlresponse"),
    *("otp", "passcode", "pin", "credit_card", "card_number", "cvc", "cvv"),
    *("sig", "signature", "x-amz-signature", "x-goog-signature"),
)
_PARAMETERS = ("code", "key")  # short-lived codes of OAuth, keys of APIs: in an address or a form, not in JSON


def names_secret(name: str) -> bool:
    """Tell whether a key, a header field, a query parameter or a variable of this name holds a secret."""
    return _SECRET.search(name) is not None and _ABOUT.search(name) is None


def field_is_secret(name: str) -> bool:
    """Tell whether a header field of this name carries credentials."""
    return name.lower() in _COOKIES or _SECRET.search(name) is not None


def bare(name: str) -> str:
    """Return a name without what spellings of it differ in: accessToken, access_token and Access-Token are one."""
    return name.lower().replace("_", "").replace("-", "").replace(".", "")


_BARE = frozenset(map(bare, _EXACT))


def _is_exact(name: str) -> bool:
    key = bare(name)
    return key in _BARE or key.removeprefix("x") in _BARE


def member_is_secret(name: str) -> bool:
    """Tell whether what a client or a target says under this name stays out of logs: a header field, a JSON member.

    Rather too much than too little: what only seems to be about a secret (`token_type`) stays out too.
    """
    return _SECRET.search(name) is not None or _is_exact(name)


def parameter_is_secret(name: str) -> bool:
    """Tell the same of a parameter of a query or a form, whose name may be percent-encoded."""
    if "%" in name or "+" in name:
        name = unquote_plus(name)
    # `user[password]` and `jwt[]` are names within names.
    return name.lower() in _PARAMETERS or any(member_is_secret(part) for part in name.replace("]", "").split("["))


def setting_is_secret(name: str, section: str = "") -> bool:
    """Tell whether a text or number that a configuration has under the key `name` of `section` is a secret."""
    if section in ("headers", "set", "add"):  # fields: of a match, of a fixed answer, of a plugin's edits
        return field_is_secret(name) or member_is_secret(name)
    if section == "query":
        return parameter_is_secret(name)
    # A setting with the name of such a field says what a cookie is called.
    return names_secret(name) or (_is_exact(name) and "cookie" not in name.lower())


_remembered = lru_cache(1024)(parameter_is_secret)
_LONGEST_REMEMBERED = 64  # characters


def redact_query(query: str | None) -> str | None:
    """Return a query, or a form, with the values of parameters replaced whose names say that they are secret."""
    if not query or "=" not in query:
        return query
    pairs = []
    for pair in query.split("&"):
        name, equals, _ = pair.partition("=")
        decide = _remembered if len(name) <= _LONGEST_REMEMBERED else parameter_is_secret
        pairs.append(f"{name}={REDACTED}" if equals and decide(name) else pair)
    return "&".join(pairs)
