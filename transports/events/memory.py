"""Events within one process: for tests, and for systems that are one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from .base import Answer, EventCapabilities, EventPlaneContext, Frame, Source
from .errors import SourceGone

_publishers: dict[tuple[str, int], MemoryPublisher] = {}
"""By namespace and source."""


class MemoryEvents:
    """The plane ``memory``."""

    def __init__(self, context: EventPlaneContext) -> None:
        self._namespace = context.namespace

    @property
    def capabilities(self) -> EventCapabilities:
        """What this plane can do."""
        return EventCapabilities(scheme="memory", summary="within one process", between_processes=False)

    async def publisher(self, source: Source, answer: Answer, snapshot_every: int) -> MemoryPublisher:
        """Open a publisher."""
        return MemoryPublisher(self._namespace, replace(source, address="memory"), answer)

    async def subscriber(self, topic: str, received: Callable[[Source, Frame], None]) -> MemorySubscriber:
        """Open a subscriber."""
        return MemorySubscriber(self._namespace, received)

    async def close(self) -> None:
        """There is nothing to give back."""


class MemoryPublisher:
    """Calls its followers in the next turn of the loop."""

    def __init__(self, namespace: str, source: Source, answer: Answer) -> None:
        self.source, self.answer = source, answer
        self._key = (namespace, source.id)
        self.followers: list[Callable[[Source, Frame], None]] = []
        _publishers[self._key] = self

    def send(self, frame: Frame) -> None:
        """Give a frame to whoever follows."""
        loop = asyncio.get_running_loop()
        for follower in tuple(self.followers):
            loop.call_soon(follower, self.source, frame)

    def statistics(self) -> Mapping[str, int]:
        """Nothing is dropped."""
        return {"dropped": 0}

    async def close(self) -> None:
        """Leave."""
        _publishers.pop(self._key, None)
        self.followers.clear()


class MemorySubscriber:
    """Follows publishers of this process."""

    def __init__(self, namespace: str, received: Callable[[Source, Frame], None]) -> None:
        self._namespace, self._received = namespace, received
        self._following: set[int] = set()

    async def follow(self, source: Source) -> None:
        """Begin to receive. Raises `SourceGone`."""
        self._find(source).followers.append(self._received)
        self._following.add(source.id)

    def unfollow(self, source: Source) -> None:
        """Receive no more of it."""
        self._following.discard(source.id)
        publisher = _publishers.get((self._namespace, source.id))
        if publisher is not None:
            with suppress(ValueError):
                publisher.followers.remove(self._received)

    async def fetch(self, source: Source, after: int) -> AsyncIterator[Frame]:
        """Yield what the source answers. Raises `SourceGone`."""
        for frame in await self._find(source).answer(after):
            yield frame

    def _find(self, source: Source) -> MemoryPublisher:
        publisher = _publishers.get((self._namespace, source.id))
        if publisher is None:
            raise SourceGone(source.name, "it is not in this process, or was closed")
        return publisher

    def statistics(self) -> Mapping[str, int]:
        """Nothing is counted here."""
        return {}

    async def close(self) -> None:
        """Leave."""
        for identifier in list(self._following):
            publisher = _publishers.get((self._namespace, identifier))
            if publisher is not None:
                with suppress(ValueError):
                    publisher.followers.remove(self._received)
