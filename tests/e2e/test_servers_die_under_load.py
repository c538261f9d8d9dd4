"""The servers that the gateway uses die, hang and come back in the middle of a load: no request notices, nothing piles up."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.process import GatewayProcess
from tests.kit.servers import jaeger, redis_server
from tests.kit.wire import get

CONFIG = """
workers: {workers}
services: {{s: {{targets: ["{url}"]}}}}
routes: [{{name: all, match: {{path: "/{{rest...}}"}}, service: s}}]
"""
ROOM = 8 * 1024 * 1024  # bytes that a process may grow by for reasons of its own


def metric(gateway: GatewayProcess, name: str) -> float:
    """A metric's sum over its labels."""
    lines = gateway.admin("GET", "/metrics")[1].splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def served(gateway: GatewayProcess, count: int) -> None:
    """Return when so many more requests have been answered."""
    goal = gateway.status()["requests_total"] + count
    gateway.until(lambda: gateway.status()["requests_total"] >= goal, "served")


@pytest.fixture
def collector(stack: ExitStack):
    return stack.enter_context(jaeger())


def test_jaeger_is_killed_and_comes_back(run, load, fast, collector):
    """For so long that more waits than may: that is dropped and told, and costs no memory."""
    config = CONFIG.format(workers=1, url=fast) + f"tracing: {{endpoint: '{collector.url}'}}\n"
    gateway = run(config).ready()
    (worker,) = gateway.workers()
    steady = load(gateway.port, rate=1500, connections=16)
    served(gateway, 500)
    collector.trace(get(gateway.port, "/before").get("x-request-id"))
    assert metric(gateway, "gateway_spans_dropped_total") == 0
    collector.kill()
    gateway.wait_for("spans cannot be sent to")
    gateway.until(lambda: metric(gateway, "gateway_spans_dropped_total") > 0, "full")
    full, dropped = resident(worker), metric(gateway, "gateway_spans_dropped_total")
    served(gateway, 3000)
    assert resident(worker) < full + ROOM
    # A server's and a client's span for each request, but for those that got the places of a batch that was given up.
    assert metric(gateway, "gateway_spans_dropped_total") > dropped + 2 * 2000
    collector.start()
    gateway.wait_for("spans reach .* again")
    account = steady.end()
    assert (account["failures"], account["unanswered"]) == ({}, 0)
    collector.trace(get(gateway.port, "/after").get("x-request-id"))
    assert gateway.workers() == [worker]
    assert gateway.end() == 0


def test_redis_hangs_is_killed_and_comes_back(run, load, fast):
    """Limits and cache are in it; each request waits no longer than the bound of both."""
    plugins = "[{rate_limit: {limit: 1000000/hour, by: route}}, {cache: {store: redis, ttl: 10s}}]"
    with redis_server() as redis:
        config = CONFIG.format(workers=2, url=fast) + f"state: {{redis: '{redis.url}'}}\nplugins: {plugins}\n"
        gateway = run(config).ready()
        steady = load(gateway.port, rate=400, connections=8)
        served(gateway, 200)
        before = {worker: resident(worker) for worker in gateway.workers()}
        for fail, mend in ((redis.pause, redis.resume), (redis.kill, redis.start)):
            errors = metric(gateway, "gateway_ratelimit_store_errors_total")
            fail()
            gateway.until(
                lambda least=errors: metric(gateway, "gateway_ratelimit_store_errors_total") > least, "noticed"
            )
            served(gateway, 200)
            mend()

            def counts():
                errors = metric(gateway, "gateway_ratelimit_store_errors_total")
                served(gateway, 50)
                return metric(gateway, "gateway_ratelimit_store_errors_total") == errors

            gateway.until(counts, "back")
        account = steady.end()
        assert (account["failures"], account["unanswered"]) == ({}, 0)
        assert account["p99_ms"] < 500
        assert set(gateway.workers()) == set(before)
        assert all(resident(worker) < size + ROOM for worker, size in before.items())
        assert gateway.end() == 0
