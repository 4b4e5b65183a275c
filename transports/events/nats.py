"""Events over core NATS: one subject per source, and one per process where it is asked for what was missed.

An answer is a series of messages to the inbox of whoever asks, each with a header ``more`` or ``last``; or one that
says ``gone``, or ``failed`` and why. While the connection is away nothing comes; when it is back every source that is
followed is asked for what was missed.
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
from ..nats_client import close, confirm, connect, publish_now
from ..nats_subjects import Subjects
from .base import Answer, EventCapabilities, EventPlaneContext, Frame, Source
from .errors import LONGEST_WHY, SnapshotFailed, SourceGone

ANSWER_S = 5.0
"""Until the next frame of an answer."""

MOST_ANSWERS = 64
PENDING_BYTES = 64 * 1024 * 1024
"""Frames that wait for the server, at most; what is beyond is dropped, and fetched later."""

RETURN = Backoff(0.05, 2.0)
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
        self._opening = asyncio.Lock()
        self._heard: dict[str, tuple[Handler, Subscription | None]] = {}
        self._answers: dict[int, Answer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.followers: dict[int, list[tuple[Source, Callable[[Source, Frame], None]]]] = {}
        self._closed = False
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
                self.client = await self._connect(self.settings.connect_timeout_s)
            return self.client

    async def _connect(self, limit_s: float) -> Client:
        node = self._context.node
        return await connect(
            self.settings,
            f"callboard events {node}",
            limit_s=limit_s,
            inbox=f"{self.subjects.own(node)}.events",
            closed=self._lost,
        )

    async def _lost(self) -> None:
        if not self._closed and self.client is not None:
            self.later(self._return())

    async def _return(self) -> None:
        for attempt in itertools.count():
            await asyncio.sleep(RETURN.delay_s(attempt, random.random()))
            try:
                self.client = await self._connect(self.settings.connect_timeout_s)
                for subject, (handler, _) in list(self._heard.items()):
                    await self._subscribe(subject, handler)
                await confirm(self.client)
                break
            except (TransportError, nats.errors.Error, OSError) as error:
                log.debug("the event plane's NATS server is away: %s", error)
        self.returns += 1
        for entries in list(self.followers.values()):
            for source, received in list(entries):
                received(source, b"")

    def later(self, work: Any) -> None:
        """Do something in a task of its own, which ends with the plane."""
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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

    async def hear(self, subject: str, handler: Handler) -> None:
        """Have messages of a subject handled, also after the connection came back. Raises `TransportError`."""
        client = await self.open()
        if subject in self._heard:
            return
        self._heard[subject] = (handler, None)
        try:
            await self._subscribe(subject, handler)
            await confirm(client)
        except (nats.errors.Error, OSError) as error:
            self._heard.pop(subject, None)
            raise NoRoute(subject, f"NATS: {error}") from None

    async def _subscribe(self, subject: str, handler: Handler) -> None:
        async def handle(message: Msg) -> None:
            handler(message)

        assert self.client is not None
        subscription = await self.client.subscribe(
            subject, cb=handle, pending_msgs_limit=1_000_000, pending_bytes_limit=256 * 1024 * 1024
        )
        if subject in self._heard:
            self._heard[subject] = (handler, subscription)

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
        self._answers.pop(source.id, None)

    def _asked(self, message: Msg) -> None:
        identifier, _, after = message.data.partition(b" ")
        answer = self._answers.get(int(identifier)) if identifier.isdigit() and after else None
        if answer is None:
            self.publish(message.reply, b"", headers={WHAT: "gone"})
        elif len(self._tasks) >= MOST_ANSWERS:
            self.unanswered += 1
        else:
            self.later(self._answer(message.reply, int(after), answer))

    async def _answer(self, inbox: str, after: int, answer: Answer) -> None:
        try:
            frames = await answer(after)
        except SnapshotFailed as problem:
            self.publish(inbox, problem.why.encode()[:LONGEST_WHY], headers={WHAT: "failed"})
            return
        for number, frame in enumerate(frames):
            what = "last" if number == len(frames) - 1 else "more"
            self.publish(inbox, frame, headers={WHAT: what})
            await asyncio.sleep(0)

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
        subscription = await client.subscribe(inbox, pending_msgs_limit=1_000_000)
        try:
            self.publish(source.address, b"%d %d" % (source.id, after), inbox)
            what = "more"
            while what == "more":
                message = await subscription.next_msg(ANSWER_S)
                headers = message.headers or {}
                what = headers.get(WHAT, "")
                if what == "failed":
                    raise SnapshotFailed(source.topic, message.data.decode(errors="replace"))
                if headers.get("Status") == NO_RESPONDERS or what not in ("more", "last"):
                    raise SourceGone(source.name, "nobody answers for it")
                yield message.data
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
        self._subject = plane.subjects.events(source.topic, source.component, source.id)

    def send(self, frame: Frame) -> None:
        """Give a frame to the server."""
        self._plane.publish(self._subject, frame)

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

        def handle(message: Msg) -> None:
            for entry, received in tuple(followers.get(source.id, ())):
                received(entry, message.data)

        await self._plane.hear(self._subject(source), handle)

    def unfollow(self, source: Source) -> None:
        """Receive no more of it."""
        if self._following.pop(source.id, None) is None:
            return
        entries = self._plane.followers.get(source.id, [])
        if (source, self._received) in entries:
            entries.remove((source, self._received))
        if not entries:
            self._plane.followers.pop(source.id, None)
            self._plane.ignore(self._subject(source))

    def _subject(self, source: Source) -> str:
        return self._plane.subjects.events(source.topic, source.component, source.id)

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


async def _unsubscribe(subscription: Subscription) -> None:
    with suppress(nats.errors.Error, OSError):
        await subscription.unsubscribe()
