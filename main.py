"""The gateway of `gateway.yaml` as an ASGI application: `uvicorn main:app`."""

from pathlib import Path

from gatewright import Gateway

app = Gateway.from_file(Path(__file__).with_name("gateway.yaml")).asgi
