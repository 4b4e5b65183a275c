"""The actors that are measured."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from callboard.actors.actor import Actor, interleave
from callboard.actors.ref import Ref

from .payloads import MESSAGES


class Echo(Actor):
    """Answers, counts and returns what it is given; one message at a time."""

    def __init__(self) -> None:
        self.told = 0

    async def echo(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the message."""
        return message

    async def big(self, data: bytes) -> bytes:
        """Return the buffer."""
        return data

    async def view(self, data: memoryview) -> memoryview:
        """Return the view."""
        return data

    async def note(self, message: dict[str, Any]) -> None:
        """Count a tell."""
        self.told += 1

    async def count(self) -> int:
        """How many were told."""
        return self.told

    async def pid(self) -> int:
        """The process it runs in."""
        return os.getpid()


class Source(Actor):
    """Streams small dicts, as fast as they are taken."""

    concurrency = 1024

    async def items(self, count: int) -> AsyncIterator[dict[str, Any]]:
        """Yield ``count`` items of about 50 bytes."""
        for index in range(count):
            yield {"i": index, "token": "hello", "done": False, "score": 0.5}

    @interleave
    def pid(self) -> int:
        """The process it runs in."""
        return os.getpid()


class Held(Actor):
    """Lets messages pile up in its mailbox until it is told to go on."""

    def __init__(self) -> None:
        self._go = asyncio.Event()
        self._holds = asyncio.Event()
        self._handled = 0

    async def hold(self) -> None:
        """Handle nothing else until `release`."""
        self._handled = 0
        self._holds.set()
        await self._go.wait()
        self._go.clear()
        self._holds.clear()

    @interleave
    async def fill(self, count: int) -> None:
        """Put so many messages into its own mailbox, behind `hold`."""
        await self._holds.wait()
        own = self.context.ref
        for number in range(count):
            own.tell(Held.note, MESSAGES[number & 4095])

    @interleave
    def release(self) -> None:
        """Let `hold` return."""
        self._go.set()

    async def note(self, message: dict[str, Any]) -> None:
        """Count a message."""
        self._handled += 1

    async def handled(self) -> int:
        """How many were handled since `hold`; comes after them."""
        return self._handled

    @interleave
    def pid(self) -> int:
        """The process it runs in."""
        return os.getpid()


class Forwarder(Actor):
    """Between client and source, as a router is between frontend and worker."""

    concurrency = 1024

    def __init__(self, source: Ref[Source]) -> None:
        self.source = source

    async def items(self, count: int) -> AsyncIterator[dict[str, Any]]:
        """Pass the items of the source on."""
        async for item in self.source.stream(Source.items, count):
            yield item


class Idle(Actor):
    """Does nothing."""

    async def ready(self) -> bool:
        """Answer once."""
        return True
