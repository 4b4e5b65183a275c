"""Is the event loop of a process alive? Pure bookkeeping of questions and answers; see `Health`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path


class Health(Enum):
    """What the answers of a process say."""

    ALIVE = "alive"
    STALLED = "stalled"
    """The process runs, but its event loop does not answer: a handler blocks it."""
    FROZEN = "frozen"
    """The process is stopped by a signal."""


class Liveness:
    """Questions asked of one process, and how long the oldest has gone without an answer."""

    def __init__(self) -> None:
        self.health = Health.ALIVE
        self._number = 0
        self._answered = 0
        self._silent_since: float | None = None

    def ask(self, now: float) -> int:
        """Return the number of a new question."""
        self._number += 1
        if self._silent_since is None:
            self._silent_since = now
        return self._number

    def answer(self, number: int) -> None:
        """An answer came; answers to older questions than the newest still show life."""
        if self._answered < number <= self._number:
            self._answered = number
            self._silent_since = None

    def silent_s(self, now: float) -> float:
        """How long the oldest question without any answer after it has waited."""
        return 0.0 if self._silent_since is None else now - self._silent_since

    def forgive(self) -> None:
        """We ourselves were not running: what went unanswered meanwhile says nothing."""
        self._silent_since = None

    def __repr__(self) -> str:
        return f"<Liveness {self.health.value}, {self._number - self._answered} unanswered>"


def judge(silent_s: float, limit_s: float, *, stopped: bool) -> Health:
    """Frozen after half of the limit if the system says that the process is stopped, stalled after all of it.

    >>> judge(1.5, 2.0, stopped=True), judge(1.5, 2.0, stopped=False), judge(2.5, 2.0, stopped=False)
    (<Health.FROZEN: 'frozen'>, <Health.ALIVE: 'alive'>, <Health.STALLED: 'stalled'>)
    """
    if stopped and silent_s >= limit_s / 2:
        return Health.FROZEN
    return Health.STALLED if silent_s >= limit_s else Health.ALIVE


def is_stopped(pid: int) -> bool:
    """True if the process is stopped by a signal or a debugger; False where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    return bool(fields) and fields[0] in "Tt"
