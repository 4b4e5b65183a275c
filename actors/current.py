"""The message that is being handled: its deadline and its chain of waiting actors, for nested asks."""

from __future__ import annotations

from contextvars import ContextVar

from .mailbox import Letter

CURRENT: ContextVar[Letter | None] = ContextVar("callboard_current_letter", default=None)


def remaining_s(now: float) -> float | None:
    """Seconds that the current message has left at ``now`` (monotonic clock), or None without a deadline."""
    letter = CURRENT.get()
    if letter is None or letter.deadline == float("inf"):
        return None
    return letter.deadline - now


def is_cancelled() -> bool:
    """True if whoever asked for the message that is being handled has left; for blocking handlers."""
    letter = CURRENT.get()
    return letter is not None and letter.cancelled
