"""Open asks of one node: who waits for which id, until when. Pure: the clock and the timer are given.

Deadlines cost one comparison per ask: only the nearest one is remembered, and the table is swept when it
comes. Under a uniform timeout that is about once per timeout, whatever the rate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

INFINITE = float("inf")


class Call(msgspec.Struct, eq=False):
    """One open ask."""

    future: asyncio.Future[Any]
    route: Any
    """The `Outlet` it went through."""
    deadline: float
    method: str


class PendingTable:
    """Ids to open asks. ``calls`` is read directly on the hot path."""

    __slots__ = ("arm", "calls", "late", "nearest")

    def __init__(self, arm: Callable[[float], None]) -> None:
        self.calls: dict[int, Call] = {}
        self.nearest = INFINITE
        self.late = 0
        """Answers that came after their caller had left; counted, never logged."""
        self.arm = arm

    def __len__(self) -> int:
        return len(self.calls)

    def __repr__(self) -> str:
        return f"<PendingTable {len(self.calls)} open, {self.late} late>"

    def add(self, call_id: int, call: Call) -> None:
        """Enter an ask; arms the timer if its deadline is the nearest."""
        self.calls[call_id] = call
        if call.deadline < self.nearest:
            self.nearest = call.deadline
            self.arm(call.deadline)

    def expired(self, now: float) -> list[tuple[int, Call]]:
        """Take out every ask whose deadline has passed, and arm the timer for the next."""
        over = [(call_id, call) for call_id, call in self.calls.items() if call.deadline <= now]
        for call_id, _ in over:
            del self.calls[call_id]
        self.nearest = min((call.deadline for call in self.calls.values()), default=INFINITE)
        if self.nearest != INFINITE:
            self.arm(max(self.nearest, now + 0.002))
        return over

    def take_all(self) -> list[Call]:
        """Take out every ask."""
        calls = list(self.calls.values())
        self.calls.clear()
        return calls
