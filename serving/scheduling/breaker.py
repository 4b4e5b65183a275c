"""Workers that failed get nothing for a while, then one request as a probe. Pure; the time is given.

    closed --failed--> open for inhibit_s --time over--> half-open: one probe --succeeded--> closed
                         ^                                     |
                         +------------ failed: twice as long --+

If every candidate is open, the one that may be tried soonest is tried much earlier: waiting for a worker that is well
again costs more than one failed attempt. This is so for a single worker, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FIRST_EAGER_S = 0.05
"""First pause of a worker when there is no other; doubled after each failed probe, up to the full inhibition."""


@dataclass(slots=True)
class _Inhibited:
    until_s: float
    eager_s: float
    """When it may be probed if there is nobody else."""
    failures: int
    probing: bool = False


class Breaker:
    """Which workers may be chosen. With ``inhibit_s`` 0 all of them, always."""

    __slots__ = ("_inhibit_s", "_max_s", "_workers", "inhibitions", "probes")

    def __init__(self, inhibit_s: float, max_s: float) -> None:
        self._inhibit_s, self._max_s = inhibit_s, max(inhibit_s, max_s)
        self._workers: dict[int, _Inhibited] = {}
        self.inhibitions = self.probes = 0

    def __repr__(self) -> str:
        return f"<Breaker {sorted(self._workers)} inhibited>"

    @property
    def inhibited(self) -> list[int]:
        """The workers that failed and have not succeeded since."""
        return sorted(self._workers)

    def allowed(self, workers: Iterable[int], now_s: float) -> list[int]:
        """Return those that may be chosen now, in the order given; choose one and call `chosen`."""
        candidates = list(workers)
        if not self._workers:
            return candidates
        found = [worker for worker in candidates if self._may(worker, now_s)]
        return found or [worker for worker in candidates if self._may_eagerly(worker, now_s)]

    def next_change_s(self, workers: Iterable[int], now_s: float) -> float | None:
        """When one of these may be probed that may not be now; None if time alone changes nothing."""
        waits = [self._workers[worker] for worker in workers if worker in self._workers]
        times = (at_s for entry in waits if not entry.probing for at_s in (entry.eager_s, entry.until_s))
        return min((at_s for at_s in times if at_s > now_s), default=None)

    def chosen(self, worker: int) -> bool:
        """A request goes there; True if the worker was inhibited, which makes the request its probe."""
        entry = self._workers.get(worker)
        if entry is None:
            return False
        entry.probing = True
        self.probes += 1
        return True

    def failed(self, worker: int, now_s: float) -> None:
        """A request failed there."""
        if self._inhibit_s <= 0:
            return
        entry = self._workers.get(worker)
        if entry is not None and not entry.probing:
            return  # requests that were there when it failed fail with it: that is one failure
        failures = entry.failures + 1 if entry is not None else 1
        pause_s = min(self._max_s, self._inhibit_s * 2.0 ** min(failures - 1, 32))
        eager_s = min(pause_s, FIRST_EAGER_S * 2.0 ** min(failures - 1, 32))
        self._workers[worker] = _Inhibited(now_s + pause_s, now_s + eager_s, failures)
        self.inhibitions += 1

    def abandoned(self, worker: int) -> None:
        """The probe ended without showing anything (its caller left): another request may be it."""
        entry = self._workers.get(worker)
        if entry is not None:
            entry.probing = False

    def succeeded(self, worker: int) -> None:
        """A token came from there."""
        if self._workers:
            self._workers.pop(worker, None)

    def forget(self, worker: int) -> None:
        """It is another incarnation, or gone."""
        self._workers.pop(worker, None)

    def _may(self, worker: int, now_s: float) -> bool:
        entry = self._workers.get(worker)
        return entry is None or (not entry.probing and now_s >= entry.until_s)

    def _may_eagerly(self, worker: int, now_s: float) -> bool:
        entry = self._workers[worker]
        return not entry.probing and now_s >= entry.eager_s
