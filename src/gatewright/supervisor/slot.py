"""A worker's place in the crew: there are as many as the configuration says, and some may be empty."""

import asyncio

from gatewright.supervisor.process import State, WorkerProcess


class Slot:
    """One worker's place: who is in it, and how it fared."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.worker: WorkerProcess | None = None
        self.restarts = 0
        self.task: asyncio.Task[None] | None = None
        self.hurry = asyncio.Event()  # there is another configuration: who failed with the former one may do with it

    @property
    def is_starting(self) -> bool:
        """Tell whether there is a worker that does not serve yet."""
        return self.worker is not None and self.worker.state is State.STARTING
