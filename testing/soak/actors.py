"""The actors of a soak: workers that write down each run, and drivers that put load on them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, cast

from callboard.actors.actor import Actor, blocking, idempotent
from callboard.actors.node import Node
from callboard.actors.origin import Origin
from callboard.actors.ref import Ref

from .ledger import INNER, End, Event, Ledger
from .load import Load, Targets


def counts(node: Node) -> dict[str, int]:
    """Return how much of everything that could leak there is in a process."""
    sessions = node._sessions.values()
    origins = [session for session in sessions if isinstance(session, Origin)]
    return {
        "tasks": len(asyncio.all_tasks()),
        "asks": len(node.pending),
        "streams": len(node.readers),
        "letters": sum(len(origin.calls) for origin in origins),
        "mail": sum(len(cell.mailbox) for cell in node.cells.values()),
        "running": sum(cell.running for cell in node.cells.values()),
        "peers": len(node._peers),
        "sessions": len(sessions),
        "outlets": sum(len(peer.outlets) for peer in node._peers.values()),
        "cells": len(node.cells),
    }


class Watched(Actor):
    """Says what there is in its process."""

    async def look(self) -> dict[str, int]:
        """See `counts`."""
        return counts(cast("Node", self.context.ref._host))


class Worker(Watched):
    """Writes down each run before anything else, and how it ended."""

    concurrency = 32

    def __init__(self, directory: str, inner: Ref[Worker] | None = None) -> None:
        self.ledger = Ledger(directory, "runs", self.context.name, self.context.incarnation)
        self.inner = inner
        self.leaked: list[bytes] = []

    async def work(self, number_id: int, order: int, hold_s: float, pad: bytes = b"") -> int:
        """Take ``hold_s`` seconds."""
        self.ledger.write(Event.RUN, number_id, 0, order)
        try:
            if hold_s:
                await asyncio.sleep(hold_s)
        except asyncio.CancelledError:
            self.ledger.write(Event.DONE, number_id, End.CANCELLED)
            raise
        self.ledger.write(Event.DONE, number_id, End.RETURNED)
        return number_id

    @idempotent
    async def again(self, number_id: int, hold_s: float) -> int:
        """The same, as often as it takes."""
        return await self.work(number_id, 0, hold_s)

    @blocking
    def block(self, number_id: int, hold_s: float) -> int:
        """Take as long in a thread, less if the caller leaves."""
        self.ledger.write(Event.RUN, number_id)
        end = time.monotonic() + hold_s
        while time.monotonic() < end:
            if self.context.cancelled:
                self.ledger.write(Event.DONE, number_id, End.CANCELLED)
                return 0
            time.sleep(0.005)
        self.ledger.write(Event.DONE, number_id, End.RETURNED)
        return number_id

    async def relay(self, number_id: int, order: int, hold_s: float) -> int:
        """Ask the worker behind this one, and return what it answers."""
        self.ledger.write(Event.RUN, number_id, 0, order)
        assert self.inner is not None
        try:
            answer = await self.inner.ask(Worker.work, number_id | INNER, 0, hold_s)
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            self.ledger.write(Event.DONE, number_id, End.CANCELLED if cancelled else End.RAISED)
            raise
        self.ledger.write(Event.DONE, number_id, End.RETURNED)
        return answer & ~INNER

    async def fail(self, number_id: int, order: int) -> None:
        """Raise."""
        self.ledger.write(Event.RUN, number_id, 0, order)
        self.ledger.write(Event.DONE, number_id, End.RAISED)
        raise ValueError(number_id)

    async def note(self, number_id: int, order: int, hold_s: float, pad: bytes = b"") -> None:
        """For tells."""
        await self.work(number_id, order, hold_s)

    async def items(self, number_id: int, order: int, count: int, pause_s: float) -> AsyncIterator[list[int]]:
        """Count up."""
        self.ledger.write(Event.RUN, number_id, 0, order)
        end = End.CANCELLED
        try:
            for number in range(count):
                yield [number_id, number]
                if pause_s:
                    await asyncio.sleep(pause_s)
            end = End.RETURNED
        finally:
            self.ledger.write(Event.DONE, number_id, end)


class Narrow(Worker):
    """One message at a time, and a small mailbox, which bursts overflow."""

    concurrency = 1


class Leaky(Worker):
    """Keeps some bytes of each ask for ever: what the soak must find."""

    def __init__(self, directory: str, bytes_per_ask: int) -> None:
        super().__init__(directory)
        self.bytes_per_ask = bytes_per_ask

    async def work(self, number_id: int, order: int, hold_s: float, pad: bytes = b"") -> int:
        """Leak, then work."""
        self.leaked.append(number_id.to_bytes(8, "big") * (self.bytes_per_ask // 8))
        return await super().work(number_id, order, hold_s, pad)


class Driver(Watched):
    """A load in a process of its own, from the start until it is told to finish."""

    concurrency = 4

    def __init__(self, directory: str, number: int, seed: int, rate: float, targets: Targets) -> None:
        incarnation = self.context.incarnation
        ledger = Ledger(directory, "calls", self.context.name, incarnation)
        self.load = Load(targets, ledger, number=number, incarnation=incarnation, seed=seed, rate=rate)

    async def on_start(self) -> None:
        """Begin."""
        self.load.begin()

    async def finish(self, limit_s: float) -> dict[str, Any]:
        """See `Load.finish`."""
        seen: Counter[str] = await self.load.finish(limit_s)
        return dict(seen)
