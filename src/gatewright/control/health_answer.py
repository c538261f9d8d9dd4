"""The answer of a route with `health`: how the services fare, from what the health checks found last.

Asks nobody: it reads the targets' state, which the checks keep. Addresses are not told, because clients can see this.
The snapshot's builder calls it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gatewright.core.exchange import Exchange
from gatewright.core.messages import Response
from gatewright.upstream.service import Service

_encode = msgspec.json.Encoder().encode


def health_answer(services: Mapping[str, Service]) -> Callable[[Exchange], Response]:
    """Return what answers a request with the state of `services`: 503 when none of them can serve, else 200."""

    def answer(exchange: Exchange) -> Response:
        report = health_of(services)
        status = 503 if report["status"] == "unhealthy" else 200
        headers = {"content-type": "application/json", "cache-control": "no-store"}
        return Response(status, headers, _encode(report))

    return answer


def health_of(services: Mapping[str, Service]) -> dict[str, Any]:
    """Return the report: `status` is healthy when all services can serve, degraded when some, unhealthy when none."""
    details = {name: _service(service) for name, service in services.items()}
    well = sum(detail["healthy"] for detail in details.values())
    status = "healthy" if well == len(details) else "degraded" if well else "unhealthy"
    flat: dict[str, bool] = {}
    for name, detail in details.items():
        key = f"{name.replace('-', '_').replace('.', '_')}_healthy"
        flat[key] = flat.get(key, True) and detail["healthy"]
    return {"status": status, **flat, "services": details}


def _service(service: Service) -> dict[str, Any]:
    targets = service.targets
    serving = any(target.healthy and not target.draining and target.weight > 0 for target in targets)
    counts = {"healthy": sum(target.healthy for target in targets), "total": len(targets)}
    return {"healthy": serving, "targets": counts}
