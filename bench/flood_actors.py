"""The actors of the flood cases: who is flooded, and who floods."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic
from typing import Any

from callboard.actors.actor import Actor, interleave
from callboard.actors.errors import ActorError
from callboard.actors.policy import StopReason
from callboard.actors.ref import Ref

ASKS = 64
CALLS = 32


class Flooded(Actor):
    """Handles one message at a time, each for ``handler_s`` seconds of the processor's time."""

    def __init__(self, handler_s: float = 0.0) -> None:
        self.handler_s = handler_s
        self.cancelled_s = 0.0
        self.begun = False
        self.handled = 0

    async def on_stop(self, reason: StopReason) -> None:
        """Say when this was."""
        self.context.announce(f"{monotonic()}")

    async def note(self, message: dict[str, Any]) -> int:
        """One message of the flood."""
        end = monotonic() + self.handler_s
        while self.handler_s and monotonic() < end:
            pass
        self.handled += 1
        return self.handled

    async def queued(self) -> None:
        """An ask that waits behind the flood and is left before its turn."""

    async def hold(self) -> None:
        """Wait to be cancelled."""
        self.begun = True
        try:
            await asyncio.sleep(3600)
        finally:
            self.cancelled_s = monotonic()

    @interleave
    async def hold_beside(self) -> None:
        """The same, without waiting for a turn."""
        await self.hold()

    @interleave
    async def look(self) -> tuple[bool, float, int]:
        """Whether `hold` has begun and when it was cancelled (monotonic clock), and how many `queued` wait."""
        cells = self.context.ref._host.cells.values()  # type: ignore[attr-defined]
        letters = [letter for cell in cells for letter in cell.mailbox.queue if not letter.cancelled]
        return self.begun, self.cancelled_s, sum(letter.method.name == "queued" for letter in letters)

    @interleave
    async def reset(self) -> None:
        """Forget the last `hold`."""
        self.begun, self.cancelled_s = False, 0.0


class Flooder(Actor):
    """Tells and asks as fast as it can, from its start to its stop, whatever it is answered."""

    def __init__(self, target: Ref[Flooded], payload: dict[str, Any]) -> None:
        self.target = target
        self.payload = payload
        self.tasks: list[asyncio.Task[None]] = []

    async def on_start(self) -> None:
        """Begin."""
        self.tasks = [
            asyncio.create_task(self._tell()),
            *(asyncio.create_task(self._ask()) for _ in range(ASKS)),
        ]

    async def on_stop(self, reason: StopReason) -> None:
        """End."""
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)

    async def _tell(self) -> None:
        while True:
            try:
                for _ in range(CALLS):
                    self.target.tell(Flooded.note, self.payload)
                await asyncio.sleep(0)
            except ActorError:
                with suppress(ActorError):
                    await self.target.tell_wait(Flooded.note, self.payload)
                await asyncio.sleep(0)

    async def _ask(self) -> None:
        while True:
            with suppress(ActorError):
                await self.target.ask(Flooded.note, self.payload)
            await asyncio.sleep(0)
