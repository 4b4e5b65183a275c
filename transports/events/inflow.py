"""The receiving side of one source: in order, once, without a gap, or with a snapshot that closes it.

Pure: whoever owns it gives it what arrives and what was fetched, and fetches when it says so.

    nothing yet ──fetch──▶ live ──gap──▶ fetch ──▶ live
                           what arrives meanwhile is kept, within a bound
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .frames import Frame, Kind
from .outflow import NOTHING

WAITING_EVENTS = 65_536
"""Events that are kept while something is fetched; beyond, they are dropped, and fetched after that."""


@dataclass(frozen=True, slots=True)
class Events:
    """Events with the numbers from ``first`` on."""

    first: int
    values: list[bytes]


@dataclass(frozen=True, slots=True)
class State:
    """What stands for every event up to ``number``."""

    number: int
    values: list[bytes]


@dataclass(frozen=True, slots=True)
class Missing:
    """Events that nobody has any more, from ``first`` to ``last``."""

    first: int
    last: int


Step = Events | State | Missing


class Inflow:
    """Begins with a fetch."""

    def __init__(self) -> None:
        self.has = NOTHING
        """Number of the last event that was passed on, or that a snapshot stood for."""
        self.fetching = True
        """Something is to be fetched: everything after `has`."""
        self._waiting: deque[Frame] = deque()
        self._waiting_events = 0
        self._carried = 0
        """Of those that wait: how many a whole fetch has not caught up with."""
        self._parts: list[bytes] = []
        self.gaps = self.duplicates = self.dropped = self.rewinds = 0

    def __repr__(self) -> str:
        return f"<Inflow has {self.has}, {'fetches' if self.fetching else 'live'}>"

    def arrived(self, frame: Frame) -> list[Step]:
        """A frame came by itself."""
        if frame.kind is not Kind.EVENTS:  # nobody sends a snapshot that was not asked for
            return []
        if self.fetching:
            self._keep(frame)
            return []
        return self._apply(frame)

    def fetched(self, frame: Frame) -> list[Step]:
        """A frame of the answer came; call `complete` after the last."""
        if frame.kind is not Kind.EVENTS:
            self._parts += frame.events
            if frame.kind is Kind.STATE:
                return []
            parts, self._parts = self._parts, []
            self.has = frame.first
            return [State(frame.first, parts)]
        if self.has == NOTHING:
            self.has = frame.first - 1
        steps: list[Step] = []
        if frame.first > self.has + 1:  # not even the source has them
            steps.append(Missing(self.has + 1, frame.first - 1))
            self.has = frame.first - 1
        return steps + self._in_order(frame)

    def complete(self) -> list[Step]:
        """The answer is complete: go on with what arrived meanwhile."""
        self._parts = []
        self.fetching = self.has == NOTHING
        waiting, self._waiting, self._waiting_events = self._waiting, deque(), 0
        if self.fetching:
            return []
        steps: list[Step] = []
        carried, self._carried = self._carried, 0
        for at, frame in enumerate(waiting):
            if (
                at < carried and frame.first > self.has + 1
            ):  # it was there before the fetch: its number is made up
                self.dropped += len(frame.events)
                continue
            steps += self.arrived(frame)
        self._carried = len(self._waiting)
        return steps

    def failed(self) -> None:
        """The answer broke off; what came of it counts, the rest is to be fetched again."""
        self._parts = []

    def restart(self, *, forget: bool) -> None:
        """Fetch what is after `has`, or with ``forget`` everything: the reader has lost it."""
        if forget:
            self.rewind(NOTHING)
        self.fetching = True

    def rewind(self, after: int) -> None:
        """Fetch what is after a number, again: the reader has lost it. An answer that is under way counts no more."""
        self.has, self.fetching = after, True
        self._parts = []
        self.rewinds += 1

    def _apply(self, frame: Frame) -> list[Step]:
        if frame.first > self.has + 1:
            self.gaps += 1
            self.fetching = True
            self._keep(frame)
            return []
        return self._in_order(frame)

    def _in_order(self, frame: Frame) -> list[Step]:
        known = self.has + 1 - frame.first
        if known >= len(frame.events):
            self.duplicates += len(frame.events)
            return []
        self.duplicates += known
        values = frame.events[known:] if known else frame.events
        first = self.has + 1
        self.has = frame.last
        return [Events(first, values)]

    def _keep(self, frame: Frame) -> None:
        self._waiting.append(frame)
        self._waiting_events += max(1, len(frame.events))
        while self._waiting_events > WAITING_EVENTS:
            gone = self._waiting.popleft()
            self._carried = max(0, self._carried - 1)
            self._waiting_events -= max(1, len(gone.events))
            self.dropped += len(gone.events)
