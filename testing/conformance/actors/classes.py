"""The actors that the tests of the contract call."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from callboard.actors.actor import Actor, blocking, idempotent, interleave
from callboard.actors.current import CURRENT, remaining_s
from callboard.actors.policy import StopReason
from callboard.actors.ref import Ref


class Echo(Actor):
    """Gives back what it gets, in every way that a method can be written."""

    async def echo(self, value: Any) -> Any:
        return value

    def plain(self, value: Any) -> Any:
        return value

    @blocking
    def threaded(self, value: Any) -> Any:
        return value, threading.current_thread() is threading.main_thread()

    async def named(self, first: int, second: str = "two", *, third: float = 3.0) -> Any:
        return [first, second, third]

    async def any_number(self, *values: Any, **named: Any) -> Any:
        return [list(values), named]

    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    def plain_count(self, to: int) -> Iterator[int]:
        yield from range(to)

    @blocking
    def threaded_count(self, to: int) -> Iterator[Any]:
        for number in range(to):
            yield number, threading.current_thread() is threading.main_thread()

    async def items(self, values: list[Any]) -> AsyncIterator[Any]:
        for value in values:
            yield value

    async def incarnation(self) -> Any:
        return [self.context.name, self.context.incarnation]


class Gate(Actor):
    """Writes down what happens, and waits where it is told to until ``gate`` is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.seen: list[Any] = []
        self.ended: list[Any] = []
        self.cancelled: list[Any] = []
        self.flags: list[bool] = []
        self.produced = 0
        self.stops: list[StopReason] = []
        self.release = threading.Event()

    async def on_stop(self, reason: StopReason) -> None:
        self.stops.append(reason)

    async def note(self, number: Any) -> Any:
        self.seen.append(number)
        return number

    async def hold(self, number: Any) -> Any:
        self.seen.append(number)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        self.ended.append(number)
        return number

    @idempotent
    async def repeatable(self, number: Any) -> Any:
        return await self.hold(number)

    @interleave
    async def beside(self, number: Any) -> Any:
        return await self.hold(number)

    @interleave
    async def look(self) -> int:
        return len(self.seen)

    @blocking
    def hold_thread(self, number: Any) -> bool:
        self.seen.append(number)
        while not self.context.cancelled and not self.release.wait(0.001):
            pass
        self.flags.append(self.context.cancelled)
        return self.context.cancelled

    async def absorb(self, number: Any) -> Any:
        """Takes no notice of its cancellation."""
        self.seen.append(number)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
        return number

    async def turn_into_error(self, number: Any) -> Any:
        self.seen.append(number)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise ValueError("turned") from None

    async def note_stream(self, number: Any) -> AsyncIterator[Any]:
        self.seen.append(number)
        yield number

    async def endless(self, size: int = 0) -> AsyncIterator[Any]:
        self.seen.append("endless")
        try:
            while True:
                yield bytes(size) if size else self.produced
                self.produced += 1
        finally:
            self.cancelled.append("endless")

    async def trickle(self, first: int) -> AsyncIterator[int]:
        """Some items, then it waits."""
        try:
            for number in range(first):
                self.produced += 1
                yield number
            await self.gate.wait()
            yield first
            self.ended.append("trickle")
        except asyncio.CancelledError:
            self.cancelled.append("trickle")
            raise

    @blocking
    def endless_thread(self) -> Iterator[int]:
        try:
            while True:
                yield self.produced
                self.produced += 1
        finally:
            self.flags.append(threading.current_thread() is threading.main_thread())

    async def stubborn(self) -> AsyncIterator[int]:
        """A generator that will not be cancelled."""
        while True:
            try:
                yield self.produced
                self.produced += 1
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.cancelled.append("stubborn")

    def block_the_loop(self, seconds: float) -> None:
        time.sleep(seconds)


class Wide(Gate):
    """The same, many at a time."""

    concurrency = 64


class Caller(Actor):
    """Asks others for its own callers."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.left: list[float | None] = []

    async def pass_on(self, ref: Ref[Any], method: str, *args: Any) -> Any:
        self.left.append(remaining_s(time.monotonic()))
        return await ref.ask(method, *args)

    async def pass_stream_on(self, ref: Ref[Any], method: str, *args: Any) -> AsyncIterator[Any]:
        async for item in ref.stream(method, *args):
            yield item

    async def remaining(self) -> float | None:
        return remaining_s(time.monotonic())

    async def ask_too_late(self, ref: Ref[Any]) -> None:
        letter = CURRENT.get()
        assert letter is not None
        time.sleep(max(0.0, letter.deadline - time.monotonic()) + 0.001)  # noqa: ASYNC251 the loop must not notice
        try:
            await ref.ask("note", "too late")
        except Exception as error:
            self.errors.append(error)
            raise

    async def own_name(self, ref: Ref[Any]) -> Any:
        """Returns what it is: two references in one value."""
        return {"mine": self.context.ref, "yours": ref}

    async def itself(self) -> Any:
        return await self.context.ref.ask(Caller.remaining)

    async def pass_around(self, refs: list[Ref[Any]]) -> Any:
        if not refs:
            return "end"
        return await refs[0].ask(Caller.pass_around, refs[1:])
