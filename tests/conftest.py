"""Fixtures that many tests share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.gateway import RunningGateway, run_gateway
from tests.kit.process import GatewayProcess, LoadProcess, echo
from tests.kit.servers import Redis, redis_server
from tests.kit.wire import Script, Target

Start = Callable[..., RunningGateway]
MakeTarget = Callable[..., Target]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def target(stack: ExitStack) -> MakeTarget:
    """Make targets that are closed at the end: `target(script)`."""

    def make(script: Script | None = None, **options: object) -> Target:
        return stack.enter_context(Target(script, **options))  # type: ignore[arg-type]

    return make


@pytest.fixture
def gateway(stack: ExitStack, tmp_path: Path) -> Start:
    """Start gateways that are stopped at the end: `gateway(config_text)`."""
    count = 0

    def start(config: str, **options: object) -> RunningGateway:
        nonlocal count
        count += 1
        folder = tmp_path / f"gateway{count}"
        folder.mkdir()
        return stack.enter_context(run_gateway(folder, config, **options))  # type: ignore[arg-type]

    return start


@pytest.fixture
def proxy(gateway: Start) -> Callable[..., RunningGateway]:
    """Start a gateway that passes everything to `target`: `proxy(target, service="retry: {attempts: 0}", extra="...")`."""

    def start(target: Target, service: str = "", route: str = "", extra: str = "") -> RunningGateway:
        return gateway(
            f'services:\n  s:\n    targets: ["{target.url}"]\n'
            + "".join(f"    {line}\n" for line in service.splitlines())
            + 'routes:\n  - name: all\n    match: {path: "/{rest...}"}\n    service: s\n'
            + "".join(f"    {line}\n" for line in route.splitlines())
            + extra
        )

    return start


@pytest.fixture
def run(stack: ExitStack, tmp_path: Path) -> Callable[..., GatewayProcess]:
    """Start real `gatewright run` processes that are gone at the end: `run(config_text)`; a second one needs a `folder`."""

    def start(config: str, folder: Path = tmp_path, **options: object) -> GatewayProcess:
        process = GatewayProcess(folder, config, **options)  # type: ignore[arg-type]
        stack.callback(process.kill)
        return process

    return start


@pytest.fixture
def load(stack: ExitStack) -> Callable[..., LoadProcess]:
    """Start steady loads that are gone at the end: `load(port, rate=300)`."""

    def start(port: int, **options: int) -> LoadProcess:
        process = LoadProcess(port, **options)
        stack.callback(process.kill)
        return process

    return start


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    """A real Redis, for all tests of a module."""
    with redis_server() as running:
        yield running


@pytest.fixture
def redis(server: Redis) -> Redis:
    """The module's Redis, with nothing in it."""
    server.ask("FLUSHALL")
    server.ask("SCRIPT", "FLUSH")
    return server


@pytest.fixture
def fast(stack: ExitStack) -> str:
    """The URL of a target that keeps up with a load."""
    return f"http://127.0.0.1:{stack.enter_context(echo())}"
