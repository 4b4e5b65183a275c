"""Actors of the tests of the event plane."""

from __future__ import annotations

import asyncio

from callboard import Actor, interleave
from callboard.actors.events import Event, Left, Lost, Snapshot, Topic
from callboard.actors.policy import StopReason

NUMBERS = Topic("numbers", int)


class Speaker(Actor):
    """Says numbers; its state is all that it has said."""

    async def on_start(self) -> None:
        self.said: list[int] = []
        self.publisher = await self.context.events.publisher(NUMBERS, snapshot=lambda: self.said)

    def say(self, count: int) -> int:
        for _ in range(count):
            self.said.append(len(self.said))
            self.publisher.send(self.said[-1])
        return len(self.said)

    def statistics(self) -> dict[str, int]:
        return dict(self.publisher.statistics())


class Listener(Actor):
    """Knows what each speaker has said."""

    def __init__(self, component: str | None = None) -> None:
        self._component = component
        self._heard: dict[int, list[int]] = {}
        self._names: dict[int, str] = {}
        self.lost = 0

    async def on_start(self) -> None:
        self._subscription = await self.context.events.subscribe(NUMBERS, component=self._component)
        self._task = asyncio.create_task(self._listen())

    async def on_stop(self, reason: StopReason) -> None:
        self._task.cancel()

    async def _listen(self) -> None:
        async for item in self._subscription:
            match item:
                case Snapshot(source, _, values):
                    self._heard[source.id], self._names[source.id] = list(values), source.name
                case Event(source, _, value):
                    self._heard[source.id].append(value)
                case Left(source):
                    self._heard.pop(source.id, None)
                case Lost():
                    self.lost += 1

    @interleave
    def heard(self) -> dict[str, list[int]]:
        return {self._names[key]: values for key, values in self._heard.items()}

    @interleave
    async def synced(self) -> bool:
        await self._subscription.synced()
        return True

    @interleave
    def statistics(self) -> dict[str, int]:
        return dict(self._subscription.statistics())
