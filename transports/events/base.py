"""The seam between typed publish/subscribe and a plane that carries events: frames of bytes, nothing about their types.

A *source* is one publisher of one topic: one incarnation of one actor. It numbers its events 1, 2, 3, ... A subscriber
gets, of each source, either every event in order, or a snapshot that stands for all events up to a number, and then
every event after that: never a gap. What a plane loses on the way is noticed by its number and fetched from the source.

    discovery says who publishes → `PlaneSubscriber.follow` → frames → gaps found → `PlaneSubscriber.fetch`

Planes may lose and repeat frames, and must keep those of one source in order. All calls come on the event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..settings import NetworkSettings

Frame = bytes
"""What one send carries: encoded events of one source with their numbers; see `callboard.transports.events.frames`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One publisher of one topic, as discovery knows it."""

    topic: str
    """A word: letters, digits, ``-`` and ``_``."""
    component: str
    """Component of the actor that publishes: ``worker``."""
    name: str
    """Its instance: ``worker.0``."""
    incarnation: int
    node: str
    """Id of the process it is in; it is gone when that is."""
    id: int
    """Random, 63 bits, never the same twice: numbers of different ids have nothing to do with each other."""
    address: str = ""
    """Where the plane finds it."""

    def to_wire(self) -> list[Any]:
        """The source as plain data."""
        return [self.topic, self.component, self.name, self.incarnation, self.node, self.id, self.address]

    @classmethod
    def from_wire(cls, fields: list[Any]) -> Source:
        """The inverse of `to_wire`; unknown fields at the end are ignored."""
        topic, component, name, incarnation, node, identifier, address = fields[:7]
        return cls(
            topic=str(topic), component=str(component), name=str(name), incarnation=int(incarnation),
            node=str(node), id=int(identifier), address=str(address),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCapabilities:
    """What an event plane can do, as data."""

    scheme: str
    summary: str
    between_processes: bool
    durable: bool = False
    """It keeps events and snapshots itself: a subscriber is served while the source is not there."""


Answer = Callable[[int], Awaitable[list[Frame]]]
"""Given the last number that a subscriber has: the frames that take it to the present (events, or a snapshot).

Raises `SnapshotFailed`, which a plane passes on to whoever fetches.
"""


class PlanePublisher(Protocol):
    """Sends the frames of one source."""

    @property
    def source(self) -> Source:
        """The source with its address."""

    def send(self, frame: Frame) -> None:
        """Give a frame to whoever follows; never blocks. A frame that cannot be queued is dropped and counted."""

    def statistics(self) -> Mapping[str, int]:
        """Counters since the start; ``dropped`` is one of them."""

    async def close(self) -> None:
        """Leave; idempotent; no socket, file, task or thread is left."""


class PlaneSubscriber(Protocol):
    """Receives the frames of the sources that it follows."""

    async def follow(self, source: Source) -> None:
        """Begin to receive; returns when frames that are sent from now on will come. Raises `TransportError`."""

    def unfollow(self, source: Source) -> None:
        """Receive no more of it."""

    def fetch(self, source: Source, after: int) -> AsyncIterator[Frame]:
        """Yield the frames that lead from number ``after`` to the present.

        Raises `TransportError`, and of these `SnapshotFailed` if the source cannot tell its state.
        """

    def statistics(self) -> Mapping[str, int]:
        """Counters since the start."""

    async def close(self) -> None:
        """Leave; idempotent; no socket, file, task or thread is left."""


class EventPlane(Protocol):
    """What an event plane's name stands for; one object per process, built from the settings."""

    @property
    def capabilities(self) -> EventCapabilities:
        """What this plane can do."""

    async def publisher(self, source: Source, answer: Answer, snapshot_every: int) -> PlanePublisher:
        """Open one; a durable plane asks ``answer(0)`` for a snapshot after so many events. Raises `TransportError`."""

    async def subscriber(self, topic: str, received: Callable[[Source, Frame], None]) -> PlaneSubscriber:
        """Open one. Raises `TransportError`.

        An empty frame given to ``received`` says that frames may have been lost: what is missing is to be fetched.
        """

    async def close(self) -> None:
        """Give back what all of them share; idempotent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPlaneContext:
    """What a plane is built with."""

    namespace: str
    node: str
    settings: NetworkSettings
    directory: str
    """A directory of this process's own for sockets (0700), or empty."""


MakePlane = Callable[[EventPlaneContext], EventPlane]
