"""What all workers run, and why they cannot. The crew has one plan; configurations make them."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gatewright.supervisor.messages import Fault
from gatewright.supervisor.process import WorkerProcess
from gatewright.supervisor.sockets import Listening


@dataclass(slots=True)
class Plan:
    """What every worker runs: a configuration's resolved data and the sockets of its listeners."""

    data: dict[str, Any]
    base_dir: str
    version: str
    listeners: list[Listening]
    workers: int
    paths: dict[str, str]  # of the routes, by name, without secrets
    contents: dict[str, bytes] = field(default_factory=dict)  # of the files that it was made from, by path

    def give(self, worker: WorkerProcess, index: int) -> tuple[list[tuple[int, int]], list[socket.socket]]:
        """Return the sockets of place `index` that the worker is still to be given, and how many of them belong to
        which listener.
        """
        counts, sockets = [], []
        for number, listening in enumerate(self.listeners):
            share = [sock for sock in listening.share(index, self.workers) if sock not in worker.held]
            if share:
                counts.append((number, len(share)))
                sockets += share
        worker.held.update(sockets)
        return counts, sockets


class StartFailed(Exception):
    """A configuration cannot be run; `faults` have key paths, `text` is what has none."""

    def __init__(self, faults: Sequence[Fault], text: str = "") -> None:
        self.faults = faults
        self.text = text
        super().__init__("; ".join([*(fault.message for fault in faults), *([text] if text else [])]))
