"""Events over NATS that JetStream keeps: a subscriber is served also while the source is frozen, away or gone.

Frames travel as on the plane ``nats``. One stream per topic keeps them, and a bucket of the object store a snapshot of
each source, which the source writes anew after so many events. What a subscriber has missed it reads there: the
snapshot, if it lacks more than the stream has, then the frames behind it. What is not there is asked of the source.

Streams and buckets are bounded in age and bytes. A source takes away what its snapshots stand for; what it left behind
goes when it closes, or by age.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js.errors import (
    BadRequestError,
    BucketNotFoundError,
    NotFoundError,
    ServiceUnavailableError,
)
from nats.js.object_store import ObjectStore

from ..errors import NoRoute, TransportError
from ..nats_client import host_of
from ..nats_log import NO_JETSTREAM
from .base import Answer, EventCapabilities, EventPlaneContext, Frame, Source
from .frames import Kind, decode
from .kept import STEP_S, Reading, pack, read, unpack
from .nats import NatsEvents, NatsPublisher, NatsSubscriber
from .outflow import NOTHING
from .pieces import HEADER_BYTES, Pieces

KEPT_S = 3600.0
KEPT_BYTES = 256 * 1024 * 1024
"""Of a stream, and of the bucket."""

KEPT_MESSAGES = 1_000_000
ROUNDS_BEHIND_SNAPSHOT, ROUNDS_WITHOUT = 1, 4
"""How many times ``snapshot_every`` events of a source stay in the stream, at least."""

CHUNK_BYTES = 128 * 1024
REST, FAILED_REST_S = 9, 1.0
"""A source writes no snapshot for so many times as long as the last one took, and at least so long if that failed."""

log = logging.getLogger("callboard.events")
ERRORS = (nats.errors.Error, OSError, TimeoutError)


class JetStreamEvents(NatsEvents):
    """The plane ``jetstream``."""

    scheme = "jetstream"

    def __init__(self, context: EventPlaneContext) -> None:
        super().__init__(context)
        self._topics: set[str] = set()
        """Whose streams are there."""
        self._bucket: tuple[Client, ObjectStore] | None = None
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

    def connected(self) -> Client:
        """Return the connection that is there. Raises `TransportError`."""
        if self.client is None or not self.client.is_connected:
            raise NoRoute("jetstream", "the NATS server is away")
        return self.client

    def jetstream(self) -> JetStreamContext:
        """Return JetStream at the connection that is there. Raises `TransportError`."""
        return self.connected().jetstream(timeout=STEP_S)

    async def stream(self, topic: str) -> str:
        """Return the stream of a topic, making it if need be. Raises `TransportError`."""
        name = self.subjects.events_stream(topic)
        async with self._making:
            if topic not in self._topics:
                config = api.StreamConfig(
                    name=name,
                    subjects=[self.subjects.events(topic, "", None)],
                    max_age=KEPT_S,
                    max_bytes=KEPT_BYTES,
                    max_msgs=KEPT_MESSAGES,
                    discard=api.DiscardPolicy.OLD,
                    storage=api.StorageType.FILE,
                    allow_direct=True,
                )
                try:
                    try:
                        await self.jetstream().add_stream(config)
                    except BadRequestError:  # it is there with other limits, of another version
                        await self.jetstream().update_stream(config)
                except ServiceUnavailableError:
                    way_out = f"{NO_JETSTREAM}, or set event_plane to nats"
                    raise NoRoute(host_of(self.connected()), way_out) from None
                except ERRORS as problem:
                    raise NoRoute(name, f"JetStream: {problem}") from None
                self._topics.add(topic)
        return name

    async def renew(self) -> None:
        """See to it that the streams are there: the server may have lost its store."""
        topics = sorted(self._topics)
        self._topics.clear()
        for topic in topics:
            try:
                await self.stream(topic)
            except TransportError as problem:  # events flow all the same; the next snapshot tries again
                log.debug("the stream of %s is not there: %s", topic, problem)

    async def bucket(self) -> ObjectStore:
        """Return the bucket of snapshots, making it if need be. Raises `TransportError`."""
        name, client = self.subjects.snapshots(), self.connected()
        async with self._making:
            if self._bucket is None or self._bucket[0] is not client:
                jetstream = client.jetstream(timeout=STEP_S)
                try:
                    try:
                        store = await jetstream.object_store(name)
                    except BucketNotFoundError:
                        config = api.ObjectStoreConfig(ttl=KEPT_S, max_bytes=KEPT_BYTES)
                        store = await jetstream.create_object_store(name, config)
                except ERRORS as problem:
                    raise NoRoute(name, f"JetStream: {problem}") from None
                self._bucket = client, store
            return self._bucket[1]

    async def save(self, source: Source, frames: list[Frame]) -> None:
        """Write a snapshot, in place of the last one. Raises `TransportError`."""
        chunk_bytes = min(CHUNK_BYTES, max(1, self.connected().max_payload - HEADER_BYTES))
        meta = api.ObjectMeta(options=api.ObjectMetaOptions(max_chunk_size=chunk_bytes))
        try:
            await (await self.bucket()).put(_object(source), pack(frames), meta)
        except ERRORS as problem:
            self._bucket = None  # the server may have lost it
            raise NoRoute(self.subjects.snapshots(), f"JetStream: {problem}") from None

    async def snapshot(self, source: Source) -> list[Frame] | None:
        """Return the frames of the last snapshot; None if there is no whole one. Raises what `read` raises, too."""
        name = self.subjects.snapshots()
        try:
            info = await (await self.bucket()).get_info(_object(source))
        except NotFoundError:
            return None
        # Not nats-py's `get`: it waits for ever for chunks that were replaced meanwhile.
        chunks = read(self.connected(), f"OBJ_{name}", f"$O.{name}.C.{info.nuid}")
        data = b"".join([chunk async for chunk, _ in chunks])
        return unpack(data) if len(data) == info.size else None

    async def stored(self, source: Source) -> AsyncIterator[Frame]:
        """Yield what the stream has of a source. Raises what `read` raises."""
        pieces = Pieces()
        stream, subject = self.subjects.events_stream(source.topic), self.subject(source)
        async for data, headers in read(self.connected(), stream, subject):
            frame = pieces.add(data, headers)
            if frame is not None:
                yield frame

    async def last_sequence(self, source: Source) -> int:
        """Sequence of the last message of a source in the stream, 0 if there is none. Raises `TransportError`."""
        stream = await self.stream(source.topic)
        try:
            return (await self.jetstream().get_last_msg(stream, self.subject(source))).seq or 0
        except NotFoundError:
            return 0
        except ERRORS as problem:
            raise NoRoute(stream, f"JetStream: {problem}") from None

    async def forget_events(self, source: Source, last: int = 0) -> None:
        """Take away what the stream has of a source, up to a sequence. Raises `TransportError`."""
        stream = self.subjects.events_stream(source.topic)
        try:
            await self.jetstream().purge_stream(stream, seq=last and last + 1, subject=self.subject(source))
        except ERRORS as problem:
            raise NoRoute(stream, f"JetStream: {problem}") from None

    async def publisher(self, source: Source, answer: Answer, snapshot_every: int) -> JetStreamPublisher:
        """Open a publisher. Raises `TransportError`."""
        opened = await super().publisher(source, answer, snapshot_every)
        try:
            await self.stream(source.topic)
            await self.bucket()
        except BaseException:
            await opened.close()
            raise
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
        self._events_left = 0
        self._returns = plane.returns
        self._write: asyncio.Task[None] | None = None
        self._not_before_s = 0.0
        self._marks: deque[int] = deque()
        """Last sequence in the stream before each of the last snapshots."""
        self._closed = False
        self.snapshots = self.failed_snapshots = 0

    def send(self, frame: Frame) -> None:
        """Give a frame to the server, and after enough of them a snapshot."""
        super().send(frame)
        self._events_left -= max(1, len(decode(frame).events))
        if self._returns != self._jetstream.returns:  # what is kept has a gap
            self._returns, self._events_left = self._jetstream.returns, 0
        is_free = self._write is None or self._write.done()
        if self._events_left <= 0 and is_free and asyncio.get_running_loop().time() >= self._not_before_s:
            self._events_left = self._every
            self._write = self._jetstream.later(self._write_snapshot())

    async def _write_snapshot(self) -> None:
        time = asyncio.get_running_loop().time
        begun_s, failed_before = time(), self.failed_snapshots
        try:
            mark = await self._jetstream.last_sequence(self.source)
            frames = await self._answer(NOTHING)
            rounds = ROUNDS_WITHOUT
            if decode(frames[0]).kind is not Kind.EVENTS:  # the source has snapshots
                await self._jetstream.save(self.source, frames)
                self.snapshots += 1
                rounds = ROUNDS_BEHIND_SNAPSHOT
            self._marks.append(mark)
            if len(self._marks) > rounds and (last := self._marks.popleft()):
                await self._jetstream.forget_events(self.source, last)
        except TransportError as problem:
            self.failed_snapshots += 1
            self._events_left = 0  # the next event tries again, after the rest
            log.debug("no snapshot of %s: %s", self.source.name, problem)
        except Exception:
            self.failed_snapshots += 1
            log.exception("%s could not say its state", self.source.name)
        finally:
            least_s = FAILED_REST_S if self.failed_snapshots > failed_before else 0.0
            self._not_before_s = time() + max(least_s, REST * (time() - begun_s))

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
        if self._write is not None and not self._write.done():
            self._write.cancel()
            await asyncio.wait((self._write,))
        with suppress(TransportError, *ERRORS):
            async with asyncio.timeout(1.0):
                await self._jetstream.forget_events(self.source)
                if self.snapshots:
                    await (await self._jetstream.bucket()).delete(_object(self.source))


class JetStreamSubscriber(NatsSubscriber):
    """Follows sources, and reads what it missed from the server."""

    def __init__(self, plane: JetStreamEvents, received: Callable[[Source, Frame], None]) -> None:
        super().__init__(plane, received)
        self._jetstream = plane
        self.read = self.asked = 0

    async def fetch(self, source: Source, after: int) -> AsyncIterator[Frame]:
        """Yield what is kept after a number; what is not kept, as the source answers.

        If nothing new is kept, only the source knows whether there is more. Raises `SourceGone`.
        """
        reading = Reading(source.id, after)
        try:
            async for frame in self._kept(source, reading):
                yield frame
        except (TransportError, *ERRORS) as problem:
            log.debug("what is kept of %s cannot be read: %s", source.name, problem)
            reading.broken = True
        if reading.has > after and not reading.broken:
            self.read += 1
            return
        self.asked += 1
        async for frame in super().fetch(source, reading.has):
            yield frame

    async def _kept(self, source: Source, reading: Reading) -> AsyncIterator[Frame]:
        if reading.has == NOTHING:
            for frame in reading.state(await self._jetstream.snapshot(source)):
                yield frame
            if reading.has == NOTHING:  # whether it has snapshots at all, only the source knows
                return
        async for data in self._jetstream.stored(source):
            found = reading.look(data)
            if found is None:
                continue
            if reading.lacks(found):
                for frame in reading.state(await self._jetstream.snapshot(source)):
                    yield frame
                if reading.lacks(found):
                    reading.broken = True
                    return
            if reading.take(found):
                yield data

    def statistics(self) -> Mapping[str, int]:
        """Counters of the connection, and of where fetches were served."""
        return {**super().statistics(), "read": self.read, "asked": self.asked}


def _object(source: Source) -> str:
    """Name of the snapshot of a source."""
    return f"{source.id:x}"
