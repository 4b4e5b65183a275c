"""The actors of the model, and the gates that hold their handlers until the machine lets them go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from callboard.actors.actor import Actor, interleave
from callboard.actors.ref import Ref

from .reference import Boom, Run


class Gates:
    """Where handlers wait."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[None]] = {}
        """By the number of the message, in the order they came."""
        self.open = False
        """True: nobody waits any more."""

    async def pass_through(self, number: int) -> None:
        """Return when the gate of this message is opened."""
        if self.open:
            await asyncio.sleep(0)
            return
        gate = self.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await gate
        finally:
            if self.waiting.get(number) is gate:
                del self.waiting[number]

    def release(self, which: int) -> None:
        """Let one handler go on."""
        gates = list(self.waiting.values())
        gate = gates[which % len(gates)]
        if not gate.done():
            gate.set_result(None)

    def release_all(self) -> None:
        """Let everybody go on, also who comes later."""
        self.open = True
        for gate in self.waiting.values():
            if not gate.done():
                gate.set_result(None)


class Witness(Protocol):
    """Who is told what handlers do; one per process, and deaf once that process is dead."""

    gates: Gates
    nested: Callable[[Ref[Any], int, list[str]], Any]

    def began(self, number: int, actor: Actor, *, keeps_order: bool) -> Run:
        """A handler begins."""

    def ends(self, number: int, run: Run, how: str) -> None:
        """A handler is over."""


class Subject(Actor):
    """Handles one message at a time, in every way that there is."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness

    @contextmanager
    def _run(self, number: int, *, keeps_order: bool = True) -> Iterator[Run]:
        witness = self.witness
        run = witness.began(number, self, keeps_order=keeps_order)
        try:
            yield run
        except (asyncio.CancelledError, GeneratorExit):
            witness.ends(number, run, "cancelled")
            raise
        except BaseException:
            witness.ends(number, run, "raised")
            raise
        witness.ends(number, run, "returned")

    async def quick(self, number: int) -> list[int]:
        with self._run(number):
            return [number, self.context.incarnation]

    def plain(self, number: int) -> list[int]:
        with self._run(number):
            return [number, self.context.incarnation]

    async def gated(self, number: int) -> list[int]:
        with self._run(number):
            await self.witness.gates.pass_through(number)
            return [number, self.context.incarnation]

    async def boom(self, number: int) -> list[int]:
        with self._run(number):
            await self.witness.gates.pass_through(number)
            raise Boom(number)

    async def deaf(self, number: int) -> list[int]:
        """Takes no notice of its cancellation."""
        with self._run(number):
            while True:
                try:
                    await self.witness.gates.pass_through(number)
                except asyncio.CancelledError:
                    continue
                return [number, self.context.incarnation]

    @interleave
    async def beside(self, number: int) -> list[int]:
        with self._run(number, keeps_order=False):
            await self.witness.gates.pass_through(number)
            return [number, self.context.incarnation]

    async def via(self, number: int, path: list[Ref[Any]]) -> list[int]:
        """Ask the first of ``path`` to ask the rest of it."""
        with self._run(number):
            await self.witness.nested(path[0], number, path[1:])
            return [number, self.context.incarnation]

    async def items(self, number: int, count: int) -> AsyncIterator[list[int]]:
        with self._run(number) as run:
            for index in range(count):
                run.produced += 1
                yield [number, index, self.context.incarnation]

    async def gated_items(self, number: int, count: int) -> AsyncIterator[list[int]]:
        with self._run(number) as run:
            for index in range(count):
                await self.witness.gates.pass_through(number)
                run.produced += 1
                yield [number, index, self.context.incarnation]

    async def boom_items(self, number: int, count: int) -> AsyncIterator[list[int]]:
        with self._run(number) as run:
            for index in range(count - 1):
                run.produced += 1
                yield [number, index, self.context.incarnation]
            raise Boom(number)


class Several(Subject):
    """Handles three at a time."""

    concurrency = 3


CLASSES = {1: Subject, 3: Several}
