"""How long the readers of one node waited for the first items of their streams."""

from __future__ import annotations


class FirstItems:
    """Count, sum and maximum of these times, in seconds."""

    __slots__ = ("count", "most_s", "total_s")

    def __init__(self) -> None:
        self.count = 0
        self.total_s = self.most_s = 0.0

    def note(self, seconds: float) -> None:
        """One stream has begun."""
        self.count += 1
        self.total_s += seconds
        self.most_s = max(self.most_s, seconds)

    def statistics(self) -> dict[str, float]:
        """As plain data; the mean is 0 before the first one."""
        mean_s = self.total_s / self.count if self.count else 0.0
        return {"streams": self.count, "mean_s": mean_s, "max_s": self.most_s}
