"""Passive health: takes a target out of rotation for a while when its answers fail one after another.

The service tells it the verdict on each attempt. It keeps its state on the Target (`consecutive_failures`,
`ejections`, `ejected_until`) and never looks at what active checks said but to leave one target standing.
"""

from collections.abc import Sequence

from gatewright.upstream.target import Target

MAX_EJECT_SECONDS = 300.0  # Envoy's ceiling (outlier_detection.proto, max_ejection_time)


class Outlier:
    """Ejects a target after `consecutive` failures, the n-th time for n times `eject_seconds`, up to 300 s.

    Each `eject_seconds` that a target then stays in rotation takes one from n. At most the fraction
    `max_ejected` of the targets in rotation is out at a time, though one may always be (Envoy's rule: 10 % of
    three would be none), and the last target that is left is never ejected: so with one target nothing ever
    is. `max_ejected` 0 turns it off.
    """

    __slots__ = ("consecutive", "eject_seconds", "max_ejected")

    def __init__(self, consecutive: int, eject_seconds: float, max_ejected: float) -> None:
        """`consecutive` at least 1; `eject_seconds` above 0; `max_ejected` from 0 to 1."""
        self.consecutive = consecutive
        self.eject_seconds = eject_seconds
        self.max_ejected = max_ejected

    def record(self, target: Target, success: bool, now: float, targets: Sequence[Target]) -> bool:
        """Take the verdict on an attempt at `now` (seconds); return True when it got `target` ejected.

        Failures of a target that is ejected already do not count: they began before, or the panic rule sent
        them.
        """
        if success:
            target.consecutive_failures = 0
            return False
        if target.ejected_until > now:
            return False
        target.consecutive_failures += 1
        if target.consecutive_failures < self.consecutive or not self._may_eject(target, now, targets):
            return False
        self._eject(target, now)
        return True

    def _may_eject(self, target: Target, now: float, targets: Sequence[Target]) -> bool:
        rotation = [other for other in targets if other.weight > 0 and not other.draining]
        ejected = sum(other.ejected_until > now for other in rotation)
        others = sum(other.healthy and other.ejected_until <= now and other is not target for other in rotation)
        # 0.29 * 100 is 28.999…: the small term keeps a whole number whole.
        allowed = max(1, int(self.max_ejected * len(rotation) + 1e-9)) if self.max_ejected > 0 else 0
        return others > 0 and ejected < allowed

    def _eject(self, target: Target, now: float) -> None:
        if target.ejections:
            calm = int((now - target.ejected_until) / self.eject_seconds)
            target.ejections = max(0, target.ejections - calm)
        target.ejections += 1
        target.consecutive_failures = 0
        ceiling = max(MAX_EJECT_SECONDS, self.eject_seconds)
        target.ejected_until = now + min(target.ejections * self.eject_seconds, ceiling)
