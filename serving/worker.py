"""The actor around an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from msgspec.structs import replace

from callboard.actors.actor import Actor, idempotent, interleave
from callboard.actors.directory import split_name
from callboard.actors.policy import StopReason

from .canary import Canary, canary_settings
from .engines import engine_settings, make_engine
from .engines.base import EventingEngine, HandoverEngine
from .errors import EngineFailed, OtherTokenizer, UnknownModel, WrongRole
from .kv.publisher import KvPublisher, LoadPublisher
from .kv.sources import make_source, source_settings
from .options import check_all, options_of_instance
from .protocol import Finish, GenerateRequest, Input, Load, ModelInfo, Piece, Role


class Worker(Actor):
    """Serves one engine; ``engine`` is ``{"kind": "simulated", ...}``. Raises `ConfigError`.

    How many requests run at once is the engine's affair; the actor takes up to ``concurrency`` of them.
    ``canary`` says how the engine's health is judged, see `CanarySettings`; an empty one looks at what runs only.
    ``kv_events`` says where the engine tells what is in its cache, if not to its adapter: see `make_source`.
    ``instances`` has an entry for each replica: what its ``engine`` and ``kv_events`` say besides, such as a ``url``.
    """

    concurrency = 1024

    def __init__(
        self,
        engine: Mapping[str, Any],
        canary: Mapping[str, Any] | None = None,
        kv_events: Mapping[str, Any] | None = None,
        instances: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        index = split_name(self.context.name)[1] or 0
        self.engine = make_engine(options_of_instance(engine, instances, index, "engine"))
        self._canary = Canary(canary_settings(canary), self._try_engine, self._sick)
        kv_events = options_of_instance(kv_events, instances, index, "kv_events")
        self._kv = KvPublisher(self.context.events)
        self._source = None if kv_events in (None, {}) else make_source(kv_events, self._kv.changed)
        self._loads = LoadPublisher(self.context.events, lambda: self.engine.load().ranks)
        self._model = self._tokenizer = ""

    @classmethod
    def check_args(
        cls,
        *,
        engine: Any = None,
        canary: Any = None,
        kv_events: Any = None,
        instances: Any = None,
        **others: Any,
    ) -> None:
        """Check what the constructor would, without it. Raises `ConfigError` with every problem."""
        checks: list[Callable[[], object]] = [lambda: canary_settings(canary)]
        for index in range(max(1, len(instances)) if isinstance(instances, list | tuple) else 1):
            checks.append(partial(cls._check_instance, engine, kv_events, instances, index))
        check_all(*checks)

    @staticmethod
    def _check_instance(engine: Any, kv_events: Any, instances: Any, index: int) -> None:
        engine = options_of_instance(engine, instances, index, "engine")
        kv_events = options_of_instance(kv_events, instances, index, "kv_events")
        check_all(
            lambda: engine is None or engine_settings(engine),
            lambda: kv_events in (None, {}) or source_settings(kv_events),
        )

    async def on_start(self) -> None:
        """Load the model."""
        try:
            await self._start()
        except BaseException:
            # The next try may be made in this process: a model that was loaded must not stay.
            await self.on_stop(StopReason.FAILED)
            raise

    async def _start(self) -> None:
        if isinstance(self.engine, EventingEngine):
            self.engine.on_kv_changes(self._kv.changed)
        await self.engine.start()
        info = self.engine.describe()
        self._model = info.model
        self._tokenizer = info.tokenizer if info.input is Input.TOKENS else ""
        if (info.kv_events or self._source is not None) and self.context.events.plane != "none":
            await self._kv.start()
        else:
            self._kv.ignore()
        if self._source is not None:
            await self._source.start()
        if info.block_size:
            await self._loads.start()
        self._canary.start()

    async def on_stop(self, reason: StopReason) -> None:
        """Give the engine's resources back."""
        try:
            await self._canary.close()
            await self._loads.close()
            if self._source is not None:
                await self._source.close()
        finally:
            await self.engine.close()

    @idempotent  # a generation changes nothing but the engine's caches: one that gave no token may run again
    async def generate(self, request: GenerateRequest) -> AsyncIterator[Piece]:
        """Yield the text or the id of each token, then one `Finish`.

        Raises `UnknownModel`, `OtherTokenizer`, and what the engine raises.
        """
        self._check(request)
        watch = self._canary
        watch.begin()
        pieces = self.engine.generate(request)
        try:
            async for piece in pieces:
                watch.pieces += 1
                yield piece
        finally:  # at once, not when the collector finds it: the engine works until it is told
            watch.end()
            await pieces.aclose()

    @idempotent
    async def prefill(self, request: GenerateRequest) -> dict[str, Any]:
        """Compute a prompt for a decode worker; returns its ``handover``. Raises like `generate`, and `WrongRole`."""
        self._check(request)
        if not isinstance(self.engine, HandoverEngine):
            raise WrongRole("both, without handover", "prefill")
        self._canary.begin()
        try:
            return await self.engine.prefill(request)
        finally:
            self._canary.end()

    def _check(self, request: GenerateRequest) -> None:
        """Whoever sent it here may know an incarnation of before."""
        if request.model != self._model:
            raise UnknownModel(request.model, [self._model])
        if request.tokenizer != self._tokenizer and (request.tokenizer or not request.tokens):
            raise OtherTokenizer(request.model)

    @interleave  # also while `concurrency` generations run
    def describe(self) -> ModelInfo:
        """Return what is served."""
        info = self.engine.describe()
        return info if self._source is None else replace(info, kv_events=True)

    @interleave
    def load(self) -> Load:
        """Return what the engine is doing and has done."""
        return self.engine.load()

    @interleave
    def resident(self) -> dict[int, list[int]]:
        """Return the sequence hashes of what is in the caches, by rank, as far as the engine tells."""
        return {rank: sorted(names) for rank, names in self._kv.names().items()}

    @interleave
    def maintain(self, on: bool) -> None:
        """Say that the engine is worked on and may stand still (True), or no longer: the canary looks away."""
        self._canary.paused = on

    # -- health

    async def _try_engine(self, tokens: int) -> None:
        """A small generation, which must give all its tokens."""
        request = GenerateRequest(
            request_id="health-check",
            model=self._model,
            prompt="Hello",
            tokens=b"\x01\0\0\0",
            max_tokens=tokens,
            temperature=0.0,
        )
        engine = self.engine
        if isinstance(engine, HandoverEngine) and engine.describe().role is Role.PREFILL:
            await engine.prefill(request)
            return
        async with aclosing(engine.generate(request)) as pieces:
            made = [piece async for piece in pieces]
        if not made or not isinstance(made[-1], Finish):
            raise EngineFailed(f"the health check ended with {made[-1:]} instead of a Finish")

    def _sick(self, why: str) -> None:
        """Fail, so that the supervisor starts another one and routers go elsewhere."""
        # Not a tell: behind an engine that hangs the mailbox may be full.
        self.context.start_timer("sick", 0.0, Worker.fail, why)

    @interleave
    async def fail(self, why: str) -> None:
        """Fail this actor with a reason; what runs here continues on other workers."""
        raise EngineFailed(why)
