"""The demo's items: a FastAPI application that the gateway serves in its own process, with no socket between.

It is an ordinary application and knows nothing of that: `python -m uvicorn services.items.main:app` runs it
alone.
"""

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI(title="items")


class Item(BaseModel):
    """What `GET /items/{item_id}` answers."""

    id: int
    name: str
    description: str


@app.get("/items/{item_id}")
async def read_item(item_id: int) -> Item:
    """The item with this number; every number has one."""
    return Item(id=item_id, name=f"Item {item_id}", description=f"The description of item {item_id}")
