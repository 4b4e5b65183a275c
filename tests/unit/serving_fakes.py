"""Workers that are not there, for tests of what decides about them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, cast

from callboard.actors.ref import Ref
from callboard.serving.journey import Journey
from callboard.serving.protocol import GenerateRequest, ModelInfo, Piece
from callboard.serving.worker import Worker

NUMBERS = itertools.count(1)


def info(model: str = "m", **fields: Any) -> ModelInfo:
    return ModelInfo(**{"model": model, "engine": "fake", "context_tokens": 1000} | fields)


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"request_id": "r", "model": "m", "prompt": "one two three four"} | fields)


def journey(**fields: Any) -> Journey:
    """A request that came after all that came before."""
    number = next(NUMBERS)
    return Journey(request(**fields), float(number), number)


Play = Sequence[list[Any] | Exception]
"""Batches of pieces, and perhaps an error."""


class FakeRef:
    """One instance; ``answer`` is what it says when it is asked what it serves."""

    def __init__(self, name: str, answer: ModelInfo | Exception, incarnation: int = 1) -> None:
        self.name, self.answer, self.incarnation = name, answer, incarnation
        self.asked = 0
        self.holds: asyncio.Event | None = None
        """What it waits for before it says it."""
        self.plays: list[Play] = []
        """What its next generations do; the last one is played again and again."""
        self.got: list[GenerateRequest] = []
        self.deadlines: list[float] = []
        """Those that it was given."""

    def options(self, *, deadline_s: float, **_: Any) -> FakeRef:
        self.deadlines.append(deadline_s)
        return self

    async def ask(self, method: Any, *args: Any) -> Any:
        if method is Worker.prefill:
            self.got += args
            batch = self._next()[0]
            if isinstance(batch, Exception):
                raise batch
            return {"from": self.name}
        self.asked += 1
        if self.holds is not None:
            await self.holds.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def stream(self, _: Any, request: GenerateRequest) -> FakeRef:
        self.got.append(request)
        return self

    async def batches(self) -> AsyncGenerator[list[Piece], None]:
        for batch in self._next():
            if isinstance(batch, Exception):
                raise batch
            yield list(batch)

    def _next(self) -> Play:
        return self.plays.pop(0) if len(self.plays) > 1 else self.plays[0]


class FakeComponent:
    """A component whose instances come and go as the test says."""

    name = "worker"

    def __init__(self, *answers: ModelInfo | Exception) -> None:
        self.refs: dict[int, FakeRef] = {}
        self._listeners: list[Callable[[], None]] = []
        for index, answer in enumerate(answers):
            self.refs[index] = FakeRef(f"worker.{index}", answer)

    @property
    def ref(self) -> Ref[Worker]:
        return cast("Ref[Worker]", self)

    def options(self, **_: Any) -> FakeComponent:
        return self

    def instances(self) -> list[FakeRef]:
        return list(self.refs.values())

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def up(self, index: int, answer: ModelInfo | Exception) -> None:
        """An instance is there, perhaps as the successor of another."""
        known = self.refs.get(index)
        incarnation = known.incarnation + 1 if known is not None else 10
        self.refs[index] = FakeRef(f"worker.{index}", answer, incarnation)
        self._changed()

    def back(self, index: int, ref: FakeRef) -> None:
        """The same incarnation is there again."""
        self.refs[index] = ref
        self._changed()

    def down(self, index: int) -> None:
        """An instance is gone."""
        del self.refs[index]
        self._changed()

    def _changed(self) -> None:
        for listener in list(self._listeners):
            listener()
