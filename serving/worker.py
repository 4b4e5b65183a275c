"""The actor around an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from callboard.actors.actor import Actor, idempotent, interleave
from callboard.actors.policy import StopReason

from .engines import make_engine
from .errors import UnknownModel
from .protocol import GenerateRequest, Load, ModelInfo, Piece


class Worker(Actor):
    """Serves one engine; ``engine`` is ``{"kind": "simulated", ...}``. Raises `ConfigError`.

    How many requests run at once is the engine's affair; the actor takes up to ``concurrency`` of them.
    """

    concurrency = 1024

    def __init__(self, engine: Mapping[str, Any]) -> None:
        self.engine = make_engine(engine)
        self._model = ""

    async def on_start(self) -> None:
        """Load the model."""
        await self.engine.start()
        self._model = self.engine.describe().model

    async def on_stop(self, reason: StopReason) -> None:
        """Give the engine's resources back."""
        await self.engine.close()

    @idempotent  # a generation changes nothing but the engine's caches: one that gave no token may run again
    async def generate(self, request: GenerateRequest) -> AsyncIterator[Piece]:
        """Yield the text of each token, then one `Finish`. Raises `UnknownModel` and what the engine raises."""
        if request.model != self._model:  # whoever sent it here knows an incarnation of before
            raise UnknownModel(request.model, [self._model])
        pieces = self.engine.generate(request)
        try:
            async for piece in pieces:
                yield piece
        finally:  # at once, not when the collector finds it: the engine works until it is told
            await pieces.aclose()

    @interleave  # also while `concurrency` generations run
    def describe(self) -> ModelInfo:
        """Return what is served."""
        return self.engine.describe()

    @interleave
    def load(self) -> Load:
        """Return what the engine is doing and has done."""
        return self.engine.load()
