"""Taking secrets out of what messages say before it is logged: header fields, JSON, forms, any other text.

Of JSON whose beginning alone is there, the members that are whole are shown: what was cut off in its middle may have no
name to be judged by. What is not JSON although it says so is not shown at all. Which names are secret, `secrets` says;
a `Redaction` adds names and takes names out. The logging plugin calls it.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from gatewright.telemetry.secrets import REDACTED, bare, field_is_secret, member_is_secret, parameter_is_secret

# What says where a beginning of JSON may be ended: texts (the last may be cut off), brackets, commas.
_MARKS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[{}\[\],]', re.DOTALL)
_PARTNERS = {"{": "}", "[": "]"}
_REMEMBERED, _LONGEST_REMEMBERED = 1000, 64  # names of fields, and their characters
_NESTED = 3  # levels of JSON in a text in JSON

# What is a credential whatever stands before it. All of them take time in proportion to the text.
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}-----|\Z)", re.DOTALL)
_SCHEME = re.compile(r"\b(Bearer|Basic|DPoP)(\s{1,8})[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*")
_USERINFO = re.compile(r"(?<=://)[^/?#\s\"'<>@]{1,256}@")
# `?name=` within addresses, and what ends its value.
_PARAMETER = re.compile(r"(?<=[?&#;])([^=?&#;\s\"'\\<>]{1,64})=")
_PARAMETER_VALUE = re.compile(r"[^&#;\s\"'\\<>]*")
# `name: `, `name=`, `"name": `, `<name>` in a text without a grammar, and its value, up to what must end one.
_NAME = re.compile(r"(?<![\w.\-\[\]])([\w.\-\[\]]{1,64})[\"']?\s{0,8}[:=>]\s{0,8}")
_VALUE = re.compile(r"\"[^\"\n]*\"?|'[^'\n]*'?|[^\n\"'<>,;&]*")


class Redaction:
    """What is hidden: what is by default, and the names `more`, but not the names `shown`."""

    def __init__(self, more: Iterable[str] = (), shown: Iterable[str] = ()) -> None:
        """Names count for header fields, members of JSON and parameters alike, however they are spelt."""
        self._more = frozenset(map(bare, more))
        self._shown = frozenset(map(bare, shown))
        self._fields: dict[str, bool] = {}  # what was decided: 0.1 us instead of 4

    def _decide(self, name: str, by_default: Callable[[str], bool]) -> bool:
        key = bare(name)
        return key in self._more or (key not in self._shown and by_default(name))

    def hides_member(self, name: str) -> bool:
        """Tell whether the value of a JSON member is hidden."""
        return self._decide(name, member_is_secret)

    def hides_parameter(self, name: str) -> bool:
        """Tell whether the value of a parameter of a query or form is hidden."""
        return self._decide(name, parameter_is_secret)

    def field(self, name: str, value: str) -> str:
        """Return what is shown of a header field's value."""
        secret = self._fields.get(name)
        if secret is None:
            secret = self._decide(name, lambda each: field_is_secret(each) or member_is_secret(each))
            if len(self._fields) < _REMEMBERED and len(name) <= _LONGEST_REMEMBERED:
                self._fields[name] = secret
        return REDACTED if secret else self.credentials(value)

    def credentials(self, text: str) -> str:
        """Return `text` without what looks like a credential: tokens, private keys, those within URLs."""
        if "-----BEGIN" in text:
            text = _PRIVATE_KEY.sub(REDACTED, text)
        if "eyJ" in text:
            text = _JWT.sub(REDACTED, text)
        if "://" in text:
            text = _USERINFO.sub(f"{REDACTED}@", text)
        if "=" in text:
            text = self._without_values(text, _PARAMETER, _PARAMETER_VALUE)
        lowered = text.lower()  # a hundredth of the time that the expression needs to find nothing
        if "bearer" in lowered or "basic" in lowered or "dpop" in lowered:
            text = _SCHEME.sub(rf"\1\2{REDACTED}", text)
        return text

    def text(self, text: str) -> str:
        """Return a text of no known grammar without credentials and without what follows a secret's name."""
        return self._without_values(self.credentials(text), _NAME, _VALUE)

    def _without_values(self, text: str, names: re.Pattern[str], values: re.Pattern[str]) -> str:
        """Hide what follows the secret ones of `names`. A name may stand within the value of one that is not secret."""
        shown: list[str] = []
        place = 0
        for found in names.finditer(text):
            if found.start() >= place and self.hides_parameter(found[1]):
                value = values.match(text, found.end())
                assert value is not None
                if value.group():
                    shown += [text[place : found.end()], REDACTED]
                    place = value.end()
        return "".join([*shown, text[place:]])

    def form(self, text: str) -> str:
        """Return a form (application/x-www-form-urlencoded), or its beginning, without secrets."""
        pairs = []
        for pair in text.split("&"):
            name, equals, _ = pair.partition("=")
            pairs.append(f"{name}={REDACTED}" if equals and self.hides_parameter(name) else pair)
        return self.credentials("&".join(pairs))

    def json(self, text: str, cut: bool = False) -> str:
        """Return a JSON document without secrets; of one that is `cut`, what is whole of it.

        Raises ValueError when it is not JSON.
        """
        if cut and not (text := completed(text)):
            return ""
        try:
            document = msgspec.json.decode(text)
            return self.credentials(msgspec.json.encode(_Walk(self).value(document, _NESTED)).decode())
        except RecursionError:
            raise ValueError("its brackets are too deep") from None


class _Walk:
    """Goes through one decoded document; the decision on a name is made once."""

    def __init__(self, redaction: Redaction) -> None:
        self._hides = redaction.hides_member
        self._in_words = redaction.text
        self._known: dict[str, bool] = {}

    def value(self, value: Any, nested: int) -> Any:
        """Return what may be shown of a value. What is null, true or false is no secret."""
        kind = type(value)
        if kind is str:
            is_document = ("{" in value or "[" in value) and value.lstrip().startswith(("{", "["))
            return self._document(value, nested) if is_document else value
        if kind is dict:
            return {name: self._member(name, inner, nested) for name, inner in value.items()}
        if kind is list:
            return [self.value(inner, nested) for inner in value]
        return value

    def _member(self, name: str, value: Any, nested: int) -> Any:
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = self._hides(name)
        if known and value is not None and not isinstance(value, bool):
            return REDACTED
        return self.value(value, nested)

    def _document(self, text: str, nested: int) -> str:
        """Return what may be shown of a text that may be JSON in its turn."""
        if not nested:
            return REDACTED
        try:
            return msgspec.json.encode(self.value(msgspec.json.decode(text), nested - 1)).decode()
        except ValueError:
            return self._in_words(text)


def completed(text: str) -> str:
    """Return the beginning of a JSON document ended before the first member or item that is not whole."""
    place, brackets, still_open = 0, "", ""
    for match in _MARKS.finditer(text):
        mark = match.group()
        if mark == ",":
            place, still_open = match.start(), brackets
        elif mark in _PARTNERS:
            brackets += mark
            place, still_open = match.end(), brackets
        elif mark in ("}", "]"):
            brackets = brackets[:-1]
            place, still_open = match.end(), brackets
    return text[:place] + "".join(_PARTNERS[bracket] for bracket in reversed(still_open))
