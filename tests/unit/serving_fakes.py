"""Workers that are not there, for tests of what decides about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from callboard.actors.ref import Ref
from callboard.serving.protocol import GenerateRequest, ModelInfo
from callboard.serving.worker import Worker


def info(model: str = "m", **fields: Any) -> ModelInfo:
    return ModelInfo(**{"model": model, "engine": "fake", "context_tokens": 1000} | fields)


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"request_id": "r", "model": "m", "prompt": "one two three four"} | fields)


class FakeRef:
    """One instance; ``answer`` is what it says when it is asked what it serves."""

    def __init__(self, name: str, answer: ModelInfo | Exception, incarnation: int = 1) -> None:
        self.name, self.answer, self.incarnation = name, answer, incarnation
        self.asked = 0

    def options(self, **_: Any) -> FakeRef:
        return self

    async def ask(self, *_: Any) -> ModelInfo:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


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

    def down(self, index: int) -> None:
        """An instance is gone."""
        del self.refs[index]
        self._changed()

    def _changed(self) -> None:
        for listener in list(self._listeners):
            listener()
