"""The router's modes on a trace: its scheduler, cost and index decide, over simulated engines in virtual time. Pure.

What is real: `Scheduler` with its books, `CacheView` with its index, and the way of events into it (`ResidentBlocks` at
the worker, `KvFollower` at the router). What is not: the event plane, which is a delay here, and the engines.

Three references besides the modes: ``oracle`` is the kv scheduler that is shown the engines' true caches in the moment
of each decision; ``oracle, hits only`` sees them too, and cares for nothing but the longest hit; and ``round-robin``.
`reusable_share` is what one cache without end for all engines would hit.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from callboard.actors.events import Event
from callboard.transports.events.base import Source

from ..kv.changes import EngineChange, KvChanges
from ..kv.follower import KvFollower
from ..kv.hashing import block_hashes, pack_hashes, sequence_hashes
from ..kv.resident import ResidentBlocks
from ..kv.view import CacheView
from ..scheduling.demand import Choice, Demand, Rank, RankFacts
from ..scheduling.scheduler import Scheduler
from ..scheduling.settings import RouterSettings
from .replay import Replay, Replayed, ReplayEngine
from .settings import SimulatedSettings
from .trace import Arrival, TraceSettings

ROUTINGS: dict[str, dict[str, Any]] = {
    "round-robin": {"mode": "round-robin"},
    "random": {"mode": "random"},
    "power-of-two": {"mode": "power-of-two"},
    "least-loaded": {"mode": "least-loaded"},
    "kv approximate": {"mode": "kv", "use_kv_events": False},
    "kv": {"mode": "kv"},
    "kv, scale 1": {"mode": "kv", "prefill_load_scale": 1.0},
    "oracle": {"mode": "kv"},
    "oracle, hits only": {"mode": "kv", "track_active_blocks": False, "track_prefill_tokens": False},
}
"""What each means for `RouterSettings`; all else is its default. ``scale 1`` is the default of Dynamo's router."""

ORACLES = ("oracle", "oracle, hits only")
"""They know what no router can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingTrial:
    """All that the figures depend on."""

    trace: TraceSettings = field(default_factory=TraceSettings)
    engines: int = 8
    engine: SimulatedSettings = field(
        default_factory=lambda: SimulatedSettings(
            input="tokens",
            blocks=8192,
            max_batch_tokens=2048,
            prefill_us_per_token=100.0,
            decode_ms=10.0,
            decode_us_per_request=100.0,
            context_us_per_block=2.0,
        )
    )
    event_delay_s: float = 0.005
    """From a change of a cache until the router knows of it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `RouterSettings`, for every routing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingResult:
    """What came of one routing; times in virtual seconds."""

    routing: str
    requests: int
    hit_rate: float
    """Tokens of prompts that were in the cache when the request began, as a share of all tokens of prompts."""
    mean_ttft_s: float
    p95_ttft_s: float
    load_spread: float
    """Computed tokens of the engine that computed most, divided by the mean."""
    busy: float | None = None
    """Share of the time up to the last token in which an engine computed; the mean of all."""
    computed_tokens: int
    preemptions: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


class RouterPlacement:
    """Places as a router does: one rank for each engine."""

    def __init__(self, settings: RouterSettings, block_size: int, rng: Random, *, is_oracle: bool) -> None:
        self._block_size, self._is_oracle = block_size, is_oracle
        self._kv, self._events = settings.mode == "kv", settings.use_kv_events and not is_oracle
        self._scheduler = Scheduler(settings, rng)
        self._caches = CacheView(settings)
        self._follower = KvFollower(self._caches)
        self._workers: dict[int, tuple[Source, ResidentBlocks]] = {}
        self._ranks: list[Rank] = []
        self._numbers = 0

    def start(self, engine: SimulatedSettings, engines: int) -> None:
        """The workers are up; each says so on topic ``kv``, as a publisher's first snapshot does."""
        facts = RankFacts(
            total_blocks=engine.blocks,
            max_batch_tokens=engine.max_batch_tokens,
            max_running=engine.max_running,
        )
        self._ranks = [Rank(number) for number in range(engines)]
        for rank in self._ranks:
            self._scheduler.set_rank(rank, facts)
            source = Source(
                topic="kv",
                component="worker",
                name=f"worker.{rank.worker}",
                incarnation=1,
                node="replay",
                id=rank.worker + 1,
            )
            self._workers[rank.worker] = source, ResidentBlocks(0, engine.blocks)
            if self._kv and self._events:
                self._follower.take(Event(source, 0, KvChanges(0, engine.block_size, [])))

    def place(self, request: Replayed, engines: Sequence[ReplayEngine], now_s: float) -> int:
        """Ask the scheduler."""
        prompt = request.arrival.prompt
        local = block_hashes(prompt, self._block_size)
        sequence = sequence_hashes(local)
        packed = pack_hashes(local)
        overlaps = self._overlaps(packed, sequence, engines, now_s) if self._kv else {}
        demand = Demand(
            id=str(request.number),
            prompt_tokens=request.arrival.prompt_tokens,
            block_size=self._block_size,
            sequence=sequence,
            arrived_s=now_s,
        )
        choice = self._scheduler.place(demand, self._ranks, overlaps, now_s)
        if not isinstance(choice, Choice):
            raise RuntimeError(f"request {request.number} of the trace has no place: {choice.why}")
        if self._kv and not self._is_oracle:
            self._caches.routed(choice.rank, packed, pack_hashes(sequence), now_s)
        return choice.rank.worker

    def _overlaps(
        self, local: bytes, sequence: array[int], engines: Sequence[ReplayEngine], now_s: float
    ) -> dict[Rank, int]:
        if self._is_oracle:
            found = {Rank(engine.number): engine.batcher.pool.cached(sequence) for engine in engines}
            return {rank: blocks for rank, blocks in found.items() if blocks}
        return self._caches.overlaps(local, now_s)

    def first_token(self, request: Replayed) -> None:
        """Its prompt waits no longer."""
        self._scheduler.first_token(str(request.number))

    def finish(self, request: Replayed) -> None:
        """Its place is free."""
        self._scheduler.finish(str(request.number))

    def changed(self, engine: int, changes: Sequence[EngineChange]) -> None:
        """Take the way of a worker's events."""
        if not self._kv or not self._events:
            return
        source, resident = self._workers[engine]
        news = [told for change in changes for told in resident.apply(change)]
        if news:
            self._numbers += 1
            event = Event(source, self._numbers, KvChanges(0, resident.block_size, news))
            if self._follower.take(event):
                raise RuntimeError(f"the events of {source.name} do not fit together")

    def believes(self, engine: int) -> set[int]:
        """Return the sequence hashes of what the router believes to be in an engine's cache, by events."""
        return self._caches.index.blocks_of(Rank(engine))


def run_routing(name: str, trace: Sequence[Arrival], trial: RoutingTrial) -> tuple[RoutingResult, Replay]:
    """Return the figures of one of `ROUTINGS`, and the replay they are from. Raises `TooLargeForEngine`."""
    placement = RouterPlacement(
        RouterSettings(**{**trial.options, **ROUTINGS[name]}),
        trial.engine.block_size,
        Random(trial.trace.seed),
        is_oracle=name in ORACLES,
    )
    placement.start(trial.engine, trial.engines)
    replay = Replay(trace, placement, trial.engine, engines=trial.engines, event_delay_s=trial.event_delay_s)
    replay.run()
    return _result(name, replay), replay


def _result(name: str, replay: Replay) -> RoutingResult:
    requests, engines = replay.requests, replay.engines
    waits = sorted(request.ttft_s for request in requests)
    prompts = sum(request.arrival.prompt_tokens for request in requests)
    computed = [engine.computed_tokens for engine in engines]
    total, end_s = sum(computed), max((request.finished_s for request in requests), default=0.0)
    return RoutingResult(
        routing=name,
        requests=len(requests),
        hit_rate=sum(request.running.cached for request in requests) / prompts if prompts else 0.0,
        mean_ttft_s=sum(waits) / len(waits) if waits else 0.0,
        p95_ttft_s=waits[-(-95 * len(waits) // 100) - 1] if waits else 0.0,
        load_spread=max(computed) * len(computed) / total if total else 0.0,
        busy=sum(engine.busy_s for engine in engines) / (end_s * len(engines)) if end_s else 0.0,
        computed_tokens=total,
        preemptions=sum(engine.batcher.preemptions for engine in engines),
    )


def reusable_share(trace: Sequence[Arrival], block_size: int) -> float:
    """Return the hit rate of one cache without end that all engines share and that knows each answer at once.

    No routing can do better: it bounds the hit rate of every mode.
    """
    seen: set[int] = set()
    hits = prompts = 0
    for arrival in trace:
        names = sequence_hashes(block_hashes(arrival.prompt + arrival.answer, block_size))
        most = (arrival.prompt_tokens - 1) // block_size  # the last token is always computed
        hits += next((n for n, name in enumerate(names[:most]) if name not in seen), most) * block_size
        prompts += arrival.prompt_tokens
        seen.update(names)
    return hits / prompts if prompts else 0.0


def demand_without_cache(trace: Sequence[Arrival], trial: RoutingTrial) -> float:
    """Return the load: time to compute every prompt without a cache, over the time of all engines.

    Of the time in which requests arrive; decoding comes on top.
    """
    if not trace or not trace[-1].arrival_s:
        return 0.0
    seconds = sum(arrival.prompt_tokens for arrival in trace) * trial.engine.prefill_us_per_token / 1e6
    return seconds / (trace[-1].arrival_s * trial.engines)
