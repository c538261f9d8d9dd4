"""What is to be done for one request that no fresh entry answers, and what became of it, as Cache-Status tells it.

The plugin makes one in the request phase and leaves it in the exchange until the end.
"""

from typing import TYPE_CHECKING

from gatewright.plugins.cache.entry import Entry
from gatewright.plugins.cache.filling import Filling
from gatewright.plugins.cache.request import Facts
from gatewright.plugins.cache.store import Slot

if TYPE_CHECKING:
    from gatewright.plugins.cache.redis_store import Token


class Plan:
    """What is to be done for one request that no fresh entry answers."""

    __slots__ = (
        "collapsed",
        "detail",
        "entry",
        "facts",
        "filling",
        "forwarded",
        "personal",
        "slot",
        "stale",
        "status",
        "stored",
        "token",
        "validated",
    )

    def __init__(self, slot: Slot, facts: Facts, personal: int, entry: Entry | None, forwarded: str) -> None:
        self.slot = slot
        self.facts = facts
        self.personal = personal
        self.entry = entry  # what there is for it, stale
        self.forwarded = forwarded  # why it goes to the target: RFC 9211 section 2.2
        self.filling: Filling | None = None
        self.status: int | None = None  # the target's
        self.stored = False
        self.collapsed = False
        self.validated = False  # the target has said that the entry is good
        self.stale = False  # the entry is served although it is not
        self.detail = ""
        self.token: Token | None = None  # what Redis gave when it was asked

    def told(self) -> str:
        """Return the value of Cache-Status (RFC 9211)."""
        text = f"gatewright; fwd={self.forwarded}"
        if self.status is not None:
            text += f"; fwd-status={self.status}"
        if self.stored:
            text += "; stored"
        if self.collapsed:
            text += "; collapsed"
        return text + (f"; detail={self.detail}" if self.detail else "")

    @property
    def result(self) -> str:
        """One word for logs and metrics: miss, validated, stale, collapsed or pass (nothing could be stored)."""
        if self.collapsed:
            return "collapsed"
        if self.stale:
            return "stale"
        if self.validated:
            return "validated"
        return "pass" if self.forwarded == "bypass" else "miss"
