"""The sending side of one source: numbers, what waits for the end of this turn, and what is kept for latecomers.

Pure: whoever owns it sends what `take` returns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from .errors import EventTooLarge, SnapshotFailed
from .frames import EVENT_BYTES, Kind, encode, split

KEPT_EVENTS = 4096
KEPT_BYTES = 4 * 1024 * 1024

NOTHING = -1
"""What a subscriber says it has, when it has nothing."""

Snapshot = Callable[[], Iterable[bytes]]


class Outflow:
    """Numbers events from 1, and answers a subscriber that lacks some.

    The last ``kept_events`` are kept, up to ``kept_bytes``. Whoever lacks older ones gets a snapshot, if there is a
    ``snapshot`` function: it returns events that rebuild all that the events so far have said.
    """

    def __init__(
        self,
        topic: str,
        source: int,
        snapshot: Snapshot | None = None,
        *,
        kept_events: int = KEPT_EVENTS,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.topic, self.source = topic, source
        self.last = 0
        """Number of the last event."""
        self._snapshot = snapshot
        self._fresh: list[bytes] = []
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._most_events, self._most_bytes = kept_events, kept_bytes
        self.snapshots = self.failed_snapshots = 0

    def __repr__(self) -> str:
        return f"<Outflow {self.topic} at {self.last}, {len(self._kept)} kept>"

    def add(self, event: bytes) -> int:
        """Take an event; returns its number. Raises `EventTooLarge`."""
        if len(event) > EVENT_BYTES:
            raise EventTooLarge(self.topic, len(event), EVENT_BYTES)
        self.last += 1
        self._fresh.append(event)
        self._kept.append(event)
        self._kept_bytes += len(event)
        while len(self._kept) > self._most_events or self._kept_bytes > self._most_bytes:
            self._kept_bytes -= len(self._kept.popleft())
        return self.last

    def take(self) -> list[bytes]:
        """Return the frames of the events that were added since."""
        fresh, self._fresh = self._fresh, []
        return split(Kind.EVENTS, self.source, self.last - len(fresh) + 1, fresh) if fresh else []

    def next_number(self) -> bytes:
        """Return a frame without events, which says which number comes next."""
        return encode(Kind.EVENTS, self.source, self.last + 1, [])

    def answer(self, after: int) -> list[bytes]:
        """Return the frames for a subscriber that has all events up to ``after``, or `NOTHING`.

        Raises `SnapshotFailed`.
        """
        oldest = self.last - len(self._kept) + 1
        if 0 <= after <= self.last and after + 1 >= oldest:
            kept = list(self._kept)[after + 1 - oldest :]
            return split(Kind.EVENTS, self.source, after + 1, kept)
        if self._snapshot is not None:
            state = self._state(self._snapshot)
            self.snapshots += 1
            return split(Kind.STATE_END, self.source, self.last, state)
        if after == NOTHING:
            return split(Kind.EVENTS, self.source, self.last + 1, [])
        return split(Kind.EVENTS, self.source, oldest, list(self._kept))

    def _state(self, snapshot: Snapshot) -> list[bytes]:
        try:
            state = list(snapshot())
            for value in state:
                if len(value) > EVENT_BYTES:
                    raise EventTooLarge(self.topic, len(value), EVENT_BYTES)
        except Exception as error:
            self.failed_snapshots += 1
            raise SnapshotFailed(self.topic, f"{type(error).__name__}: {error}") from error
        return state
