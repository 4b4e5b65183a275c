"""What a worker needs from an engine, and what it may offer beyond that."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from ..kv.changes import EngineChange
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
        """Yield the text of each token (one may be empty) or its id, then one `Finish`; see `ModelInfo.input`.

        Honours every field of ``request``; continues after ``request.done`` as if it had made that itself. Closing
        the generator, or cancelling its task, stops the work for it at once. Raises `ContextTooLong` before the
        first piece.
        """


@runtime_checkable
class EventingEngine(Engine, Protocol):
    """An engine that says what is in its KV cache."""

    def on_kv_changes(self, listener: Callable[[Sequence[EngineChange]], None]) -> None:
        """Call ``listener``, on the event loop, with the changes in their order; set before `start`.

        An engine that has lost some begins again: with `AllCleared`, and with what is there.
        """


@runtime_checkable
class HandoverEngine(Engine, Protocol):
    """An engine that can compute a prompt for another one (prefill), and go on from such a state (decode)."""

    async def prefill(self, request: GenerateRequest) -> dict[str, Any]:
        """Compute the prompt; return what the decoding engine finds in ``request.handover``."""


@runtime_checkable
class TruthfulEngine(Engine, Protocol):
    """An engine whose cache can be looked into; for tests and benchmarks."""

    def resident_blocks(self) -> dict[int, set[int]]:
        """Return the sequence hashes of the blocks that are in the cache, by data-parallel rank."""
