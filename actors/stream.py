"""The reading side of a stream: records come in, items go out, credit goes back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from time import monotonic
from types import TracebackType
from typing import Any, Generic, TypeVar

from callboard.transports.errors import CallboardError

from .errors import ActorError, DeadlineExceeded
from .outcome import note_items
from .policy import Executed
from .producer import WINDOW_BYTES, WINDOW_ITEMS

R = TypeVar("R")


class Reader:
    """What has arrived of one stream and was not read yet."""

    __slots__ = (
        "_bytes",
        "_taken",
        "_timer",
        "_waiter",
        "done",
        "error",
        "more",
        "received",
        "records",
        "route",
    )

    def __init__(self) -> None:
        self.records: deque[tuple[list[Any], int]] = deque()
        self.route: Any = None
        self.more: Callable[[int, int], None] | None = None
        """Gives credit back to the producer; set when the stream is open."""
        self.received = 0
        self.done = False
        self.error: Exception | None = None
        self._taken = self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Reader {'done' if self.done else 'open'}, {self.received} items, {len(self.records)} records wait>"

    def feed(self, items: list[Any], size: int) -> None:
        """Take a record."""
        if not self.done:
            self.records.append((items, size))
            self.received += len(items)
            self._wake()

    def finish(self, error: Exception | None) -> None:
        """The stream is over; ``error`` says why, None for its regular end. Only the first call counts."""
        if self.done:
            return
        self.done = True
        if isinstance(error, ActorError) and self.received:
            error = _with_items(error, self.received)
        elif error is not None and not isinstance(error, CallboardError):
            note_items(error, self.received)
        self.error = error
        if self._timer is not None:
            self._timer.cancel()
        self._wake()

    def expire_after(self, seconds: float, call_id: int) -> None:
        """End the stream with `DeadlineExceeded` if it is not over by then."""

        def expire() -> None:
            if not self.done:
                location = self.route.location
                waiting = self.route.forget_waiting(call_id)
                self.route.cancel(call_id)
                self.finish(
                    DeadlineExceeded(
                        "the stream did not end in time",
                        actor=location.name,
                        incarnation=location.incarnation,
                        executed=Executed.NEVER if waiting else Executed.MAYBE,
                    )
                )

        self._timer = asyncio.get_running_loop().call_later(seconds, expire)

    async def take(self) -> list[Any]:
        """Return all that has arrived; empty at the end. Raises the error of the stream after its items."""
        self._give_back()
        while not self.records:
            if self.done:
                if self.error is not None:
                    raise self.error
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        items, size = self.records.popleft()
        while self.records:  # a reader that lags catches up in fewer, larger steps
            more, more_size = self.records.popleft()
            items += more
            size += more_size
        self._taken += len(items)
        self._bytes += size
        return items

    def _give_back(self) -> None:
        if self._taken * 2 >= WINDOW_ITEMS or self._bytes * 2 >= WINDOW_BYTES:
            if self.more is not None and not self.done:
                self.more(self._taken, self._bytes)
            self._taken = self._bytes = 0

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)


def _with_items(error: ActorError, items: int) -> ActorError:
    facts = error.facts() | {"n": items}
    if facts["x"] == Executed.NEVER.value:
        facts["x"] = Executed.YES.value
    return type(error).from_facts(facts).with_traceback(error.__traceback__)


class Opening:
    """How a `Stream` is opened, and opened again on another instance; implemented by `Ref`."""

    async def open(self) -> Reader:
        """Send the request; raises like an ask."""
        raise RuntimeError("an abstract opening")

    def may_retry(self, error: Exception) -> bool:
        """True if the stream may be opened again after ``error``, before any item has arrived."""
        raise RuntimeError("an abstract opening")

    def began(self, seconds: float) -> None:
        """The first item was read so long after the stream was asked for."""

    def cancel(self, reader: Reader) -> None:
        """Tell the producer that nobody reads any more."""


class _State:
    """What a stream's generators share. They do not refer to the `Stream`, so that an abandoned loop over it is
    finalised at once, without waiting for a cycle to be collected.
    """

    __slots__ = ("first_item_s", "opening", "reader")

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self.reader: Reader | None = None
        self.first_item_s: float | None = None

    async def start(self) -> Reader:
        self.reader = await self.opening.open()
        return self.reader

    def leave(self) -> None:
        reader = self.reader
        if reader is not None and not reader.done:
            reader.finish(None)
            self.opening.cancel(reader)


async def _batches(state: _State) -> AsyncGenerator[list[Any], None]:
    asked_at = monotonic()
    reader = await state.start()
    try:
        while True:
            try:
                batch = await reader.take()
            except Exception as error:
                if reader.received or not state.opening.may_retry(error):
                    raise
                reader = await state.start()
                continue
            if not batch:
                return
            if state.first_item_s is None:
                state.first_item_s = monotonic() - asked_at
                state.opening.began(state.first_item_s)
            yield batch
    finally:
        state.leave()


async def _items(state: _State) -> AsyncGenerator[Any, None]:
    batches = _batches(state)
    try:
        async for batch in batches:
            for item in batch:
                yield item
    finally:
        await batches.aclose()


class Stream(AsyncIterator[R], Generic[R]):
    """The items of a streaming method, in order.

    The request is sent at the first step. Leaving early (``break``, an exception, `aclose`) cancels the
    handler; ``async with`` does so at a known place. An error of the handler is raised after the items that
    came before it, and says how many these were.
    """

    __slots__ = ("_generator", "_state")

    def __init__(self, opening: Opening) -> None:
        self._state = _State(opening)
        self._generator: AsyncGenerator[R, None] | None = None

    def __repr__(self) -> str:
        return f"<Stream {self._state.reader or 'not started'}>"

    @property
    def first_item_s(self) -> float | None:
        """Seconds from the first step, which sends the request, to the first item; None before that."""
        return self._state.first_item_s

    def __aiter__(self) -> AsyncGenerator[R, None]:
        if self._generator is None:
            self._generator = _items(self._state)
        return self._generator

    async def __anext__(self) -> R:
        return await anext(self.__aiter__())

    def batches(self) -> AsyncGenerator[list[R], None]:
        """Iterate over lists of items, as they arrived together; much cheaper per item."""
        return _batches(self._state)

    async def aclose(self) -> None:
        """Stop reading; the handler is cancelled if it has not ended, and none is started any more."""
        await self.__aiter__().aclose()
        self._state.leave()

    async def __aenter__(self) -> Stream[R]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
