"""Actors for tests of callers that go: one that holds what it is asked, one that asks it everything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from callboard.actors.actor import Actor, blocking, interleave
from callboard.actors.ref import Ref

KINDS = ["hold", "hold_beside", "hold_thread", "trickle"]


class Held(Actor):
    """Notes which handlers have begun and which have ended, and how many messages wait."""

    concurrency = 3

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []

    async def hold(self, kind: str = "hold") -> None:
        self.begun.append(kind)
        try:
            await asyncio.sleep(600)
        finally:
            self.ended.append(kind)

    @interleave
    async def hold_beside(self) -> None:
        await self.hold("hold_beside")

    @blocking
    def hold_thread(self) -> None:
        self.begun.append("hold_thread")
        while not self.context.cancelled:
            time.sleep(0.001)
        self.ended.append("hold_thread")

    async def trickle(self) -> AsyncIterator[int]:
        self.begun.append("trickle")
        try:
            yield 1
            await asyncio.sleep(600)
        finally:
            self.ended.append("trickle")

    async def queued(self) -> None:
        self.begun.append("queued")

    @interleave
    async def look(self) -> tuple[list[str], list[str], int]:
        (cell,) = self.context.ref._host.cells.values()
        return sorted(self.begun), sorted(self.ended), len(cell.mailbox)


def call_all(ref: Ref[Any]) -> list[asyncio.Future[Any]]:
    """One call of each kind; what fills the actor comes first, so that the last one waits in its mailbox."""
    stream = ref.stream(Held.trickle)

    async def read() -> None:
        async for _ in stream:
            pass

    calls = [read(), *(ref.ask(kind) for kind in KINDS[:3]), ref.ask(Held.queued)]
    return [asyncio.ensure_future(call) for call in calls]


class Caller(Actor):
    """Calls from a process of its own."""

    async def call(self, ref: Ref[Held]) -> None:
        self.calls = call_all(ref)
