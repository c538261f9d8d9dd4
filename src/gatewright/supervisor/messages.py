"""What supervisor and workers say to each other. Both ends check each message against these types.

A change here that an older side would misread needs a new VERSION: a worker that is started after the package was
upgraded under a running supervisor must be told from one that speaks its language.
"""

from typing import Any

import msgspec

VERSION = 1


class Message(msgspec.Struct, tag=True):
    """Base of all messages; `fds` says how many file descriptors came with it."""


class Row(msgspec.Struct, array_like=True):
    """A target's state that differs from the configured one; None leaves it as it is."""

    service: str
    target: str
    healthy: bool | None = None
    draining: bool | None = None
    weight: int | None = None


class Fault(msgspec.Struct, array_like=True):
    """Something wrong with a configuration that only a worker can see (`control.errors.Problem`)."""

    path: list[str | int]
    message: str
    suggestion: str | None = None
    at: str = "value"
    quote: bool = False
    wide: bool = False


# From the supervisor


class Configure(Message, tag="configure"):
    """Start with this configuration. The sockets that come with it are `sockets`: (listener's index, how many)."""

    data: dict[str, Any]
    base_dir: str
    version: str
    targets: list[Row]
    sockets: list[tuple[int, int]]


class Prepare(Message, tag="prepare"):
    """Build this configuration beside the present one; answered by Prepared."""

    number: int
    data: dict[str, Any]
    base_dir: str


class Commit(Message, tag="commit"):
    """Go over to the configuration that was prepared under `number`; answered by Committed."""

    number: int
    version: str
    sockets: list[tuple[int, int]]


class Abort(Message, tag="abort"):
    """Throw away what was prepared under `number`, if it was."""

    number: int


class SetTarget(Message, tag="set_target"):
    """A target's state has changed."""

    row: Row


class Ask(Message, tag="ask"):
    """Report now; the Report carries `number`."""

    number: int


class Reopen(Message, tag="reopen"):
    """Open log files anew."""


class Drain(Message, tag="drain"):
    """Accept no more, finish within `grace` seconds, exit."""

    grace: float


# From a worker


class Hello(Message, tag="hello"):
    """The first message."""

    version: int
    release: str
    pid: int


class Started(Message, tag="started"):
    """It serves, or it cannot: `faults` and `error` say why."""

    faults: list[Fault]
    error: str = ""
    files: list[str] = []


class Prepared(Message, tag="prepared"):
    """The outcome of Prepare; without `faults` and `error` it waits for Commit or Abort."""

    number: int
    faults: list[Fault]
    error: str = ""
    files: list[str] = []


class Committed(Message, tag="committed"):
    """The configuration is in use."""

    number: int


class Report(Message, tag="report"):
    """Numbers: `rows` are cumulative and those that have changed since the last report."""

    number: int  # of the Ask, or 0
    rows: list[Any]
    connections: int
    in_flight: int
    targets: list[dict[str, Any]]


FromSupervisor = Configure | Prepare | Commit | Abort | SetTarget | Ask | Reopen | Drain
FromWorker = Hello | Started | Prepared | Committed | Report
