"""What the admin API can ask of the gateway, and the forms in which it answers.

`Operations` is implemented by the supervisor; the API calls nothing else of it. The view models are the JSON that
clients see, and the contract with them. Nothing here knows HTTP or processes.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, computed_field

from gatewright.control.errors import ConfigError
from gatewright.control.models import GatewayConfig
from gatewright.plugins.cache.store import PurgeKind

State = Literal["starting", "ready", "draining"]
Source = Literal["file", "api"]
TargetState = Literal["up", "unhealthy", "draining", "disabled", "ejected", "open"]


class UnknownTarget(LookupError):
    """There is no such service, or no such target of it; the message says which."""


class VersionMismatch(Exception):
    """The configuration is not the version that was expected any more. `version` is what it is."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.version = version


class View(BaseModel):
    """Something that the API shows."""

    model_config = ConfigDict(frozen=True)


class ErrorView(View):
    """One thing that is wrong with a configuration. Line and column count from 1; 0: the file as a whole."""

    file: str
    line: int
    column: int
    path: str = Field(description="Key path, such as services.shop.retry.attempts; empty where no key is concerned")
    message: str
    suggestion: str | None = Field(None, description="What was probably meant")

    @classmethod
    def of(cls, error: ConfigError) -> "ErrorView":
        """Return the view of `error`."""
        return cls(
            file=str(error.file),
            line=error.line,
            column=error.column,
            path=error.path,
            message=error.message,
            suggestion=error.suggestion,
        )


class ConfigView(View):
    """Which configuration runs."""

    file: str
    version: str = Field(description="The strong entity tag that GET /config answers with")
    source: Source = Field(description="Where it came from: the file, or this API")
    saved: bool = Field(description="Whether the file holds what runs")


class ReloadView(View):
    """The last attempt to change the configuration."""

    at: AwareDatetime
    ok: bool
    trigger: Literal["start", "file", "signal", "api"]
    version: str = Field(description="The version that runs since then")
    errors: list[ErrorView] = []


class ListenerView(View):
    """An address that clients connect to."""

    url: str
    tls: bool


class WorkerView(View):
    """A process that serves clients."""

    index: int
    pid: int
    state: State
    started_at: AwareDatetime
    restarts: int = Field(description="How often a worker in this place was replaced after it had died")
    connections: int
    in_flight: int


class StatusView(View):
    """The gateway as a whole."""

    version: str
    python: str
    pid: int
    started_at: AwareDatetime
    uptime_seconds: float
    state: State
    config: ConfigView
    last_reload: ReloadView | None
    listeners: list[ListenerView]
    workers: list[WorkerView]
    connections: int
    in_flight: int
    requests_total: int


class BreakerView(View):
    """How many workers see the circuit in which state; all 0 where there is no breaker."""

    closed: int = 0
    open: int = 0
    half_open: int = 0


class TargetView(View):
    """A target, as all workers together see it."""

    service: str
    name: str = Field(description="host:port; of an application its import path")
    url: str
    weight: int = Field(description="The weight that counts")
    configured_weight: int = Field(description="The weight that the configuration says")
    draining: bool
    healthy: bool = Field(description="What active health checks say; true where there are none")
    in_flight: int
    breaker: BreakerView = BreakerView()
    ejected: int = Field(0, description="How many workers leave it alone after failures")

    @computed_field(description="One word for all of it; the first that holds")  # type: ignore[prop-decorator]
    @property
    def state(self) -> TargetState:
        """One word for all of it: what somebody decided comes before what was found out."""
        if self.draining:
            return "draining"
        if self.weight == 0:
            return "disabled"
        if not self.healthy:
            return "unhealthy"
        if self.ejected:
            return "ejected"
        return "open" if self.breaker.open else "up"


@dataclass(frozen=True, slots=True)
class Current:
    """The configuration that runs. `version` is a strong entity tag, in its quotes (RFC 9110 section 8.8.3).

    `secrets` are values that came from variables whose names say that they are secret (`telemetry.secrets`): they
    are hidden wherever they stand.
    """

    config: GatewayConfig
    version: str
    secrets: frozenset[str] = field(default_factory=frozenset, repr=False)


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a change. With `errors` nothing was changed, and `version` is what still runs."""

    version: str
    changed: bool
    errors: list[ConfigError]


class Operations(Protocol):
    """What the API asks of the gateway. Every method may be called at any time, also several at once."""

    async def status(self) -> StatusView:
        """Return the gateway's condition."""

    async def current(self) -> Current:
        """Return the configuration that runs."""

    async def targets(self) -> list[TargetView]:
        """Return every target, in the order of the configuration."""

    async def set_target(self, service: str, target: str, draining: bool | None, weight: int | None) -> TargetView:
        """Drain, enable or weight a target in every worker; None leaves as it is. Raises UnknownTarget.

        It is no operation on applications: they are shown beside the targets, and are none.
        """

    async def purge(self, kind: PurgeKind, value: str) -> int:
        """Have the caches of every worker, and their Redis, forget what this names; return how many have.

        What `kind` and `value` mean says `MemoryStore.purge`.
        """

    async def check(self, text: str) -> list[ConfigError]:
        """Return everything that is wrong with a configuration, and change nothing."""

    async def apply(self, text: str, expected: str | None, save: bool) -> Applied:
        """Put `text` in place of the configuration, in every worker or in none.

        `expected`: the version that it must replace, else VersionMismatch is raised; None replaces any. `save`: also
        write it to the file, once every worker can run it.
        """

    async def reload(self) -> Applied:
        """Read the file again and put it in place, in every worker or in none."""

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their content type, in the form that the Accept field `accept` asks for."""

    async def ready(self) -> tuple[bool, list[str]]:
        """Tell whether new clients should be sent here, and if not, why."""
