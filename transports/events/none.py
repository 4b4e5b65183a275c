"""No events: nothing leaves, nothing comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from .base import Answer, EventCapabilities, EventPlaneContext, Frame, Source
from .errors import SourceGone


class NoEvents:
    """The plane ``none``; its publishers and subscribers do nothing."""

    def __init__(self, context: EventPlaneContext) -> None:
        self._context = context

    @property
    def capabilities(self) -> EventCapabilities:
        """What this plane can do."""
        return EventCapabilities(scheme="none", summary="no events", between_processes=True)

    async def publisher(self, source: Source, answer: Answer, snapshot_every: int) -> NoPublisher:
        """Open a publisher."""
        return NoPublisher(source)

    async def subscriber(self, topic: str, received: Callable[[Source, Frame], None]) -> NoSubscriber:
        """Open a subscriber."""
        return NoSubscriber()

    async def close(self) -> None:
        """There is nothing to give back."""


class NoPublisher:
    """Sends nothing."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def send(self, frame: Frame) -> None:
        """Drop a frame: nobody listens."""

    def statistics(self) -> Mapping[str, int]:
        """Nothing is counted."""
        return {"dropped": 0}

    async def close(self) -> None:
        """Leave."""


class NoSubscriber:
    """Receives nothing."""

    async def follow(self, source: Source) -> None:
        """Nothing will come."""

    def unfollow(self, source: Source) -> None:
        """Nothing came."""

    async def fetch(self, source: Source, after: int) -> AsyncIterator[Frame]:
        """There is nothing. Raises `SourceGone`."""
        raise SourceGone(source.name, "the event plane is none")
        yield b""

    def statistics(self) -> Mapping[str, int]:
        """Nothing is counted."""
        return {}

    async def close(self) -> None:
        """Leave."""
