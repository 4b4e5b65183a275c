"""The message that is being handled: its deadline and its chain of waiting actors, for nested asks."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from .mailbox import Letter

CURRENT: ContextVar[Letter | None] = ContextVar("callboard_current_letter", default=None)


def remaining_s(now: float) -> float | None:
    """Seconds that the current message has left at ``now`` (monotonic clock), or None without a deadline."""
    letter = CURRENT.get()
    if letter is None or letter.deadline == float("inf"):
        return None
    deadline: float = letter.deadline
    return deadline - now


def is_cancelled() -> bool:
    """True if whoever asked for the message that is being handled has left; for blocking handlers."""
    letter = CURRENT.get()
    return letter is not None and letter.cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFacts:
    """What is known of a durable message while it is handled."""

    sequence: int
    """Its place among the stored messages of the component; another delivery of it has the same."""
    count: int
    """Which delivery of it this is, from 1; above 1 its handler may have run before, in part or in full."""
    message_id: str
    stored_at_s: float
    """When it was stored, in seconds since 1970, by the clock of the store."""


def delivery() -> DeliveryFacts | None:
    """Facts of the durable message that is being handled; None for any other message."""
    letter = CURRENT.get()
    return None if letter is None else letter.delivery
