"""What supervisor and workers say to each other. Both ends check each message against these types.

A change here that an older side would misread needs a new VERSION: a worker that is started after the package was
upgraded under a running supervisor must be told from one that speaks its language.
"""

from importlib.metadata import version as installed_version
from typing import Any

import msgspec

VERSION = 2
RELEASE = installed_version("gatewright")  # of this process: another may be installed by now


class Message(msgspec.Struct, tag=True):
    """Base of all messages; `fds` says how many file descriptors came with it."""


class Row(msgspec.Struct, array_like=True):
    """A target's state that differs from the configured one; None leaves it as it is."""

    service: str
    target: str
    healthy: bool | None = None
    draining: bool | None = None
    weight: int | None = None


class Discovered(msgspec.Struct, array_like=True):
    """The instances of a service, by what the configuration of this identity looks for (`control.discovery`)."""

    service: str
    identity: str
    instances: list[tuple[str, int]]  # URL and weight


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
    folder: str  # where the workers keep what they share
    version: str
    targets: list[Row]
    discovered: list[Discovered]
    sockets: list[tuple[int, int]]
    contents: dict[str, bytes]  # what files held when the others took the configuration over, by path


class Serve(Message, tag="serve"):
    """Serve these sockets too, of listeners that there are; answered by Serving."""

    number: int
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


class SetTargets(Message, tag="set_targets"):
    """A service's instances have changed."""

    discovered: Discovered


class Ask(Message, tag="ask"):
    """Report now; the Report carries `number`."""

    number: int


class Reopen(Message, tag="reopen"):
    """Open log files anew."""


class Drain(Message, tag="drain"):
    """Accept no more, finish within `grace` seconds, exit."""

    grace: float


class Publish(Message, tag="publish"):
    """What a plugin tells all workers (`plugins.services`); the supervisor passes a worker's on to the others."""

    topic: str
    content: Any


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
    contents: dict[str, bytes] = {}  # of the files that the configuration was made from


class Serving(Message, tag="serving"):
    """The sockets of that Serve are served."""

    number: int


class Prepared(Message, tag="prepared"):
    """The outcome of Prepare; without `faults` and `error` it waits for Commit or Abort."""

    number: int
    faults: list[Fault]
    error: str = ""
    files: list[str] = []
    contents: dict[str, bytes] = {}  # of the files that the configuration was made from


class Committed(Message, tag="committed"):
    """The configuration is in use."""

    number: int


class Leaving(Message, tag="leaving"):
    """It accepts no more and will end: another should take its place now."""


class Report(Message, tag="report"):
    """Numbers: `rows` are cumulative and those that have changed since the last report."""

    number: int  # of the Ask, or 0
    rows: list[Any]
    connections: int
    in_flight: int
    targets: list[dict[str, Any]] | None  # None: as they were told last
    lag: float = 0.0  # seconds by which the event loop was late
    ages: list[Any] = []  # labels, and when that last went well, by the machine's monotonic clock


FromSupervisor = Configure | Serve | Prepare | Commit | Abort | SetTarget | SetTargets | Ask | Reopen | Publish | Drain
FromWorker = Hello | Started | Serving | Prepared | Committed | Report | Publish | Leaving
