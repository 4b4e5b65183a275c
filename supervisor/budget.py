"""Restart intensity: how often something may be restarted, and how long to wait before. Pure.

Times are seconds of any one clock. A restart counts for ``window_s`` seconds, so that a long quiet time
resets both the budget and the backoff.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .spec import RestartPolicy

JITTER = 0.25
"""How far a wait is shortened at most, so that what died together does not come back together."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The restarts that count now."""

    policy: RestartPolicy
    times: tuple[float, ...] = field(default=())

    def at(self, now: float) -> Budget:
        """The budget without the restarts that no longer count at ``now``."""
        return Budget(self.policy, tuple(time for time in self.times if now - time < self.policy.window_s))

    def spend(self, now: float, random: float = 0.0) -> tuple[Budget, float | None]:
        """Return the budget after one more restart, and the seconds to wait; None if the budget is used up.

        The wait doubles with each restart that counts, between the two limits of the policy; ``random``
        (0 to 1) shortens it by up to `JITTER`.

        >>> budget = Budget(RestartPolicy(max_restarts=2, backoff_s=(0.1, 5.0)))
        >>> budget, first = budget.spend(0.0)
        >>> budget, second = budget.spend(1.0)
        >>> first, second, budget.spend(2.0)[1]
        (0.1, 0.2, None)
        """
        current = self.at(now)
        count = len(current.times)
        if count >= self.policy.max_restarts:
            return current, None
        shortest, longest = self.policy.backoff_s
        wait = longest if count > 60 else min(longest, shortest * 2.0**count)
        return Budget(self.policy, (*current.times, now)), wait * (1 - JITTER * random)

    def __str__(self) -> str:
        return f"{len(self.times)} of {self.policy.max_restarts} restarts in {self.policy.window_s:g} s"
