"""callboard as the measurements use it: actors of a rig."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from time import perf_counter
from typing import Any, Self

from callboard.actors.errors import MailboxFull
from callboard.actors.ref import Ref

from .actors import Echo, Forwarder, Source
from .measuring import Client
from .payloads import MESSAGES
from .rig import Rig


class CallboardClient(Client):
    """References to the actors that a measurement needs; nothing stands between it and them."""

    def __init__(self) -> None:
        self.echo: Ref[Echo]
        self.source: Ref[Source]
        self.forwarder: Ref[Forwarder]

    @classmethod
    async def of(cls, rig: Rig, what: str) -> Self:
        """Spawn what is needed for the measurement ``what``. Raises `callboard.bench.measuring.Skipped`."""
        client = cls()
        if what == "pipeline":
            rig.system  # noqa: B018 (a memory plane has two nodes, not three)
            client.source = await rig.spawn(Source)
            client.forwarder = await rig.spawn(Forwarder, client.source)
        elif what.startswith("stream"):
            client.source = await rig.spawn(Source)
        else:
            client.echo = await rig.spawn(Echo)
        return client

    def ask(self, message: dict[str, Any]) -> Awaitable[Any]:
        """Ask the actor."""
        return self.echo.ask(Echo.echo, message)

    def view(self, data: bytes) -> memoryview:
        """A view of what could change, as an array could."""
        return memoryview(bytearray(data))

    def big(self, data: Any) -> Awaitable[Any]:
        """Ask the actor."""
        return self.echo.ask(Echo.view if type(data) is memoryview else Echo.big, data)

    async def tell_for(self, seconds: float) -> int:
        """256 a turn; a full mailbox holds the sender back."""
        echo, sent = self.echo, 0
        end = perf_counter() + seconds
        while perf_counter() < end:
            for message in MESSAGES[(sent & 4095) : (sent & 4095) + 256]:
                try:
                    echo.tell(Echo.note, message)
                except MailboxFull:
                    await echo.tell_wait(Echo.note, message)
            sent += 256
            await asyncio.sleep(0)
        return sent

    async def told(self) -> int:
        """Ask the actor how many."""
        return await self.echo.ask(Echo.count)

    def stream(self, count: int) -> AsyncIterator[Any]:
        """Read from the source."""
        return self.source.stream(Source.items, count)

    def pipeline(self, count: int) -> AsyncIterator[Any]:
        """Read through the forwarder."""
        return self.forwarder.stream(Forwarder.items, count)

    async def server_pid(self) -> int:
        """The process of the actor."""
        return await self.echo.ask(Echo.pid)
