"""Requests that wait for a worker, in the order in which they shall go. Pure.

``fcfs``: by arrival; a priority of 1 is worth one second. ``wspt`` (weighted shortest processing time first): by
``(1 + priority) / uncached tokens``, the largest first, so that short prompts pass long ones. The keys are Dynamo's.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class WaitingQueue(Generic[T]):
    """A bounded priority queue; equal ones in the order in which they came."""

    __slots__ = ("_count", "_limit", "_policy", "_waiting")

    def __init__(self, policy: str, limit: int) -> None:
        self._policy, self._limit = policy, limit
        self._waiting: dict[int, tuple[float, T]] = {}
        """By ticket, in the order of arrival."""
        self._count = 0

    def __repr__(self) -> str:
        return f"<WaitingQueue {self._policy}, {len(self)} of {self._limit}>"

    def __len__(self) -> int:
        return len(self._waiting)

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
        self._waiting[self._count] = key, item
        return self._count

    def leave(self, ticket: int) -> None:
        """One waits no longer. Raises `KeyError` for a ticket that has left already."""
        del self._waiting[ticket]

    def in_order(self) -> list[T]:
        """Return all that wait, the first first."""
        return [item for _, item in sorted(self._waiting.values(), key=lambda entry: entry[0])]
