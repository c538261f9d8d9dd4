"""The bounds that a listener puts on its clients. Sizes in bytes, times in seconds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take. `body` 0 means any size."""

    request_line: int = 8 * 1024
    headers: int = 32 * 1024
    header_count: int = 100
    body: int = 10 * 1024 * 1024
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    keepalive_timeout: float = 75.0
    write_timeout: float = 60.0
