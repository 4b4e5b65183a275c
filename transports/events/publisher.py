"""One source at work: what is sent in one turn of the event loop goes out together at its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from ..errors import Closed
from .base import EventPlane, PlanePublisher, Source
from .errors import SnapshotFailed
from .outflow import Outflow, Snapshot

MARKS_S = (0.25, 1.0, 4.0, 16.0, 60.0)
"""When a source that has fallen silent says which number comes next, so that a loss at the end is noticed; then again
after each last pause."""

SNAPSHOT_EVERY = 1024
"""Events after which a plane that keeps snapshots itself gets a new one."""

log = logging.getLogger("callboard.events")


class EventPublisher:
    """Sends events as bytes."""

    def __init__(self, topic: str, source: int, snapshot: Snapshot | None = None) -> None:
        self._outflow = Outflow(topic, source, snapshot)
        self._plane: PlanePublisher | None = None
        self._flushing = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._mark = 0
        self._told_after = -1
        self.frames = 0

    def __repr__(self) -> str:
        return f"<EventPublisher {self._outflow}{', closed' if self._closed else ''}>"

    @property
    def source(self) -> Source:
        """What discovery must know of it."""
        assert self._plane is not None
        return self._plane.source

    async def open(self, plane: EventPlane, source: Source) -> None:
        """Begin. Raises `TransportError`."""
        self._plane = await plane.publisher(source, self._answer, SNAPSHOT_EVERY)

    def send(self, event: bytes) -> int:
        """Send an event; returns its number. Never blocks. Raises `Closed`, `EventTooLarge`."""
        if self._closed:
            raise Closed(self._outflow.topic, "this publisher was closed")
        number = self._outflow.add(event)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)
        return number

    def _flush(self) -> None:
        self._flushing = False
        if self._plane is None:
            return
        frames = self._outflow.take()
        for frame in frames:
            self.frames += 1
            self._plane.send(frame)
        if frames:
            self._mark = 0
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        pause_s = MARKS_S[min(self._mark, len(MARKS_S) - 1)]
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._say_next)

    def _say_next(self) -> None:
        """Nothing was sent for a while: say which number comes next."""
        assert self._plane is not None
        self._plane.send(self._outflow.next_number())
        self._mark += 1
        self._arm()

    async def _answer(self, after: int) -> list[bytes]:
        self._flush()  # the answer goes up to the last event, and what follows continues it
        try:
            return self._outflow.answer(after)
        except SnapshotFailed as error:
            # It comes again with every subscriber that asks again: told once, until one succeeds.
            if self._told_after != self._outflow.snapshots:
                self._told_after = self._outflow.snapshots
                log.exception("%s: %s", self.source.name, error)
            raise

    def statistics(self) -> Mapping[str, int]:
        """Counters since the start."""
        below = {} if self._plane is None else self._plane.statistics()
        outflow = self._outflow
        return {
            "events": outflow.last,
            "frames": self.frames,
            "snapshots": outflow.snapshots,
            "failed_snapshots": outflow.failed_snapshots,
            **below,
        }

    async def close(self) -> None:
        """Send what waits, and leave; idempotent."""
        if self._closed:
            return
        self._flush()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._plane is not None:
            await self._plane.close()
