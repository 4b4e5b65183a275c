"""Typed publish and subscribe for actors, over the event plane of the system; ``self.context.events``.

    LEVELS = Topic("levels", Level)

    publisher = await self.context.events.publisher(LEVELS, snapshot=self.levels)
    publisher.send(Level(...))

    subscription = await self.context.events.subscribe(LEVELS, component="tank")
    async for item in subscription: ...     # Snapshot, then Event after Event; Left at the end of a source

Of each source a subscriber gets every event in order, or a snapshot that stands for all up to a number and then every
event after that. A source without a snapshot may have lost what a subscriber lacks; then it gets a `Lost` that says so.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from callboard.transports.errors import ConfigError
from callboard.transports.events.base import EventPlane, EventPlaneContext, Source
from callboard.transports.events.inflow import Events, State, Step
from callboard.transports.events.publisher import EventPublisher
from callboard.transports.events.registry import make_event_plane
from callboard.transports.events.subscription import EventSubscription, Gone
from callboard.transports.settings import NetworkSettings

from .directory import split_name
from .errors import EncodeError
from .sources import Listener, Sources

T = TypeVar("T")

_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")

log = logging.getLogger("callboard.events")


class Topic(Generic[T]):
    """A name, and the type of its events: anything that msgspec encodes. Raises `ConfigError` for a bad name."""

    __slots__ = ("decode", "encode", "name", "type")

    def __init__(self, name: str, type: type[T]) -> None:
        if not _WORD.fullmatch(name):
            raise ConfigError(f'"{name}" is no topic: it takes up to 64 letters, digits, "-" and "_"')
        self.name, self.type = name, type
        self.encode: Callable[[T], bytes] = msgspec.msgpack.Encoder().encode
        self.decode: Callable[[bytes], T] = msgspec.msgpack.Decoder(type).decode

    def __repr__(self) -> str:
        return f"<Topic {self.name} of {getattr(self.type, '__name__', self.type)}>"


@dataclass(frozen=True, slots=True)
class Event(Generic[T]):
    """What a source sent."""

    source: Source
    number: int
    value: T


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[T]):
    """What replaces everything that is known of a source: it stands for all events up to ``number``."""

    source: Source
    number: int
    values: list[T]


@dataclass(frozen=True, slots=True)
class Lost:
    """Events from ``first`` to ``last`` that nobody has any more, of a source without snapshots."""

    source: Source
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Left:
    """A source is gone; nothing more comes of it."""

    source: Source
    why: str


class Publisher(Generic[T]):
    """Sends events of one topic in the name of one actor; made by ``context.events.publisher``."""

    def __init__(self, topic: Topic[T], publisher: EventPublisher, events: NodeEvents, muted: bool) -> None:
        self._topic, self._publisher, self._events, self._muted = topic, publisher, events, muted

    def __repr__(self) -> str:
        return f"<Publisher of {self._topic.name}, {self._publisher}>"

    def send(self, value: T) -> int:
        """Send an event; returns its number, 0 if the event plane is ``none``. Never blocks.

        Raises `EncodeError` for what msgspec does not take, `EventTooLarge`, and `Closed`.
        """
        if self._muted:
            return 0
        try:
            data = self._topic.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError, UnicodeEncodeError) as error:
            raise EncodeError(f"event of topic {self._topic.name}", str(error)) from None
        return self._publisher.send(data)

    @property
    def source(self) -> Source:
        """What others know it by."""
        return self._publisher.source

    def statistics(self) -> Mapping[str, int]:
        """Counters since the start."""
        return self._publisher.statistics()

    async def close(self) -> None:
        """Send what waits, and leave; idempotent."""
        await self._events.close_publisher(self._publisher)


Item = Event[T] | Snapshot[T] | Lost | Left


class Subscription(Generic[T]):
    """What the sources of a topic say; an async iterator, for one reader. Made by ``context.events.subscribe``."""

    def __init__(self, topic: Topic[T], subscription: EventSubscription, events: NodeEvents) -> None:
        self._topic, self._subscription, self._events = topic, subscription, events
        self.undecodable = 0
        """Events that were not of the topic's type; they were dropped."""

    def __repr__(self) -> str:
        return f"<Subscription to {self._topic.name}, {self._subscription}>"

    async def batches(self) -> AsyncIterator[list[Item[T]]]:
        """Yield what came since the last time, as soon as there is something; ends when it is closed."""
        while taken := await self._subscription.take():
            items: list[Item[T]] = []
            for source, step in taken:
                items += self._items(source, step)
            yield items

    async def __aiter__(self) -> AsyncIterator[Item[T]]:
        async for items in self.batches():
            for item in items:
                yield item

    async def synced(self) -> None:
        """Return when every source that is known now has delivered its state, or left.

        Raises `SnapshotFailed` if the snapshot function of one fails again and again; it is asked on, and what others
        say comes.
        """
        await self._subscription.synced()

    def resync(self, source: Source) -> None:
        """Have a source tell everything again: what came of it did not make sense."""
        self._subscription.resync(source)

    def statistics(self) -> Mapping[str, int]:
        """Counters since the start."""
        return {**self._subscription.statistics(), "undecodable": self.undecodable}

    async def close(self) -> None:
        """Follow no more; idempotent. A reader that waits is told by the end of the iteration."""
        await self._events.close_subscription(self._subscription)

    def _items(self, source: Source, step: Step | Gone) -> list[Item[T]]:
        if isinstance(step, Gone):
            return [Left(source, step.why)]
        if isinstance(step, State):
            return [Snapshot(source, step.number, [value for _, value in self._decoded(step.values)])]
        if not isinstance(step, Events):
            return [Lost(source, step.first, step.last)]
        return [Event(source, step.first + at, value) for at, value in self._decoded(step.values)]

    def _decoded(self, values: list[bytes]) -> Iterator[tuple[int, T]]:
        for at, data in enumerate(values):
            try:
                yield at, self._topic.decode(data)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                self.undecodable += 1
                if self.undecodable == 1:  # a publisher with another type sends nothing else
                    log.warning(
                        "an event of topic %s was dropped: %s; more are counted", self._topic.name, error
                    )


class Host(Protocol):
    """What the events of a process need from its node."""

    id: str
    namespace: str
    settings: NetworkSettings
    sources: Sources


class NodeEvents:
    """The event plane of one process, opened when it is first used, with the publishers and subscriptions on it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._plane: EventPlane | None = None
        self._opening = asyncio.Lock()
        self._publishers: dict[EventPublisher, str] = {}
        self._subscriptions: dict[EventSubscription, tuple[str, Callable[[], None]]] = {}

    def __repr__(self) -> str:
        return f"<NodeEvents {self.plane}, {len(self._publishers)} publish, {len(self._subscriptions)} subscribe>"

    @property
    def plane(self) -> str:
        """Name of the event plane."""
        return self._host.settings.event_plane

    async def publisher(
        self, actor: str, incarnation: int, topic: Topic[T], snapshot: Callable[[], Iterable[T]] | None
    ) -> Publisher[T]:
        """Open a publisher in the name of an actor. Raises `TransportError`, `ConfigError`."""
        encode, identifier = topic.encode, secrets.randbits(63)
        source = Source(
            topic=topic.name,
            component=split_name(actor)[0],
            name=actor,
            incarnation=incarnation,
            node=self._host.id,
            id=identifier,
        )
        state = None if snapshot is None else (lambda: [encode(value) for value in snapshot()])
        publisher = EventPublisher(topic.name, identifier, state)
        await publisher.open(await self._open(), source)
        muted = self.plane == "none"
        self._publishers[publisher] = actor
        if not muted:
            self._host.sources.publish(publisher.source)
        return Publisher(topic, publisher, self, muted)

    async def subscribe(self, actor: str, topic: Topic[T], component: str | None) -> Subscription[T]:
        """Subscribe an actor to the sources of a topic. Raises `TransportError`, `ConfigError`."""
        subscription = EventSubscription(topic.name)
        await subscription.open(await self._open())
        listener = Listener(topic.name, component, subscription.add, subscription.remove)
        self._subscriptions[subscription] = (actor, self._host.sources.follow(listener))
        return Subscription(topic, subscription, self)

    async def _open(self) -> EventPlane:
        async with self._opening:
            if self._plane is None:
                host = self._host
                context = EventPlaneContext(
                    namespace=host.namespace,
                    node=host.id,
                    settings=host.settings,
                    directory=host.settings.ipc_directory,
                )
                self._plane = make_event_plane(self.plane, context)
            return self._plane

    async def close_publisher(self, publisher: EventPublisher) -> None:
        """Close one; idempotent."""
        if self._publishers.pop(publisher, None) is not None:
            try:
                await publisher.close()  # what it sent last goes before the news of its end
            finally:
                self._host.sources.end(publisher.source, "its publisher was closed")

    async def close_subscription(self, subscription: EventSubscription) -> None:
        """Close one; idempotent."""
        entry = self._subscriptions.pop(subscription, None)
        if entry is not None:
            entry[1]()
            await subscription.close()

    async def close_actor(self, actor: str) -> None:
        """Close what an actor has opened."""
        await self._close(
            [publisher for publisher, name in self._publishers.items() if name == actor],
            [subscription for subscription, (name, _) in self._subscriptions.items() if name == actor],
        )

    async def close(self) -> None:
        """Close everything; idempotent."""
        await self._close(list(self._publishers), list(self._subscriptions))
        if self._plane is not None:
            await self._plane.close()

    async def _close(self, publishers: list[EventPublisher], subscriptions: list[EventSubscription]) -> None:
        """At the same time: each may wait for a server that is away."""
        await asyncio.gather(
            *map(self.close_publisher, publishers), *map(self.close_subscription, subscriptions)
        )

    def statistics(self) -> dict[str, Any]:
        """Counters of all publishers and subscriptions."""
        publishers = {
            f"{one.source.name}/{one.source.topic}": dict(one.statistics()) for one in self._publishers
        }
        subscriptions = {
            f"{actor}/{one.topic}": dict(one.statistics()) for one, (actor, _) in self._subscriptions.items()
        }
        return {"plane": self.plane, "publishers": publishers, "subscriptions": subscriptions}


class ActorEvents:
    """The event plane as one actor sees it."""

    __slots__ = ("_events", "_incarnation", "_name")

    def __init__(self, events: NodeEvents, name: str, incarnation: int) -> None:
        self._events, self._name, self._incarnation = events, name, incarnation

    @property
    def plane(self) -> str:
        """Name of the event plane: zmq, nats, jetstream, memory or none."""
        return self._events.plane

    async def publisher(
        self, topic: Topic[T], *, snapshot: Callable[[], Iterable[T]] | None = None
    ) -> Publisher[T]:
        """Publish events of a topic; it ends with this actor.

        ``snapshot`` returns events that rebuild everything that was said so far: what a subscriber gets that comes
        late or has missed something. Raises `TransportError` and `ConfigError` if the plane cannot be used.
        """
        return await self._events.publisher(self._name, self._incarnation, topic, snapshot)

    async def subscribe(self, topic: Topic[T], *, component: str | None = None) -> Subscription[T]:
        """Follow every actor of the system that publishes a topic, or those of one component; it ends with this actor.

        Raises `TransportError` and `ConfigError` if the plane cannot be used.
        """
        return await self._events.subscribe(self._name, topic, component)
