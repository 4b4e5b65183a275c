"""An event plane that loses frames on purpose, for tests: set ``CALLBOARD_EVENT_LOSS`` to a share, as in ``0.05``.

What is lost is what a plane may lose: frames on their way to subscribers. What is fetched arrives.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from random import Random

from ..errors import ConfigError
from .base import Answer, EventCapabilities, EventPlane, Frame, PlanePublisher, PlaneSubscriber, Source

VARIABLE = "CALLBOARD_EVENT_LOSS"


def with_faults(plane: EventPlane) -> EventPlane:
    """Return the plane as the environment wants it. Raises `ConfigError`."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return plane
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError(f"{VARIABLE} is {text!r}; it must be a share from 0 to 1, as in 0.05")
    return LossyEvents(plane, share)


class LossyEvents:
    """Loses a share of the frames that its publishers send."""

    def __init__(self, plane: EventPlane, share: float) -> None:
        self._plane, self._share = plane, share

    @property
    def capabilities(self) -> EventCapabilities:
        """Those of the plane below."""
        return self._plane.capabilities

    async def publisher(self, source: Source, answer: Answer, snapshot_every: int) -> LossyPublisher:
        """Open a publisher that loses frames."""
        below = await self._plane.publisher(source, answer, snapshot_every)
        return LossyPublisher(below, self._share, Random(source.id))

    async def subscriber(self, topic: str, received: Callable[[Source, Frame], None]) -> PlaneSubscriber:
        """Open a subscriber."""
        return await self._plane.subscriber(topic, received)

    async def close(self) -> None:
        """Close the plane below."""
        await self._plane.close()


class LossyPublisher:
    """Passes most frames on."""

    def __init__(self, below: PlanePublisher, share: float, rng: Random) -> None:
        self._below, self._share, self._rng = below, share, rng
        self.lost = 0

    @property
    def source(self) -> Source:
        """That of the publisher below."""
        return self._below.source

    def send(self, frame: Frame) -> None:
        """Pass a frame on, or lose it."""
        if self._rng.random() < self._share:
            self.lost += 1
        else:
            self._below.send(frame)

    def statistics(self) -> Mapping[str, int]:
        """Those of the publisher below, and what was lost on purpose."""
        return {**self._below.statistics(), "lost_on_purpose": self.lost}

    async def close(self) -> None:
        """Close the publisher below."""
        await self._below.close()
