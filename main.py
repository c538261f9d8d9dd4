"""The gateway of `gateway.yaml` as an ASGI application: `uvicorn main:app`.

The server owns processes, sockets and shutdown then: `listeners`, `workers`, `admin`, `shutdown` and `watch` of the
file are ignored. A configuration that is not good ends the server, and is told.
"""

from pathlib import Path

from gatewright import ConfigurationError, Gateway

try:
    app = Gateway.from_file(Path(__file__).with_name("gateway.yaml")).asgi
except ConfigurationError as error:
    raise SystemExit(f"gatewright: {error}") from None
