"""The last good answers on disk, so that a restart begins with them while the source is away.

One small file for each thing that is looked for, replaced whole. What cannot be read or written is left: discovery
works without. It holds addresses, no tokens.
"""

import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gatewright.control.discovery.wanted import MAX_WEIGHT, Instance
from gatewright.control.fields import parse_target_url
from gatewright.core.clock import Clock

_log = logging.getLogger("gatewright.discovery")
MAX_AGE = 24 * 3600.0  # an older answer may name addresses that are somebody else's by now
_LARGEST = 16 * 1024 * 1024


class Memory:
    """Keeps answers in a folder; with None it keeps nothing."""

    def __init__(self, folder: Path | None, clock: Clock) -> None:
        self.folder = folder
        self._clock = clock
        self._complained = False

    def load(self, identity: str) -> tuple[Instance, ...] | None:
        """Return what was last found; None where there is nothing, or nothing that can be believed."""
        if self.folder is None:
            return None
        try:
            with self._file(self.folder, identity).open("rb") as file:
                data = json.loads(file.read(_LARGEST))
            age = self._clock.wall() - float(data["at"])
            if data["identity"] != identity or not -MAX_AGE < age < MAX_AGE:
                return None
            return tuple(_instance(url, weight) for url, weight in data["instances"])
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever a damaged file makes of this
            _log.warning("the saved answer in %s cannot be used: %s", self.folder, error)
            return None

    def save(self, identity: str, what: str, instances: Sequence[Instance]) -> None:
        """Keep what was found. Blocks for as long as the disk takes; raises nothing."""
        if self.folder is None:
            return
        data = {"what": what, "identity": identity, "at": self._clock.wall(), "instances": instances}
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix=".", suffix=".tmp", delete=False) as file:
                try:
                    json.dump(data, file)
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(file.name, self._file(self.folder, identity))
                except BaseException:
                    os.unlink(file.name)
                    raise
            self._complained = False
        except OSError as error:
            if not self._complained:
                self._complained = True
                _log.warning("answers cannot be kept in %s: %s", self.folder, error.strerror or error)

    @staticmethod
    def _file(folder: Path, identity: str) -> Path:
        return folder / f"discovery-{identity}.json"


def _instance(url: object, weight: object) -> Instance:
    if not isinstance(url, str) or not isinstance(weight, int) or not 1 <= weight <= MAX_WEIGHT:
        raise ValueError("it names what is no target")
    return Instance(parse_target_url(url), weight)
