"""Services brought to life from their configuration, and kept when a new configuration says the same of them.

A service that has not changed keeps its objects: targets with their condition, pools with their connections. The
snapshot's builder calls it, and the health probes for what they share; it starts nothing and knows no exchange.
"""

import hashlib
import math
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatewright.control.balance_models import HashBalance, StickyBalance
from gatewright.control.errors import KeyPath, Problem, path_text
from gatewright.control.service_models import ServiceConfig
from gatewright.core.clock import Clock
from gatewright.core.contents import read
from gatewright.net.connect import connect
from gatewright.net.timers import Timers
from gatewright.net.tls import TargetTls, client_context
from gatewright.plugins.registry import PluginLoadError, Source
from gatewright.upstream.asgi_target import AsgiPool, AsgiPools
from gatewright.upstream.balancers import Balancer, make_balancer
from gatewright.upstream.breaker import Breaker
from gatewright.upstream.outlier import Outlier
from gatewright.upstream.pool import Opener, Pool, PoolLimits
from gatewright.upstream.retry import RetryPolicy
from gatewright.upstream.service import Service, Timeouts
from gatewright.upstream.target import Target


class SnapshotError(Exception):
    """A configuration that was found valid cannot be brought to life; `problem` says what stands in the way, and the
    text also where.
    """

    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(f"{path_text(path)}: {message}" if path else message)
        self.problem = Problem(path, message)


@dataclass(frozen=True, slots=True)
class BuiltService:
    """A service, and what it was made from."""

    service: Service
    config: ServiceConfig  # without what makes no difference to the service itself
    credentials: bytes  # digest of the files of its TLS section
    app: AsgiPool | None  # the ASGI application, if it is one
    make_target: "MakeTarget"  # further ones, as discovery finds them

    @property
    def pools(self) -> list[Any]:
        """The pools of its targets."""
        return [target.pool for target in self.service.targets]


MakeTarget = Callable[[str, int], Target]
"""Returns a target, complete, for a URL and a weight."""


class ServiceBuilder:
    """Makes the services of one configuration."""

    def __init__(
        self,
        source: Source,
        clock: Clock,
        timers: Timers,
        previous: Mapping[str, BuiltService],
        applications: AsgiPools,
    ) -> None:
        """`previous` are the services that run now, `applications` those of all configurations."""
        self._source = source
        self._clock = clock
        self._timers = timers
        self._previous = previous
        self._applications = applications

    def service(self, name: str, given: ServiceConfig) -> BuiltService:
        """Return the service `name`, the running one if nothing about it has changed. Raises SnapshotError."""
        config = given.model_copy(update={"plugins": (), "health": None})
        app = self._app(name, config.app) if config.app is not None else None
        credentials = digest_of(config)
        before = self._previous.get(name)
        if before is not None and before.app is app and before.credentials == credentials and before.config == config:
            return before
        make = self._maker(name, config)
        if config.app is not None:
            targets = [self._app_target(config.app, app)]
            targets[0].breaker = _breaker(config)
        else:
            targets = [make(target.url, target.weight) for target in config.targets or ()]
        return BuiltService(_service(name, config, targets), config, credentials, app, make)

    def _maker(self, name: str, config: ServiceConfig) -> MakeTarget:
        """Return what makes the targets of a service. Raises SnapshotError."""
        try:
            tls = target_context(config)
        except OSError as error:  # ssl.SSLError is one
            raise SnapshotError(("services", name, "tls"), str(error)) from error
        clock, timers, limits = self._clock, self._timers, _pool_limits(config)

        def make(url: str, weight: int) -> Target:
            target = Target.from_url(url, weight)
            target.pool = Pool(opener(target, tls, config.tls.server_name, clock, timers), clock, timers, limits)
            target.breaker = _breaker(config)
            return target

        return make

    def _app(self, name: str, path: str) -> AsgiPool:
        try:
            return self._applications.pool(self._source.load_object(path))
        except PluginLoadError as error:
            raise SnapshotError(("services", name, "app"), str(error)) from error

    def _app_target(self, path: str, app: AsgiPool | None) -> Target:
        target = Target(path, "http", path, 0)
        target.name = path
        target.pool = app
        return target


def target_context(config: ServiceConfig) -> ssl.SSLContext | None:
    """Return how the https targets of a service are spoken to; None without any. Raises OSError for bad files."""
    discovered = config.discover is not None and config.discover.scheme == "https"
    if not discovered and not any(target.scheme == "https" for target in config.targets or ()):
        return None
    tls = config.tls
    return client_context(TargetTls(tls.verify, _text(tls.ca), _text(tls.cert), _text(tls.key), tls.server_name))


def digest_of(config: ServiceConfig) -> bytes:
    """Return what tells the contents of a service's TLS files from any others."""
    return digest_of_files(config.tls.ca, config.tls.cert, config.tls.key)


def digest_of_files(*paths: Path | None) -> bytes:
    """Return what tells the contents of files from any others; b"" without files."""
    if not any(paths):
        return b""
    digest = hashlib.sha256()
    for path in paths:
        try:
            content = read(path) if path is not None else b""
        except OSError as error:
            content = repr(error).encode()
        digest.update(b"%d:" % len(content) + content)
    return digest.digest()


def opener(target: Target, tls: ssl.SSLContext | None, server_name: str | None, clock: Clock, timers: Timers) -> Opener:
    """Return what opens connections to `target`."""
    context = tls if target.scheme == "https" else None
    return lambda owner: connect(owner, clock, timers, target.host, target.port, context, server_name or target.host)


def _service(name: str, config: ServiceConfig, targets: list[Target]) -> Service:
    outlier, retry, timeouts = config.outlier, config.retry, config.timeouts
    return Service(
        name,
        targets,
        _balancer(config),
        timeouts=Timeouts(
            timeouts.connect,
            timeouts.response or math.inf,
            timeouts.idle or math.inf,
            timeouts.total or math.inf,
            timeouts.tunnel or math.inf,
        ),
        retry=RetryPolicy(
            retry.attempts, [str(token) for token in retry.on], retry.budget, retry.backoff.base, retry.backoff.max
        ),
        outlier=Outlier(outlier.consecutive, outlier.eject, outlier.max_ejected) if outlier else None,
        max_in_flight=config.max_in_flight,
        host=config.host,
    )


def _breaker(config: ServiceConfig) -> Breaker | None:
    breaker = config.breaker
    if breaker is None:
        return None
    return Breaker(breaker.failure_rate, breaker.minimum, breaker.window, breaker.open)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _pool_limits(config: ServiceConfig) -> PoolLimits:
    pool = config.pool
    return PoolLimits(pool.max_connections, pool.max_idle, pool.idle_timeout, pool.max_age)


def _balancer(config: ServiceConfig) -> Balancer:
    balance = config.balance
    if isinstance(balance, HashBalance):
        return make_balancer("hash", by=balance.hash.by)
    if isinstance(balance, StickyBalance):
        return make_balancer("sticky", cookie=balance.sticky.cookie, ttl=balance.sticky.ttl)
    return make_balancer(balance)
