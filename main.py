"""The gateway of `gateway.yaml` as an ASGI application: `uvicorn main:app`.

The server owns processes, sockets and shutdown then: `listeners`, `workers`, `admin`, `shutdown` and `watch` of the file
are ignored.
"""

from pathlib import Path

from gatewright import Gateway

app = Gateway.from_file(Path(__file__).with_name("gateway.yaml")).asgi
