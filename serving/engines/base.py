"""What a worker needs from an engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from ..protocol import GenerateRequest, Load, ModelInfo, Piece


class Engine(Protocol):
    """Turns requests into tokens. Everything happens on the event loop of the worker's process."""

    async def start(self) -> None:
        """Load the model; the worker is ready when this returns."""

    async def close(self) -> None:
        """Give everything back."""

    def describe(self) -> ModelInfo:
        """Return what is served; known once `start` has returned."""

    def load(self) -> Load:
        """Return what the engine is doing and has done."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """Yield the text of each token (one may be empty), then one `Finish`.

        Honours every field of ``request``. Closing the generator, or cancelling its task, stops the work for
        it at once. Raises `ContextTooLong` before the first piece.
        """
