"""The demo service behind the gateway, as a factory: service A and service B differ in their name alone.

It has what a gateway must carry: JSON in every method, a stream of server-sent events, a WebSocket. It knows
nothing of the gateway in front of it. Called by service_a/main.py and service_b/main.py.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Body, FastAPI, Query, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import JsonValue

from services.consul import registration
from services.tracing import start_tracing

JsonBody = Annotated[JsonValue, Body()]


def make_service(name: str) -> FastAPI:
    """A demo service that calls itself `name` in every answer."""
    start_tracing(name)
    app = FastAPI(title=name, lifespan=registration)
    _add_health(app, name)
    _add_some_path(app, name)
    _add_events(app, name)
    _add_websocket(app)
    return app


def _add_health(app: FastAPI, name: str) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """What the gateway's health probe asks for."""
        return {"status": "healthy", "service": name}

    @app.get("/headers")
    async def headers(request: Request) -> dict[str, list[list[str]]]:
        """The request's header fields as they arrived here: what the gateway added, kept and removed."""
        return {"headers": [[field, value] for field, value in request.headers.items()]}


def _add_some_path(app: FastAPI, name: str) -> None:
    @app.get("/some-path")
    async def read() -> dict[str, str]:
        return {"message": f"This is {name}"}

    @app.post("/some-path")
    async def create(data: JsonBody) -> dict[str, JsonValue]:
        return {"message": f"POST request to {name}", "data": data}

    @app.put("/some-path")
    async def replace(data: JsonBody) -> dict[str, JsonValue]:
        return {"message": f"PUT request to {name}", "data": data}

    @app.patch("/some-path")
    async def change(data: JsonBody) -> dict[str, JsonValue]:
        return {"message": f"PATCH request to {name}", "data": data}

    @app.delete("/some-path")
    async def delete() -> dict[str, str]:
        return {"message": f"DELETE request to {name}"}


def _add_events(app: FastAPI, name: str) -> None:
    @app.get("/events")
    async def events(
        count: Annotated[int, Query(ge=1, le=1000)] = 5,
        interval: Annotated[float, Query(ge=0, le=10, description="seconds")] = 0.5,
    ) -> StreamingResponse:
        """`count` server-sent events, `interval` seconds apart, then the end."""
        stream = _events(name, count, interval)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _events(name: str, count: int, interval: float) -> AsyncIterator[str]:
    for number in range(1, count + 1):
        yield f'id: {number}\ndata: {{"service": "{name}", "number": {number}}}\n\n'
        if number < count:
            await asyncio.sleep(interval)


def _add_websocket(app: FastAPI) -> None:
    @app.websocket("/ws")
    async def echo(websocket: WebSocket) -> None:
        """Sends every message back as it came, text as text and bytes as bytes."""
        await websocket.accept()
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") is not None:
                await websocket.send_text(message["text"])
            else:
                await websocket.send_bytes(message["bytes"])
