"""Requests that wait for a worker, in the order in which they shall go. Pure.

``fcfs``: by arrival; a priority of 1 is worth one second. ``wspt`` (weighted shortest processing time first): by
``(1 + priority) / uncached tokens``, the largest first, so that short prompts pass long ones. The keys are Dynamo's.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")


class WaitingQueue(Generic[T]):
    """A bounded priority queue; equal ones in the order in which they came."""

    __slots__ = ("_count", "_gone", "_heap", "_limit", "_policy")

    def __init__(self, policy: str, limit: int) -> None:
        self._policy, self._limit = policy, limit
        self._heap: list[tuple[float, int, T]] = []
        self._gone: set[int] = set()
        self._count = 0

    def __repr__(self) -> str:
        return f"<WaitingQueue {self._policy}, {len(self)} of {self._limit}>"

    def __len__(self) -> int:
        return len(self._heap) - len(self._gone)

    @property
    def full(self) -> bool:
        """True if nothing more may wait."""
        return len(self) >= self._limit

    def push(self, item: T, *, arrived_s: float, priority: int, uncached_tokens: int) -> int:
        """Let a request wait; returns its ticket. Raises `OverflowError` if the queue is full: look at `full`."""
        if self.full:
            raise OverflowError(f"{len(self)} requests wait, which is the limit")
        key = (
            -(1.0 + max(0, priority)) / max(1, uncached_tokens)
            if self._policy == "wspt"
            else arrived_s - priority
        )
        self._count += 1
        heappush(self._heap, (key, self._count, item))
        return self._count

    def leave(self, ticket: int) -> None:
        """One waits no longer; it must not have been popped."""
        self._gone.add(ticket)
        if len(self._gone) > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[1] not in self._gone]
            heapify(self._heap)
            self._gone.clear()

    def pop(self) -> T | None:
        """Take out who is first; None if nobody waits."""
        while self._heap:
            _, ticket, item = heappop(self._heap)
            if ticket not in self._gone:
                return item
            self._gone.discard(ticket)
        return None

    def in_order(self) -> list[T]:
        """Return all that wait, the first first."""
        return [
            item for _, ticket, item in sorted(self._heap, key=lambda e: e[:2]) if ticket not in self._gone
        ]
