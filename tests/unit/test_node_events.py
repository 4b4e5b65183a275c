"""The event plane of one process: what its actors have open ends with them, at the same time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from callboard.actors import events
from callboard.actors.events import NodeEvents, Topic
from callboard.actors.sources import Sources
from callboard.transports.events.base import Answer, Source
from callboard.transports.settings import NetworkSettings

TOPIC = Topic("t", int)


@dataclass
class Host:
    id: str = "node"
    namespace: str = "n"
    settings: NetworkSettings = field(default_factory=NetworkSettings)
    sources: Sources = field(default_factory=Sources)


@dataclass
class Slow:
    """A publisher that closes when all have begun to."""

    source: Source
    begun: asyncio.Barrier

    async def close(self) -> None:
        async with asyncio.timeout(30):
            await self.begun.wait()


class Plane:
    """A plane of slow publishers."""

    def __init__(self, publishers: int) -> None:
        self._begun = asyncio.Barrier(publishers)

    async def publisher(self, source: Source, _: Answer, __: int) -> Slow:
        return Slow(source, self._begun)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("whole", [False, True], ids=["of an actor", "of a process"])
async def test_publishers_close_at_the_same_time(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    plane: Any = Plane(3)
    monkeypatch.setattr(events, "make_event_plane", lambda *_: plane)
    host = Host()
    opened = NodeEvents(host)
    for _ in range(3):
        await opened.publisher("a.0", 1, TOPIC, None)
    assert len(host.sources) == 3
    await (opened.close() if whole else opened.close_actor("a.0"))
    assert len(host.sources) == 0
    await opened.close()


async def test_a_source_ends_also_if_closing_its_publisher_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plane: Any = Plane(2)
    monkeypatch.setattr(events, "make_event_plane", lambda *_: plane)
    host = Host()
    opened = NodeEvents(host)
    await opened.publisher("a.0", 1, TOPIC, None)
    closing = asyncio.create_task(opened.close_actor("a.0"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait((closing,))
    assert len(host.sources) == 0
