"""xoscar: the client in the main pool, the actor in a sub pool of a process of its own, a Unix socket between them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any

import xoscar as xo
from xoscar.backends.allocate_strategy import ProcessIndex

from ..measuring import Client, Values, measure
from ..payloads import MESSAGES
from .driving import drive, run


class Echo(xo.Actor):  # type: ignore[misc, unused-ignore]
    """As `callboard.bench.actors.Echo` and `Source`."""

    def __init__(self) -> None:
        super().__init__()
        self.told = 0

    async def echo(self, message: Any) -> Any:
        """Return the message."""
        return message

    def note(self, message: Any) -> None:
        """Count a tell."""
        self.told += 1

    def count(self) -> int:
        """How many were told."""
        return self.told

    def pid(self) -> int:
        """The process it runs in."""
        return os.getpid()

    @xo.generator  # type: ignore[untyped-decorator, unused-ignore]
    async def items(self, count: int) -> AsyncIterator[dict[str, Any]]:
        """Return a generator; every item of it is a round trip."""

        async def generate() -> AsyncIterator[dict[str, Any]]:
            for index in range(count):
                yield {"i": index, "token": "hello", "done": False, "score": 0.5}

        return generate()


class XoscarClient(Client):
    """The other end."""

    def __init__(self, echo: Any) -> None:
        self.echo = echo
        self.sent = 0

    async def ask(self, message: dict[str, Any]) -> Any:
        """Ask the actor."""
        return await self.echo.echo(message)

    async def big(self, data: bytes) -> Any:
        """Ask the actor."""
        return await self.echo.echo(data)

    async def tell_for(self, seconds: float) -> int:
        """256 gathered."""
        sent = 0
        end = perf_counter() + seconds
        while perf_counter() < end:
            batch = MESSAGES[(sent & 4095) : (sent & 4095) + 256]
            await asyncio.gather(*(self.echo.note.tell(message) for message in batch))
            sent += 256
        self.sent += sent
        return sent

    async def told(self) -> int:
        """Wait until all are handled: a tell is on its way when the call returns."""
        while True:
            count = int(await self.echo.count())
            if count >= self.sent:
                return count

    async def stream(self, count: int) -> AsyncIterator[Any]:
        """Read a stream."""
        async for item in await self.echo.items(count):
            yield item

    async def server_pid(self) -> int:
        """The sub pool."""
        return int(await self.echo.pid())


async def main(what: str, seconds: float) -> Values:
    """Make the pools and measure."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pool = await xo.create_actor_pool(f"127.0.0.1:{port}", n_process=1)
    async with pool:
        echo = await xo.create_actor(
            Echo, uid="echo", address=pool.external_address, allocate_strategy=ProcessIndex(1)
        )
        return await measure(XoscarClient(echo), what, seconds)


def measured(what: str, seconds: float, transport: str) -> Values:
    """One measurement between two processes."""
    result: Values = run(main(what, seconds))
    return result


if __name__ == "__main__":
    drive(measured)
