"""A line of the access log for people: one to read, and below it what a message held if that is logged.

Nothing that a client or target sent can forge a line or command a terminal: control characters are shown escaped. The
access log calls it in place of JSON.
"""

from collections.abc import Iterator
from typing import Any

from gatewright.core.text import printable
from gatewright.telemetry.access_log import Line

_COLOURS = {1: "36", 2: "32", 3: "36", 4: "33", 5: "31"}  # by the first digit of the status
_DIM = "2"


def render(line: Line, colour: bool = False) -> bytes:
    """Return the text of a line, without its last newline; `colour`: for a terminal."""
    first = " ".join(_first(line, colour))
    rest = [*_message(">", line.request), *_message("<", line.response)]
    # A name that came in no known encoding has no UTF-8 form of its own.
    return "\n".join([first, *rest]).encode("utf-8", "backslashreplace")


def _first(line: Line, colour: bool) -> Iterator[str]:
    yield f"{line.time[:10]} {line.time[11:23]}Z"
    yield _painted(str(line.status), _COLOURS.get(line.status // 100, "0"), colour)
    yield printable(line.method) or "-"
    url = line.path if line.query is None else f"{line.path}?{line.query}"
    yield printable(f"{line.host}{url}") or "-"
    yield f"{line.duration_ms:.1f}ms"
    if line.service is not None:
        tries = f" in {line.attempts} attempts" if line.attempts > 1 else ""
        target = f" {line.upstream_addr} {line.upstream_duration_ms or 0:.1f}ms" if line.upstream_addr else ""
        yield printable(f"-> {line.service}{target}{tries}")
    yield f"{line.bytes_in}B/{line.bytes_out}B"
    yield printable(f"from {line.client_ip}")
    named = {
        "consumer": line.consumer,
        "cache": line.cache_status,
        "reason": line.reason,
        "cause": line.cause,
    }
    for name, value in named.items():
        if value is not None:
            yield printable(f"{name}={value}")
    yield _painted(printable(line.request_id), _DIM, colour)


def _painted(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text


def _message(sign: str, message: dict[str, Any] | None) -> Iterator[str]:
    if message is None:
        return
    for name, value in message.get("headers", {}).items():
        yield printable(f"    {sign} {name}: {value}")
    body = message.get("body")
    if body is not None:
        text = body.get("text")
        facts = ", ".join(str(fact) for name, fact in body.items() if name not in ("text", "bytes", "truncated"))
        size = f"[{facts + ', ' if facts else ''}{body['bytes']} bytes{', cut off' if body.get('truncated') else ''}]"
        yield printable(f"    {sign} {size}" if text is None else f"    {sign} {text} {size}")
