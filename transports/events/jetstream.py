"""Events over NATS that JetStream keeps: a subscriber is served also while the source is frozen, away or gone.

Frames travel as on the plane ``nats``. One stream per topic keeps them, and a bucket of the object store a snapshot of
each source, which the source writes anew after so many events. What a subscriber has missed it reads there: the
snapshot, if it lacks more than the stream has, then the frames behind it. What is not there is asked of the source.

Streams and buckets are bounded in age and bytes; what a source left behind goes when it closes, or by age.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from struct import Struct, error

import nats.errors
from nats.js import JetStreamContext, api
from nats.js.errors import BucketNotFoundError, NotFoundError, ObjectDeletedError, ObjectNotFoundError
from nats.js.object_store import ObjectStore

from ..errors import NoRoute, TransportError
from .base import Answer, EventCapabilities, EventPlaneContext, Frame, Source
from .errors import BadFrame
from .frames import Kind, decode
from .nats import NatsEvents, NatsPublisher, NatsSubscriber
from .outflow import NOTHING

KEPT_S = 3600.0
KEPT_BYTES = 256 * 1024 * 1024
"""Of a stream, and of the bucket."""

STEP_S = 5.0
"""Limit of one step at the server."""

SIZE = Struct("<I")

log = logging.getLogger("callboard.events")
ERRORS = (nats.errors.Error, OSError, TimeoutError)


class JetStreamEvents(NatsEvents):
    """The plane ``jetstream``."""

    scheme = "jetstream"

    def __init__(self, context: EventPlaneContext) -> None:
        super().__init__(context)
        self._streams: set[str] = set()
        self._bucket: ObjectStore | None = None
        self._making = asyncio.Lock()

    @property
    def capabilities(self) -> EventCapabilities:
        """What this plane can do."""
        return EventCapabilities(
            scheme="jetstream",
            summary="NATS subjects that JetStream keeps, snapshots in its object store",
            between_processes=True,
            durable=True,
        )

    def jetstream(self) -> JetStreamContext:
        """Return JetStream at the connection that is there. Raises `TransportError`."""
        if self.client is None or not self.client.is_connected:
            raise NoRoute("jetstream", "the NATS server is away")
        return self.client.jetstream(timeout=STEP_S)

    async def stream(self, topic: str) -> str:
        """Return the stream of a topic, making it if need be. Raises `TransportError`."""
        name = self.subjects.events_stream(topic)
        async with self._making:
            if name not in self._streams:
                config = api.StreamConfig(
                    name=name,
                    subjects=[self.subjects.events(topic, "", None)],
                    max_age=KEPT_S,
                    max_bytes=KEPT_BYTES,
                    discard=api.DiscardPolicy.OLD,
                    storage=api.StorageType.FILE,
                    allow_direct=True,
                )
                try:
                    await self.jetstream().add_stream(config)
                except ERRORS as problem:
                    raise NoRoute(name, f"JetStream: {problem}") from None
                self._streams.add(name)
        return name

    async def bucket(self) -> ObjectStore:
        """Return the bucket of snapshots, making it if need be. Raises `TransportError`."""
        name = self.subjects.snapshots()
        async with self._making:
            try:
                try:
                    return await self.jetstream().object_store(name)
                except BucketNotFoundError:
                    config = api.ObjectStoreConfig(ttl=KEPT_S, max_bytes=KEPT_BYTES)
                    return await self.jetstream().create_object_store(name, config)
            except ERRORS as problem:
                raise NoRoute(name, f"JetStream: {problem}") from None

    async def publisher(self, source: Source, answer: Answer, snapshot_every: int) -> JetStreamPublisher:
        """Open a publisher. Raises `TransportError`."""
        opened = await super().publisher(source, answer, snapshot_every)
        await self.stream(source.topic)
        await self.bucket()
        return JetStreamPublisher(self, opened.source, answer, snapshot_every)

    async def subscriber(self, topic: str, received: Callable[[Source, Frame], None]) -> JetStreamSubscriber:
        """Open a subscriber. Raises `TransportError`."""
        await self.open()
        await self.stream(topic)
        return JetStreamSubscriber(self, received)


class JetStreamPublisher(NatsPublisher):
    """One source, which writes a snapshot now and then."""

    def __init__(self, plane: JetStreamEvents, source: Source, answer: Answer, snapshot_every: int) -> None:
        super().__init__(plane, source)
        self._jetstream, self._answer, self._every = plane, answer, snapshot_every
        self._frames_left = 0
        self._writing = False
        self._closed = False
        self.snapshots = self.failed_snapshots = 0

    def send(self, frame: Frame) -> None:
        """Give a frame to the server, and after enough of them a snapshot."""
        super().send(frame)
        self._frames_left -= max(1, len(decode(frame).events))
        if self._frames_left <= 0 and not self._writing:
            self._writing = True
            self._frames_left = self._every
            self._jetstream.later(self._write())

    async def _write(self) -> None:
        try:
            frames = await self._answer(NOTHING)
            if decode(frames[0]).kind is not Kind.EVENTS:  # the source has snapshots
                data = b"".join(part for frame in frames for part in (SIZE.pack(len(frame)), frame))
                await (await self._jetstream.bucket()).put(f"{self.source.id:x}", data)
                self.snapshots += 1
        except (*ERRORS, TransportError) as problem:
            self.failed_snapshots += 1
            log.debug("no snapshot of %s: %s", self.source.name, problem)
        finally:
            self._writing = False

    def statistics(self) -> Mapping[str, int]:
        """Counters of the connection, and of the snapshots."""
        return {
            **super().statistics(), "written": self.snapshots, "failed_writes": self.failed_snapshots,
        }  # fmt: skip

    async def close(self) -> None:
        """Leave, and take along what was kept."""
        await super().close()
        if self._closed:
            return
        self._closed = True
        with suppress(TransportError, *ERRORS):
            async with asyncio.timeout(1.0):
                subject = self._jetstream.subjects.events(
                    self.source.topic, self.source.component, self.source.id
                )
                stream = self._jetstream.subjects.events_stream(self.source.topic)
                await self._jetstream.jetstream().purge_stream(stream, subject=subject)
                with suppress(ObjectNotFoundError, ObjectDeletedError):
                    await (await self._jetstream.bucket()).delete(f"{self.source.id:x}")


class JetStreamSubscriber(NatsSubscriber):
    """Follows sources, and reads what it missed from the server."""

    def __init__(self, plane: JetStreamEvents, received: Callable[[Source, Frame], None]) -> None:
        super().__init__(plane, received)
        self._jetstream = plane
        self.read = self.asked = 0

    async def fetch(self, source: Source, after: int) -> AsyncIterator[Frame]:
        """Yield a snapshot if need be and the frames behind it; what is not kept, as the source answers.

        Raises `SourceGone`.
        """
        try:
            kept = await self._kept(source, after)
        except (*ERRORS, TransportError) as problem:
            log.debug("nothing of %s is kept: %s", source.name, problem)
            kept = None
        if kept is None:
            self.asked += 1
            async for frame in super().fetch(source, after):
                yield frame
            return
        self.read += 1
        for frame in kept:
            yield frame

    async def _kept(self, source: Source, after: int) -> list[Frame] | None:
        """The frames that take a subscriber from ``after`` to what is kept; None if there is a gap."""
        stored = [frame for frame in await self._stored(source) if decode(frame).events]
        if any(decode(one).last + 1 < decode(next_).first for one, next_ in pairwise(stored)):
            return None  # what was lost on its way to the server
        first = decode(stored[0]).first if stored else None
        if after != NOTHING and first is not None and first <= after + 1:
            return [frame for frame in stored if decode(frame).last > after] or stored[-1:]
        snapshot = await self._snapshot(source)
        if snapshot is None:
            return stored if first == 1 else None
        number = decode(snapshot[-1]).first
        rest = [frame for frame in stored if decode(frame).last > number]
        if rest and decode(rest[0]).first > number + 1:
            return None
        if after != NOTHING and number < after:
            return None
        return [*snapshot, *rest]

    async def _stored(self, source: Source) -> list[Frame]:
        jetstream, stream = self._jetstream.jetstream(), self._jetstream.subjects.events_stream(source.topic)
        subject, sequence, frames = self._subject(source), 1, list[Frame]()
        while True:
            try:
                found = await jetstream.get_msg(stream, seq=sequence, subject=subject, next=True, direct=True)
            except NotFoundError:
                return frames
            frames.append(found.data or b"")
            sequence = (found.seq or sequence) + 1

    async def _snapshot(self, source: Source) -> list[Frame] | None:
        try:
            data = (await (await self._jetstream.bucket()).get(f"{source.id:x}")).data or b""
        except (ObjectNotFoundError, ObjectDeletedError):
            return None
        frames, at = [], 0
        try:
            while at < len(data):
                (size,) = SIZE.unpack_from(data, at)
                frames.append(data[at + SIZE.size : at + SIZE.size + size])
                decode(frames[-1])
                at += SIZE.size + size
        except (error, BadFrame):
            return None
        return frames or None

    def statistics(self) -> Mapping[str, int]:
        """Counters of the connection, and of where fetches were served."""
        return {**super().statistics(), "read": self.read, "asked": self.asked}
