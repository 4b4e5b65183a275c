"""Who publishes which topic: what discovery says, and who wants to know. Pure."""

from __future__ import annotations

from collections.abc import Callable

from callboard.transports.events.base import Source


class Listener:
    """Somebody who follows the sources of a topic: ``joined(source)`` and ``left(source, why)``."""

    __slots__ = ("component", "joined", "left", "topic")

    def __init__(
        self,
        topic: str,
        component: str | None,
        joined: Callable[[Source], object],
        left: Callable[[Source, str], object],
    ) -> None:
        self.topic, self.component = topic, component
        self.joined, self.left = joined, left

    def wants(self, source: Source) -> bool:
        """True if this source is one of those that are followed."""
        return source.topic == self.topic and self.component in (None, source.component)


class Sources:
    """The sources that are there, by id."""

    def __init__(self) -> None:
        self._by_id: dict[int, Source] = {}
        self._listeners: list[Listener] = []
        self.announce: Callable[[Source], object] | None = None
        """Tells the other processes of a source of this one."""
        self.withdraw: Callable[[Source], object] | None = None

    def __repr__(self) -> str:
        return f"<Sources {len(self._by_id)}, {len(self._listeners)} listeners>"

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, source: Source) -> None:
        """A source is there; one that is known already is ignored."""
        if source.id not in self._by_id:
            self._by_id[source.id] = source
            for listener in tuple(self._listeners):
                if listener.wants(source):
                    listener.joined(source)

    def remove(self, identifier: int, why: str) -> None:
        """A source is gone."""
        source = self._by_id.pop(identifier, None)
        if source is not None:
            for listener in tuple(self._listeners):
                if listener.wants(source):
                    listener.left(source, why)

    def node_down(self, node: str, why: str) -> None:
        """A process is gone, with all its sources."""
        for source in [source for source in self._by_id.values() if source.node == node]:
            self.remove(source.id, why)

    def follow(self, listener: Listener) -> Callable[[], None]:
        """Tell ``listener`` of what is there and of every change; returns the function that ends it."""
        self._listeners.append(listener)
        for source in list(self._by_id.values()):
            if listener.wants(source):
                listener.joined(source)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def publish(self, source: Source) -> None:
        """A source of this process begins."""
        self.add(source)
        if self.announce is not None:
            self.announce(source)

    def end(self, source: Source, why: str) -> None:
        """A source of this process ends."""
        self.remove(source.id, why)
        if self.withdraw is not None:
            self.withdraw(source)
