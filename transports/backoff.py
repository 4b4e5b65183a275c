"""How long to wait before the next try. Pure: the random number is given."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ConfigError


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter on the upper half.

    The n-th delay (n from 0) lies between half and all of ``min(longest_s, first_s * 2**n)``.
    """

    first_s: float = 0.1
    longest_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.first_s <= self.longest_s:
            raise ConfigError(
                f"backoff is [{self.first_s}, {self.longest_s}]; it must be [first, longest] with 0 <= first <= longest"
            )

    def delay_s(self, attempt: int, random: float) -> float:
        """Return the delay before try number ``attempt``; ``random`` is in [0, 1).

        >>> Backoff(0.1, 5.0).delay_s(3, 0.5)
        0.6000000000000001
        """
        ceiling: float = min(self.longest_s, self.first_s * 2.0 ** min(attempt, 60))
        return ceiling * (0.5 + random / 2)
