"""Header fields: order, case and duplicates survive; nothing that could break a message's framing gets in.

A field is kept in the form it will be written in, so that a field nobody changes is never formatted again. Each
field carries a mark: one bit that says which of the few names it is that a proxy must treat in a special way.
Used by the codecs (which build them), by plugins (which edit them) and by the proxy (which forwards them).
"""

import re
from collections.abc import Iterable, Iterator

# (name in lower case, value, wire form "Name: value\r\n", mark). A plain tuple: a NamedTuple costs six times as much.
Field = tuple[bytes, bytes, bytes, int]

HOST = 1
CONTENT_LENGTH = 2
TRANSFER_ENCODING = 4
CONNECTION = 8
HOP = 16  # never crosses the gateway
TE = 32
UPGRADE = 64
EXPECT = 128
FORWARDING = 256  # says who the client was: believed from trusted proxies only
REQUEST_ID = 512
VIA = 1024
DATE = 2048
TRACE = 4096  # says which trace the request is part of: the gateway's own word replaces it while it traces

# What the gateway writes itself in a request to a target, and in an answer to a client.
REQUEST_WRITTEN = (
    HOST | CONTENT_LENGTH | TRANSFER_ENCODING | CONNECTION | HOP | TE | UPGRADE | EXPECT | FORWARDING | REQUEST_ID
)
RESPONSE_WRITTEN = HOP | CONNECTION | UPGRADE | CONTENT_LENGTH | TRANSFER_ENCODING | REQUEST_ID

MARKS: dict[bytes, int] = {
    b"host": HOST,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"keep-alive": HOP,
    b"proxy-connection": HOP,
    b"proxy-authenticate": HOP,
    b"proxy-authorization": HOP,
    b"http2-settings": HOP,
    b"te": TE,
    b"upgrade": UPGRADE,
    b"expect": EXPECT,
    b"forwarded": FORWARDING,
    b"x-forwarded-for": FORWARDING,
    b"x-forwarded-proto": FORWARDING,
    b"x-forwarded-host": FORWARDING,
    b"x-forwarded-port": FORWARDING,
    b"x-forwarded-prefix": FORWARDING,
    b"x-real-ip": FORWARDING,
    b"x-request-id": REQUEST_ID,
    b"via": VIA,
    b"date": DATE,
    b"traceparent": TRACE,
    b"tracestate": TRACE,
    b"b3": TRACE,
    b"x-b3-traceid": TRACE,
    b"x-b3-spanid": TRACE,
    b"x-b3-parentspanid": TRACE,
    b"x-b3-sampled": TRACE,
    b"x-b3-flags": TRACE,
    b"uber-trace-id": TRACE,
}

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_NAME = re.compile(TOKEN)
# RFC 9110 section 5.5: visible characters, space, tab and obs-text; never CR, LF, NUL or another control.
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def mark_of(name: bytes) -> int:
    """Return the mark of the field `name` (lower case).

    Applications behind CGI-like interfaces read `X_Forwarded_For` as `X-Forwarded-For`, so a spelling with
    underscores of a name that the gateway manages never crosses it.
    """
    mark = MARKS.get(name, 0)
    if not mark and b"_" in name and name.replace(b"_", b"-") in MARKS:
        return HOP
    return mark


def make_field(name: str | bytes, value: str | bytes) -> Field:
    """Return a field ready for a message.

    Raises ValueError when the name is not a token or the value holds a control character (RFC 9110 section 5.5);
    that is what keeps a plugin's value from becoming a header of its own.
    """
    raw_name = name.encode("latin-1") if isinstance(name, str) else name
    if isinstance(value, str):
        try:
            raw_value = value.encode("latin-1")
        except UnicodeEncodeError:
            raw_value = value.encode("utf-8")
    else:
        raw_value = value
    raw_value = raw_value.strip(b" \t")
    if not _NAME.fullmatch(raw_name):
        raise ValueError(f"{name!r} is not a header name: letters, digits and !#$%&'*+-.^_`|~ only")
    if not _VALUE.fullmatch(raw_value):
        raise ValueError(f"the value of header {name!r} holds a control character")
    lower = raw_name.lower()
    return (lower, raw_value, raw_name + b": " + raw_value + b"\r\n", mark_of(lower))


class Headers:
    """An ordered list of header fields with case-insensitive names. Text in and out is latin-1.

    `fields` may be shared with other messages: it is replaced, never changed in place. `wire` is what the gateway
    forwards of it, joined, for as long as nothing was edited.
    """

    __slots__ = ("fields", "marks", "wire")

    def __init__(self, fields: list[Field] | None = None, marks: int = 0, wire: bytes | None = None) -> None:
        """`marks` is the union of the fields' marks."""
        self.fields: list[Field] = fields if fields is not None else []
        self.marks = marks
        self.wire = wire

    @classmethod
    def of(cls, pairs: Iterable[tuple[str | bytes, str | bytes]]) -> "Headers":
        """Build headers from (name, value) pairs. Raises ValueError as `make_field` does."""
        headers = cls()
        for name, value in pairs:
            headers.add(name, value)
        return headers

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of `name`, or `default`."""
        key = name.lower().encode("latin-1", "replace")
        for field in self.fields:
            if field[0] == key:
                return field[1].decode("latin-1")
        return default

    def get_all(self, name: str) -> list[str]:
        """Return every value of `name`, in order."""
        key = name.lower().encode("latin-1", "replace")
        return [field[1].decode("latin-1") for field in self.fields if field[0] == key]

    def tokens(self, name: str) -> list[str]:
        """Return the comma-separated members of every `name` field, in lower case (RFC 9110 section 5.6.1)."""
        members = ",".join(self.get_all(name)).lower().split(",")
        return [stripped for member in members if (stripped := member.strip(" \t"))]

    def add(self, name: str | bytes, value: str | bytes) -> None:
        """Append a field. Raises ValueError as `make_field` does."""
        self.append(make_field(name, value))

    def append(self, *fields: Field) -> None:
        """Append fields that `make_field` has made."""
        self.fields = [*self.fields, *fields]
        for field in fields:
            self.marks |= field[3]
            if self.wire is not None:
                self.wire = self.wire + field[2] if not field[3] else None

    def _replace(self, fields: list[Field], marks: int = 0) -> None:
        self.fields = fields
        self.marks |= marks
        self.wire = None

    def join(self, without: int) -> bytes:
        """Return the fields in wire form, except those with a mark in `without`."""
        return b"".join([field[2] for field in self.fields if not field[3] & without])

    def set(self, name: str | bytes, value: str | bytes) -> None:
        """Replace every `name` field by one, in the place of the first. Raises ValueError as `make_field` does."""
        self.put(make_field(name, value))

    def put(self, new: Field) -> None:
        """Do what `set` does with a field that `make_field` has made."""
        name = new[0]
        for field in self.fields:
            if field[0] == name:
                break
        else:
            self.append(new)
            return
        kept: list[Field] = []
        placed = False
        for field in self.fields:
            if field[0] != new[0]:
                kept.append(field)
            elif not placed:
                kept.append(new)
                placed = True
        self._replace(kept, new[3])

    def remove(self, name: str) -> None:
        """Drop every `name` field; a name that is not there is no error."""
        key = name.lower().encode("latin-1", "replace")
        kept = [field for field in self.fields if field[0] != key]
        if len(kept) != len(self.fields):
            self._replace(kept)

    def rename(self, old: str, new: str) -> None:
        """Give every `old` field the name `new`, in place. Raises ValueError when `new` is not a token."""
        key = old.lower().encode("latin-1", "replace")
        mark = make_field(new, b"")[3]
        self._replace([make_field(new, field[1]) if field[0] == key else field for field in self.fields], mark)

    def copy(self) -> "Headers":
        """Return headers that can be edited without changing these."""
        return Headers(self.fields, self.marks, self.wire)

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield (name as it was written, value) in order."""
        for field in self.fields:
            yield field[2][: len(field[0])].decode("latin-1"), field[1].decode("latin-1")

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __len__(self) -> int:
        return len(self.fields)

    def __repr__(self) -> str:
        return f"Headers({[field[2][: len(field[0])].decode('latin-1') for field in self.fields]})"
