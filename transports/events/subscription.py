"""Follows every source of a topic: orders what arrives, fetches what is missing, replaces what is too much.

A reader who is slow costs no more than `QUEUED_EVENTS` and one frame: what comes beyond that is dropped, and fetched
when the reader has caught up (or a snapshot, if the source no longer has it).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass, field

from ..backoff import Backoff
from ..errors import TransportError
from .base import EventPlane, PlaneSubscriber, Source
from .errors import BadFrame, SnapshotFailed
from .frames import decode
from .inflow import Events, Inflow, Missing, State, Step
from .outflow import NOTHING

QUEUED_EVENTS = 65_536
"""Events that wait for the reader, of all sources together; besides, at most one snapshot waits per source."""

RETRY = Backoff(0.05, 2.0)

FAILURES_TOLD = 3
"""Snapshots of a source that fail in a row until `EventSubscription.synced` no longer waits for it."""

log = logging.getLogger("callboard.events")


@dataclass(frozen=True, slots=True)
class Gone:
    """A source left."""

    why: str


@dataclass(slots=True, eq=False)
class _Followed:
    source: Source
    inflow: Inflow = field(default_factory=Inflow)
    task: asyncio.Task[None] | None = None
    queued: int = 0
    """Events of it that wait for the reader."""
    overflown: bool = False
    """What waited was dropped; nothing is queued until the reader has caught up."""
    resume_after: int = NOTHING
    """Number of the last event before those that were dropped."""
    known: bool = False
    """Its first state has come."""
    failures: int = 0
    """Snapshots that failed since the last that did not."""
    failure: SnapshotFailed | None = None
    """Why it cannot tell its state, if that has failed several times."""
    interrupted: bool = False
    """Frames may have been lost since the fetch that is under way was asked for: its answer may be older than they."""


class EventSubscription:
    """Use `sources_changed` to say who publishes, and `take` to get what came."""

    def __init__(self, topic: str, *, queued_events: int = QUEUED_EVENTS) -> None:
        self.topic = topic
        self._limit = queued_events
        self._plane: PlaneSubscriber | None = None
        self._followed: dict[int, _Followed] = {}
        self._queue: deque[tuple[Source, Step | Gone]] = deque()
        self._queued = 0
        self._waiter: asyncio.Future[None] | None = None
        self._settled: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.bad_frames = self.overflows = self.fetches = self.failed_fetches = self.lost = 0
        self._gaps = self._duplicates = 0

    def __repr__(self) -> str:
        return f"<EventSubscription {self.topic}, {len(self._followed)} sources, {self._queued} events wait>"

    async def open(self, plane: EventPlane) -> None:
        """Begin. Raises `TransportError`."""
        self._plane = await plane.subscriber(self.topic, self._received)

    # -- who publishes

    def add(self, source: Source) -> None:
        """A source is there; one that is known already is ignored."""
        if source.id in self._followed or self._closed:
            return
        followed = self._followed[source.id] = _Followed(source)
        self._work(followed, follow=True)

    def remove(self, source: Source, why: str) -> None:
        """A source is gone."""
        followed = self._followed.pop(source.id, None)
        if followed is None:
            return
        self._count(followed.inflow)
        if followed.task is not None:
            followed.task.cancel()
        assert self._plane is not None
        self._plane.unfollow(source)
        self._put(source, Gone(why), 0)
        self._check_settled()

    def resync(self, source: Source) -> None:
        """Have a source tell everything again: what came of it did not make sense."""
        followed = self._followed.get(source.id)
        if followed is None or (followed.inflow.fetching and followed.inflow.has == NOTHING):
            return
        followed.inflow.restart(forget=True)
        followed.resume_after = NOTHING
        self._work(followed)

    # -- what comes

    def _received(self, source: Source, data: bytes) -> None:
        followed = self._followed.get(source.id)
        if followed is None:
            return
        if not data:  # the way there was interrupted
            followed.interrupted = True
            if not followed.inflow.fetching:
                followed.inflow.restart(forget=False)
            self._work(followed)
            return
        try:
            frame = decode(data)
        except BadFrame as error:
            self.bad_frames += 1
            log.warning("%s of %s: %s", self.topic, source.name, error)
            return
        if frame.source != source.id:
            self.bad_frames += 1
            return
        self._pass_on(followed, followed.inflow.arrived(frame))
        self._work(followed)

    def _pass_on(self, followed: _Followed, steps: list[Step]) -> None:
        for step in steps:
            if followed.overflown:  # it will be fetched again
                return
            if isinstance(step, Events) and not step.values:
                continue
            if isinstance(step, State):
                self._discard(followed)  # it replaces what waits, so that at most one waits per source
                followed.known = True
            elif self._queued > self._limit:
                self._overflow(followed, step.first - 1)
                return
            if isinstance(step, Missing):
                self.lost += step.last - step.first + 1
            size = len(step.values) if isinstance(step, Events) else 0
            followed.queued += size
            self._put(followed.source, step, size)

    def _put(self, source: Source, step: Step | Gone, size: int) -> None:
        self._queued += size
        self._queue.append((source, step))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _overflow(self, followed: _Followed, after: int) -> None:
        """The reader is too slow: take nothing more of this source, and fetch what is after ``after`` when it has read.

        What waits already stays, so that a reader gets on however little may wait.
        """
        self.overflows += 1
        followed.overflown = True
        followed.resume_after = after

    def _discard(self, followed: _Followed) -> None:
        """Forget what waits of a source."""
        self._queued -= followed.queued
        followed.queued = 0
        source = followed.source
        self._queue = deque(
            entry for entry in self._queue if entry[0] is not source or isinstance(entry[1], Gone)
        )

    # -- what is fetched

    def _work(self, followed: _Followed, *, follow: bool = False) -> None:
        if followed.task is None and (follow or followed.inflow.fetching) and not followed.overflown:
            task = asyncio.get_running_loop().create_task(
                self._catch_up(followed, follow), name=f"events of {followed.source.name}", context=Context()
            )
            followed.task = task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _catch_up(self, followed: _Followed, follow: bool) -> None:
        assert self._plane is not None
        failures = 0
        try:
            while follow or (followed.inflow.fetching and not followed.overflown):
                try:
                    if follow:
                        await self._plane.follow(followed.source)
                        follow = False
                    self.fetches += 1
                    await self._fetch(followed, self._plane)
                    failures = followed.failures = 0
                    followed.failure = None
                except Exception as error:  # whatever a plane raises, the source is asked again
                    self.failed_fetches += 1
                    followed.inflow.failed()
                    self._note(followed, error, failures)
                    await asyncio.sleep(RETRY.delay_s(failures, random.random()))
                    failures += 1
        finally:
            followed.task = None
        followed.known = True
        self._check_settled()

    def _note(self, followed: _Followed, error: Exception, before: int) -> None:
        name = followed.source.name
        if isinstance(error, SnapshotFailed):
            followed.failures += 1
            if followed.failures == FAILURES_TOLD:
                log.warning("%s: %s", name, error)
            if followed.failures >= FAILURES_TOLD:
                followed.failure = error
                self._check_settled()
        elif before or isinstance(error, TransportError | OSError):
            log.debug("%s: %s", name, error)
        else:
            log.error("%s cannot be followed, and is tried again: %r", name, error, exc_info=error)

    async def _fetch(self, followed: _Followed, plane: PlaneSubscriber) -> None:
        inflow = followed.inflow
        rewinds, followed.interrupted = inflow.rewinds, False
        async for data in plane.fetch(followed.source, inflow.has):
            if inflow.rewinds != rewinds:  # this answers a question that is no longer asked
                return
            self._pass_on(followed, inflow.fetched(decode(data)))
        if inflow.rewinds == rewinds:
            self._pass_on(followed, inflow.complete())
            if followed.interrupted:
                inflow.restart(forget=False)

    # -- the reader

    async def take(self) -> list[tuple[Source, Step | Gone]]:
        """Return what came since, waiting for something; empty when the subscription was closed."""
        while not self._queue and not self._closed:
            self._resume()  # all that there was may have been dropped
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        taken, self._queue, self._queued = list(self._queue), deque(), 0
        for followed in self._followed.values():
            followed.queued = 0
        self._resume()
        return taken

    def _resume(self) -> None:
        """The reader has room again: fetch anew what was dropped."""
        for followed in self._followed.values():
            if followed.overflown:
                followed.overflown = False
                followed.inflow.rewind(followed.resume_after)
                self._work(followed)

    async def synced(self) -> None:
        """Return when every source that is known now has told its state, or left.

        Raises `SnapshotFailed` when all others have, and one cannot: its snapshot function failed `FAILURES_TOLD` times
        in a row.
        """
        if self._is_settled():
            self._raise_failure()
            return
        future = asyncio.get_running_loop().create_future()
        self._settled.append(future)
        await future
        self._raise_failure()

    def _is_settled(self) -> bool:
        return all(followed.known or followed.failure for followed in self._followed.values())

    def _raise_failure(self) -> None:
        for followed in self._followed.values():
            if not followed.known and followed.failure is not None:
                raise SnapshotFailed(followed.failure.topic, followed.failure.why)

    def _check_settled(self) -> None:
        if self._is_settled():
            settled, self._settled = self._settled, []
            for future in settled:
                if not future.done():
                    future.set_result(None)

    def _count(self, inflow: Inflow) -> None:
        self._gaps += inflow.gaps
        self._duplicates += inflow.duplicates

    def statistics(self) -> Mapping[str, int]:
        """Counters since the start."""
        inflows = [followed.inflow for followed in self._followed.values()]
        below = {} if self._plane is None else self._plane.statistics()
        return {
            "sources": len(self._followed),
            "queued": self._queued,
            "gaps": self._gaps + sum(inflow.gaps for inflow in inflows),
            "duplicates": self._duplicates + sum(inflow.duplicates for inflow in inflows),
            "fetches": self.fetches,
            "failed_fetches": self.failed_fetches,
            "overflows": self.overflows,
            "lost": self.lost,
            "bad_frames": self.bad_frames,
            **below,
        }

    async def close(self) -> None:
        """Follow no more; idempotent. Whoever waits in `take` gets nothing."""
        if self._closed:
            return
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._plane is not None:
            await self._plane.close()
        for future in (self._waiter, *self._settled):
            if future is not None and not future.done():
                future.set_result(None)
