"""Events over core NATS: one subject per source, and one per process where it is asked for what was missed.

An answer is a series of frames to the inbox of whoever asks, with a header ``more`` or ``last`` and their number; or
one message that says ``gone``, or ``failed`` and why. What is larger than the server takes travels in pieces. While the
connection is away nothing comes; when it is back, every source that is followed is asked for what was missed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from contextvars import Context
from dataclasses import replace
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ..backoff import Backoff
from ..errors import NoRoute, TransportError
from ..nats_client import close, confirm, connect, host_of, next_message, publish_now
from ..nats_subjects import Subjects
from .base import Answer, EventCapabilities, EventPlaneContext, Frame, Source
from .errors import LONGEST_WHY, ServerTakesTooLittle, SnapshotFailed, SourceGone
from .pieces import HEADER_BYTES, LEAST_PAYLOAD_BYTES, PIECE, Pieces, cut

ANSWER_S = 5.0
"""Until the next frame of an answer."""

MOST_ANSWERS = 64
PENDING_BYTES = 64 * 1024 * 1024
"""Frames that wait for the server, at most; what is beyond is dropped, and fetched later."""

HEARD_MESSAGES, HEARD_BYTES = 65_536, 64 * 1024 * 1024
"""Of one subject, on their way to us; what is beyond is dropped by the client, and fetched later."""

RETURN = Backoff(0.05, 2.0)
QUESTION_BYTES = 64
WHY_BYTES = min(LONGEST_WHY, LEAST_PAYLOAD_BYTES - HEADER_BYTES)
WHAT = "Callboard-What"
NO_RESPONDERS = "503"

log = logging.getLogger("callboard.events")
Handler = Callable[[Msg], None]


class NatsEvents:
    """The plane ``nats``: one connection per process, which comes back by itself."""

    scheme = "nats"

    def __init__(self, context: EventPlaneContext) -> None:
        self._context = context
        self.settings = context.settings
        self.subjects = Subjects(context.settings.nats.prefix, context.namespace)
        self.client: Client | None = None
        self._opening, self._hearing = asyncio.Lock(), asyncio.Lock()
        self._heard: dict[str, tuple[Handler, Subscription | None]] = {}
        self._answers: dict[int, Answer] = {}
        self.publishers: dict[int, NatsPublisher] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.followers: dict[int, list[tuple[Source, Callable[[Source, Frame], None]]]] = {}
        self._closed = self._returning = False
        self._answering = 0
        self.returns = self.dropped = self.unanswered = 0

    def __repr__(self) -> str:
        state = "up" if self.client is not None and self.client.is_connected else "down"
        return f"<{type(self).__name__} {state}, {len(self._answers)} sources, follows {len(self.followers)}>"

    @property
    def capabilities(self) -> EventCapabilities:
        """What this plane can do."""
        return EventCapabilities(scheme="nats", summary="one NATS subject per source", between_processes=True)

    # -- the connection

    async def open(self) -> Client:
        """Return the connection, opening it the first time. Raises `TransportError`."""
        async with self._opening:
            if self.client is None:
                client = await self._connect(self.settings.connect_timeout_s)
                if not client.is_connected:
                    raise NoRoute("nats", "the connection ended at once")
                self.client = client
            return self.client

    async def _connect(self, limit_s: float) -> Client:
        node = self._context.node
        client = await connect(
            self.settings,
            f"callboard events {node}",
            limit_s=limit_s,
            inbox=f"{self.subjects.own(node)}.events",
            closed=self._lost,
        )
        if client.max_payload < LEAST_PAYLOAD_BYTES:
            server = host_of(client)
            await close(client)
            raise ServerTakesTooLittle(server, client.max_payload, LEAST_PAYLOAD_BYTES)
        return client

    async def _lost(self) -> None:
        client = self.client
        # Else it was one that never came into use, or one before this one.
        is_ours = client is not None and not client.is_connected
        if is_ours and not (self._closed or self._returning):
            self._returning = True
            self.later(self._return())

    async def _return(self) -> None:
        refusal = ""
        for attempt in itertools.count():
            await asyncio.sleep(RETURN.delay_s(attempt, random.random()))
            if self._closed:  # nats-py may have swallowed the cancellation
                return
            try:
                if await self._is_back():
                    break
            except ServerTakesTooLittle as error:  # whoever set up the server must hear of it, once
                if refusal != (refusal := str(error)):
                    log.error("no events until then: %s", error)
        self._returning = False
        self.returns += 1
        for publisher in self.publishers.values():
            publisher.repeat()
        for entries in list(self.followers.values()):
            for source, received in list(entries):
                received(source, b"")

    async def _is_back(self) -> bool:
        """Connect, and hear again what was heard; True if the connection holds until that is done."""
        try:
            client = await self._connect(self.settings.connect_timeout_s)
        except ServerTakesTooLittle:
            raise
        except (TransportError, OSError) as error:
            log.debug("the event plane's NATS server is away: %s", error)
            return False
        try:
            async with self._hearing:
                self.client = client
                for subject, (handler, _) in list(self._heard.items()):
                    await self._subscribe(subject, handler)
                await confirm(client)
            await self.renew()
        except Exception as error:  # nats-py has many for an end in between; who gives up stays deaf
            log.debug("the event plane's NATS server is away again: %r", error)
            await close(client)
        finally:
            if self.client is not client:  # cancelled while somebody else had the lock
                await close(client)
        return client.is_connected

    async def renew(self) -> None:
        """The connection came back: see to it that the server has what this plane needs. Raises `TransportError`."""

    def later(self, work: Any) -> asyncio.Task[None]:
        """Do something in a task of its own, which ends with the plane."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def subject(self, source: Source) -> str:
        """Where the events of a source are published."""
        return self.subjects.events(source.topic, source.component, source.id)

    def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> bool:
        """Queue a message for the server; False if that cannot be."""
        client = self.client
        if client is None or not client.is_connected or client.pending_data_size > PENDING_BYTES:
            self.dropped += 1
            return False
        try:
            publish_now(client, subject, payload, reply, headers)
        except nats.errors.Error:
            self.dropped += 1
            return False
        return True

    def publish_frame(self, subject: str, frame: Frame, headers: dict[str, str] | None = None) -> bool:
        """The same for a frame, in pieces if it is larger than the server takes."""
        most_bytes = self.client.max_payload if self.client is not None else len(frame)
        return all(
            self.publish(subject, piece, headers={**(headers or {}), PIECE: mark} if mark else headers)
            for piece, mark in cut(frame, most_bytes)
        )

    async def hear(self, subject: str, handler: Handler) -> None:
        """Have messages of a subject handled, also after the connection came back. Raises `TransportError`."""
        await self.open()
        async with self._hearing:  # of two who want the same, both return when it is heard
            client = self.client
            if subject in self._heard:
                return
            if client is None or not client.is_connected:
                raise NoRoute(subject, "the NATS server is away")
            self._heard[subject] = (handler, None)
            try:
                await self._subscribe(subject, handler)
                await confirm(client)
            except BaseException as error:
                self.ignore(subject)
                if isinstance(error, (nats.errors.Error, OSError)):
                    raise NoRoute(subject, f"NATS: {error}") from None
                raise

    async def _subscribe(self, subject: str, handler: Handler) -> None:
        async def handle(message: Msg) -> None:
            handler(message)

        assert self.client is not None
        subscription = await self.client.subscribe(
            subject, cb=handle, pending_msgs_limit=HEARD_MESSAGES, pending_bytes_limit=HEARD_BYTES
        )
        if subject in self._heard:
            self._heard[subject] = (handler, subscription)
        else:  # ignored meanwhile
            await _unsubscribe(subscription)

    def ignore(self, subject: str) -> None:
        """Hear no more of a subject."""
        entry = self._heard.pop(subject, None)
        if entry is not None and entry[1] is not None:
            self.later(_unsubscribe(entry[1]))

    # -- publishers

    async def publisher(self, source: Source, answer: Answer, snapshot_every: int) -> NatsPublisher:
        """Open a publisher. Raises `TransportError`."""
        address = self.subjects.replay(self._context.node)
        await self.hear(address, self._asked)
        self._answers[source.id] = answer
        return NatsPublisher(self, replace(source, address=address))

    def forget(self, source: Source) -> None:
        """A publisher was closed."""
        self.publishers.pop(source.id, None)
        self._answers.pop(source.id, None)

    def _asked(self, message: Msg) -> None:
        identifier, _, after = message.data[:QUESTION_BYTES].partition(b" ")
        answer = self._answers.get(int(identifier)) if identifier.isdigit() else None
        if answer is None or not after.removeprefix(b"-").isdigit():
            self.publish(message.reply, b"", headers={WHAT: "gone"})
        elif self._answering >= MOST_ANSWERS:
            self.unanswered += 1
        else:
            self._answering += 1
            self.later(self._answer(message.reply, int(after), answer))

    async def _answer(self, inbox: str, after: int, answer: Answer) -> None:
        try:
            frames = await answer(after)
            for number, frame in enumerate(frames):
                what = "last" if number == len(frames) - 1 else "more"
                while self.client is not None and self.client.pending_data_size > PENDING_BYTES // 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                if not self.publish_frame(inbox, frame, {WHAT: f"{what} {number}"}):
                    return
                await asyncio.sleep(0)
        except SnapshotFailed as problem:
            self.publish(inbox, problem.why.encode()[:WHY_BYTES], headers={WHAT: "failed"})
        except Exception:
            log.exception("a source could not say its state")
            self.publish(inbox, b"", headers={WHAT: "gone"})
        finally:
            self._answering -= 1

    # -- subscribers

    async def subscriber(self, topic: str, received: Callable[[Source, Frame], None]) -> NatsSubscriber:
        """Open a subscriber. Raises `TransportError`."""
        await self.open()
        return NatsSubscriber(self, received)

    async def ask(self, source: Source, after: int) -> AsyncIterator[Frame]:
        """Yield what a source answers. Raises `SourceGone`."""
        client = self.client
        if client is None or not client.is_connected:
            raise SourceGone(source.name, "the NATS server is away")
        inbox = client.new_inbox()
        try:
            subscription = await client.subscribe(inbox, pending_msgs_limit=HEARD_MESSAGES)
        except nats.errors.Error as error:
            raise SourceGone(source.name, f"NATS: {error}") from None
        try:
            if self.client is not client or not self.publish(
                source.address, b"%d %d" % (source.id, after), inbox
            ):
                raise SourceGone(source.name, "the NATS server is away")
            async for frame in _whole(subscription, source):
                yield frame
        except nats.errors.Error as error:
            raise SourceGone(source.name, f"NATS: {error}") from None
        finally:
            await _unsubscribe(subscription)

    async def close(self) -> None:
        """End the connection; idempotent."""
        if self._closed:
            return
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self.client is not None:
            with suppress(nats.errors.Error, OSError):
                await confirm(self.client, 0.5)  # what was sent last is there
            await close(self.client)


class NatsPublisher:
    """One source: its frames go to its own subject."""

    def __init__(self, plane: NatsEvents, source: Source) -> None:
        self._plane, self.source = plane, source
        self._subject = plane.subject(source)
        self._last = b""
        plane.publishers[source.id] = self

    def send(self, frame: Frame) -> None:
        """Give a frame to the server."""
        self._last = frame
        self._plane.publish_frame(self._subject, frame)

    def repeat(self) -> None:
        """Send the last frame again: it may be lost, and shows what else is."""
        if self._last:
            self._plane.publish_frame(self._subject, self._last)

    def statistics(self) -> Mapping[str, int]:
        """Counters of the process's connection."""
        return {"dropped": self._plane.dropped, "returns": self._plane.returns}

    async def close(self) -> None:
        """Leave."""
        self._plane.forget(self.source)


class NatsSubscriber:
    """Follows sources by their subjects."""

    def __init__(self, plane: NatsEvents, received: Callable[[Source, Frame], None]) -> None:
        self._plane, self._received = plane, received
        self._following: dict[int, Source] = {}

    async def follow(self, source: Source) -> None:
        """Begin to receive. Raises `TransportError`."""
        followers = self._plane.followers
        self._following[source.id] = source
        entries = followers.setdefault(source.id, [])
        if (source, self._received) not in entries:
            entries.append((source, self._received))

        pieces = Pieces()

        def handle(message: Msg) -> None:
            frame = pieces.add(message.data, message.headers)
            if frame is not None:
                for entry, received in tuple(followers.get(source.id, ())):
                    received(entry, frame)

        await self._plane.hear(self._plane.subject(source), handle)

    def unfollow(self, source: Source) -> None:
        """Receive no more of it."""
        if self._following.pop(source.id, None) is None:
            return
        entries = self._plane.followers.get(source.id, [])
        if (source, self._received) in entries:
            entries.remove((source, self._received))
        if not entries:
            self._plane.followers.pop(source.id, None)
            self._plane.ignore(self._plane.subject(source))

    async def fetch(self, source: Source, after: int) -> AsyncIterator[Frame]:
        """Yield what the source answers. Raises `SourceGone`."""
        async for frame in self._plane.ask(source, after):
            yield frame

    def statistics(self) -> Mapping[str, int]:
        """Counters of the process's connection."""
        return {"returns": self._plane.returns}

    async def close(self) -> None:
        """Leave."""
        for source in list(self._following.values()):
            self.unfollow(source)


async def _whole(subscription: Subscription, source: Source) -> AsyncIterator[Frame]:
    """Yield the frames of one answer, to its end.

    Raises `SourceGone` if one of them does not come, and `SnapshotFailed`.
    """
    pieces, what, wanted = Pieces(), "", 0
    while what != "last":
        message = await next_message(subscription, ANSWER_S)
        headers = message.headers or {}
        what, _, number = headers.get(WHAT, "").partition(" ")
        if what == "failed":
            raise SnapshotFailed(source.topic, message.data.decode(errors="replace"))
        if headers.get("Status") == NO_RESPONDERS or what not in ("more", "last"):
            raise SourceGone(source.name, "nobody answers for it")
        frame = pieces.add(message.data, headers)
        if number != str(wanted) or (frame is None and not pieces.waits):
            raise SourceGone(source.name, "a part of its answer was lost")
        if frame is None:
            what = ""
            continue
        wanted += 1
        yield frame


async def _unsubscribe(subscription: Subscription) -> None:
    with suppress(nats.errors.Error, OSError):
        await subscription.unsubscribe()
