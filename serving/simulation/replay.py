"""A trace through several engines in virtual time: what a way of placing requests does to caches and waiting. Pure.

Nothing waits here and nothing depends on the machine: the same trace, placement and settings give the same result. The
engines are those of ``engine = { kind = "simulated" }``: the same blocks, batches and times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from ..kv.changes import EngineChange
from ..kv.hashing import TOKEN_BYTES
from .batching import Batcher
from .batching import Sequence as Running
from .blocks import BlockPool
from .settings import SimulatedSettings
from .timing import Timing
from .trace import Arrival


@dataclass(slots=True, eq=False)
class Replayed:
    """One request, and what became of it. Times are virtual; -1 is not yet."""

    number: int
    arrival: Arrival
    running: Running
    engine: int = -1
    first_token_s: float = -1.0
    finished_s: float = -1.0
    made: int = 0
    """Tokens of the answer."""

    @property
    def ttft_s(self) -> float:
        """Time to the first token."""
        return self.first_token_s - self.arrival.arrival_s


@dataclass(slots=True, eq=False)
class ReplayEngine:
    """One engine."""

    number: int
    batcher: Batcher
    timing: Timing
    computed_tokens: int = 0
    """Of prompts and answers, by all steps."""
    busy_s: float = 0.0
    is_stepping: bool = False
    requests: dict[Running, Replayed] = field(default_factory=dict)


class Placement(Protocol):
    """Decides where requests go, and hears what a router would hear; the time is always ``now_s``."""

    def place(self, request: Replayed, engines: Sequence[ReplayEngine], now_s: float) -> int:
        """Return the number of the engine that takes a request."""

    def first_token(self, request: Replayed) -> None:
        """Its prompt is computed."""

    def finish(self, request: Replayed) -> None:
        """Its answer is whole."""

    def changed(self, engine: int, changes: Sequence[EngineChange]) -> None:
        """An engine's cache has changed; told ``event_delay_s`` after the step."""


class TooLargeForEngine(ValueError):
    """A request of a trace that the engines can never hold."""

    def __init__(self, number: int, tokens: int, blocks: int, block_size: int) -> None:
        super().__init__(
            f"request {number} of the trace has {tokens} tokens with its answer; an engine holds {blocks * block_size} "
            f"({blocks} blocks of {block_size}): give it more blocks or make the trace shorter"
        )


class Replay:
    """One run of a trace; `run` is called once."""

    def __init__(
        self,
        trace: Sequence[Arrival],
        placement: Placement,
        engine: SimulatedSettings,
        *,
        engines: int,
        event_delay_s: float = 0.0,
    ) -> None:
        self._placement, self._delay_s = placement, event_delay_s
        self.engines = [_engine(engine, number) for number in range(engines)]
        self.requests = [
            Replayed(number, arrival, Running(bytearray(arrival.prompt), arrival.prompt_tokens))
            for number, arrival in enumerate(trace)
        ]
        for request in self.requests:
            tokens = request.arrival.prompt_tokens + request.arrival.answer_tokens
            if not self.engines[0].batcher.fits(tokens):
                raise TooLargeForEngine(request.number, tokens, engine.blocks, engine.block_size)
        self.now_s = 0.0
        self._due: list[tuple[float, int, Replayed | ReplayEngine | tuple[int, list[EngineChange]]]] = []
        self._order = count()

    def run(self) -> None:
        """Run until every answer is whole."""
        for request in self.requests:
            self._at(request.arrival.arrival_s, request)
        while self._due:
            self.now_s, _, what = heappop(self._due)
            if isinstance(what, Replayed):
                self._arrive(what)
            elif isinstance(what, ReplayEngine):
                self._stepped(what)
            else:
                self._placement.changed(*what)

    def _at(self, when_s: float, what: Replayed | ReplayEngine | tuple[int, list[EngineChange]]) -> None:
        heappush(self._due, (when_s, next(self._order), what))

    def _arrive(self, request: Replayed) -> None:
        request.engine = self._placement.place(request, self.engines, self.now_s)
        engine = self.engines[request.engine]
        engine.requests[request.running] = request
        engine.batcher.add(request.running)
        if not engine.is_stepping:
            self._begin(engine)

    def _begin(self, engine: ReplayEngine) -> None:
        step = engine.batcher.begin()
        engine.is_stepping = step is not None
        if step is None:
            return
        engine.computed_tokens += step.prefill_tokens + step.decodes
        seconds = engine.timing.step_s(step)
        engine.busy_s += seconds
        self._at(self.now_s + seconds, engine)

    def _stepped(self, engine: ReplayEngine) -> None:
        for running in engine.batcher.end():
            self._token(engine, engine.requests[running])
        pool = engine.batcher.pool
        if pool.changes:
            changes, pool.changes = pool.changes, []
            self._at(self.now_s + self._delay_s, (engine.number, changes))
        self._begin(engine)

    def _token(self, engine: ReplayEngine, request: Replayed) -> None:
        at = request.made * TOKEN_BYTES
        request.running.tokens += request.arrival.answer[at : at + TOKEN_BYTES]
        request.made += 1
        if request.made == 1:
            request.first_token_s = self.now_s
            self._placement.first_token(request)
        if request.made == request.arrival.answer_tokens:
            request.finished_s = self.now_s
            del engine.requests[request.running]
            engine.batcher.drop(request.running)
            self._placement.finish(request)


def _engine(settings: SimulatedSettings, number: int) -> ReplayEngine:
    pool = BlockPool(settings.blocks, settings.block_size)
    batcher = Batcher(pool, max_running=settings.max_running, max_batch_tokens=settings.max_batch_tokens)
    return ReplayEngine(number, batcher, Timing(settings, number))
