"""Actors whose processes are killed, or hold many messages, in processes of their own."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

from callboard.actors.actor import Actor, blocking, interleave
from callboard.actors.ref import Ref


class Victim(Actor):
    """Handles one message at a time, and says in a file when it has begun."""

    async def hold(self, path: str) -> None:
        Path(path).touch()
        await asyncio.Event().wait()

    async def note(self) -> None:
        """Waits behind the one that holds."""

    async def last(self) -> str:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGKILL)
        return "an answer that is made, and never leaves"

    async def some(self) -> AsyncIterator[int]:
        yield 0
        yield 1
        await asyncio.Event().wait()


class Worker(Actor):
    """Writes files when a handler begins, ends, and is cancelled."""

    concurrency = 10

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)

    def note(self, what: str, manner: str) -> None:
        (self.directory / f"{what}.{manner}").touch()

    async def until_cancelled(self, manner: str) -> None:
        self.note("begun", manner)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.note("cancelled", manner)
            raise
        self.note("ended", manner)

    async def wait(self) -> None:
        await self.until_cancelled("wait")

    @interleave
    async def wait_beside(self) -> None:
        await self.until_cancelled("wait_beside")

    @blocking
    def wait_in_thread(self) -> None:
        self.note("begun", "wait_in_thread")
        while not self.context.cancelled:
            time.sleep(0.005)
        self.note("cancelled", "wait_in_thread")

    async def items(self) -> AsyncIterator[int]:
        yield 1
        await self.until_cancelled("items")

    async def ping(self) -> int:
        return self.context.incarnation


class Asks(Actor):
    """Asks another actor for its own caller."""

    concurrency = 10

    def __init__(self, ref: Ref[Worker]) -> None:
        self.ref = ref.options(deadline_s=60)

    async def pass_on(self, manner: str) -> None:
        if manner == "items":
            async for _ in self.ref.stream(Worker.items):
                pass
        else:
            await self.ref.ask(manner)


class Flooder(Actor):
    """Sends as fast as it is let."""

    concurrency = 2

    def __init__(self, ref: Ref[SlowReader]) -> None:
        self.ref = ref.options(deadline_s=math.inf)
        self.sent = 0
        self.done = False

    async def flood(self, messages: int, size: int) -> int:
        for number in range(messages):
            await self.ref.tell_wait(SlowReader.take, number, os.urandom(16) * (size // 16))
            self.sent += 1
        self.done = True
        return self.sent

    async def state(self) -> tuple[int, bool]:
        """How many were accepted, and whether it is held back, or through."""
        route = self.ref._target.pick()
        return self.sent, self.done or route.crowded


class SlowReader(Actor):
    """Takes nothing until a file is there, then one message after the other, and counts those out of order."""

    def __init__(self, gate: str) -> None:
        self.gate = Path(gate)
        self.taken = 0
        self.wrong = 0

    async def take(self, number: int, data: bytes) -> None:
        while not self.gate.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        self.wrong += number != self.taken
        self.taken += 1
        await asyncio.sleep(0)

    @interleave
    async def counts(self) -> tuple[int, int]:
        return self.taken, self.wrong
