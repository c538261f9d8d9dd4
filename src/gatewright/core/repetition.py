"""What a plugin gives for an answer that may be given again to the same request, without anything being run.

Only the shape: plugins have it (`Plugin.repeat`), the proxy hands it on, `net.repeats` lives by it. None of them knows
what the others do: this is what keeps a cache out of the connections' code.
"""

from collections.abc import Callable
from typing import Protocol

from gatewright.core.exchange import Exchange
from gatewright.core.messages import Response


class Repetition(Protocol):
    """An answer that stays the same for a while, but for its ID.

    `until` (seconds of the gateway's clock) is when its head will be another; `renew` sets it.
    """

    until: float

    def renew(self, now: float) -> Response | None:
        """Return the answer as it is from `now` on, complete and with a Date of its own; None: it may not be given."""

    def again(self) -> bytes | None:
        """It is given once more: count that, and return its body; None: it may not be given any more."""


Repeater = Callable[[Exchange], Repetition | None]
