"""Places requests on ranks, and keeps the books that the next placement goes by. Pure: time and chance are given."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

from ..protocol import RankLoad
from .active import ActiveRequests, Placed
from .affinity import SessionAffinity
from .busy import BusyRule
from .cost import cheapest, cost
from .demand import Choice, Demand, Placement, Rank, RankFacts, Refusal, Wait
from .policies import make_policy
from .replica import Added, Bound, Computed, Ended, RoutingChange
from .settings import RouterSettings

EMPTY: array[int] = array("Q")
MAX_REMOTE = 100_000
"""Requests of other routers that are kept, at most."""


class Scheduler:
    """One pool of workers as one router sees it.

    Whoever calls says who is eligible (up, serves the model, not inhibited, not failed before). ``tell`` hears of
    every change of this router's own books, for the other routers.
    """

    def __init__(
        self,
        settings: RouterSettings,
        rng: Random,
        *,
        tell: Callable[[RoutingChange], object] | None = None,
    ) -> None:
        self.settings = settings
        self._weights = settings.weights
        self._rng = rng
        self.tell = tell
        self._policy = make_policy(settings.mode, rng)
        self._facts: dict[Rank, RankFacts] = {}
        self._busy = BusyRule(settings)
        self._active = ActiveRequests()
        self._own: dict[str, Rank] = {}
        self.outstanding: dict[int, int] = {}
        """Requests of this router by worker; those with none are left out."""
        self._remote: dict[int, set[str]] = {}
        self._dropped_remote = 0
        ttl_s = settings.session_affinity_ttl_s
        self._affinity = None if ttl_s is None else SessionAffinity(ttl_s, settings.max_sessions)

    def __repr__(self) -> str:
        return f"<Scheduler {self.settings.mode}, {len(self._own)} own, {len(self._active)} in all>"

    # -- who is there

    def set_rank(self, rank: Rank, facts: RankFacts) -> None:
        """A rank is there, or is another one than before."""
        self._facts[rank] = facts

    def remove_worker(self, worker: int) -> None:
        """A worker is gone; what ran there ends when its streams do."""
        for rank in [rank for rank in self._facts if rank.worker == worker]:
            del self._facts[rank]
        self._busy.remove_worker(worker)

    def report(self, worker: int, loads: Iterable[RankLoad]) -> None:
        """A worker says what it has to do."""
        self._busy.report(worker, loads)

    # -- placing

    def place(
        self, demand: Demand, eligible: Sequence[Rank], overlaps: Mapping[Rank, int], now_s: float
    ) -> Placement:
        """Choose one of ``eligible`` and book the request on it, or say why not.

        ``overlaps`` are the blocks of the prompt in the caches. A choice ends with `finish`.
        """
        if not eligible:
            return Refusal("no worker can be chosen")
        if demand.pinned is not None:
            return self._place_pinned(demand, demand.pinned, eligible, overlaps)
        if self.settings.mode == "direct":
            return Refusal(
                'the router\'s mode is "direct": the request must name its worker (over HTTP: x-callboard-worker-id)'
            )
        candidates = self._with_room(eligible)
        if isinstance(candidates, Refusal):
            return candidates
        bound = self._bound(demand, eligible, candidates, now_s)
        if isinstance(bound, Wait):
            return bound
        if bound is not None:
            candidates = [bound]
        else:
            candidates = self._unqueued(candidates)
            if not candidates:
                return Wait(f"each of {len(eligible)} workers has enough to compute (queue_threshold)")
        choice = self._choose(demand, candidates, overlaps)
        self._book(demand, choice)
        if self._affinity is not None and demand.session:
            self._affinity.bind(demand.session, choice.rank, now_s)
            self._say(Bound(demand.session, choice.rank.worker, choice.rank.dp_rank))
        return choice

    def _place_pinned(
        self, demand: Demand, pinned: Rank, eligible: Sequence[Rank], overlaps: Mapping[Rank, int]
    ) -> Placement:
        found = [rank for rank in eligible if rank == pinned] or [
            rank for rank in eligible if rank.worker == pinned.worker
        ]
        if not found:
            return Refusal(f"worker {pinned.worker}, which the request names, cannot be chosen")
        choice = self._choose(demand, found[:1], overlaps)
        self._book(demand, choice)
        return choice

    def _with_room(self, eligible: Sequence[Rank]) -> list[Rank] | Refusal:
        limit, outstanding = self.settings.max_outstanding, self.outstanding
        free = [rank for rank in eligible if outstanding.get(rank.worker, 0) < limit]
        if not free:
            count = len({rank.worker for rank in eligible})
            return Refusal(f"each of {count} workers has {limit} requests outstanding (max_outstanding)")
        if not self._busy.armed:
            return free
        found = [rank for rank in free if not self.busy(rank)]
        if not found:
            return Refusal(f"each of {len({rank.worker for rank in free})} workers is busy ({self._busy})")
        return found

    def busy(self, rank: Rank) -> bool:
        """True if a threshold is exceeded on a rank."""
        view = self._active.on(rank)
        facts = self._facts.get(rank, RankFacts())
        return self._busy.exceeded(rank, facts, view.blocks, view.prefill_tokens)

    def _bound(
        self, demand: Demand, eligible: Sequence[Rank], candidates: Sequence[Rank], now_s: float
    ) -> Rank | Wait | None:
        if self._affinity is None or not demand.session:
            return None
        rank = self._affinity.where(demand.session, now_s)
        if rank is None or rank not in eligible:
            return None  # whoever is not there cannot keep its sessions
        if rank in candidates:
            return rank
        if self.settings.session_affinity_mode == "hard":
            return Wait(f"the worker of session {demand.session!r} is busy (session_affinity_mode is hard)")
        return None

    def _unqueued(self, candidates: list[Rank]) -> list[Rank]:
        threshold = self.settings.queue_threshold
        if threshold is None:
            return candidates
        return [rank for rank in candidates if self._takes_more(rank, threshold)]

    def _takes_more(self, rank: Rank, threshold: float) -> bool:
        waiting = self._active.on(rank).prefill_tokens
        limit = self._facts.get(rank, RankFacts()).max_batch_tokens
        return not limit or not waiting or waiting <= threshold * limit

    def _choose(self, demand: Demand, candidates: list[Rank], overlaps: Mapping[Rank, int]) -> Choice:
        if self.settings.mode == "kv" and demand.block_size:
            costs = self._costs(demand, candidates, overlaps)
            rank = cheapest(costs, self.settings.temperature, self._rng)
            return Choice(rank=rank, overlap_blocks=overlaps.get(rank, 0), cost=costs[rank], costs=costs)
        rank = (
            candidates[0]
            if len(candidates) == 1
            else self._policy.pick(candidates, self._running(candidates))
        )
        return Choice(rank=rank, overlap_blocks=overlaps.get(rank, 0))

    def _running(self, candidates: Sequence[Rank]) -> dict[Rank, int]:
        on = self._active.on
        return {rank: on(rank).requests for rank in candidates}

    def _costs(
        self, demand: Demand, candidates: Sequence[Rank], overlaps: Mapping[Rank, int]
    ) -> dict[Rank, float]:
        settings, active, size = self.settings, self._active, demand.block_size
        views = {rank: active.on(rank) for rank in candidates}
        waiting = {rank: view.prefill_tokens / size for rank, view in views.items()}
        least = min(waiting.values())
        sequence = demand.sequence if settings.assume_kv_reuse else EMPTY
        blocks = demand.prompt_blocks
        return {
            rank: cost(
                self._weights,
                request_blocks=0.0 if demand.is_computed else demand.prompt_tokens / size,
                waiting_blocks=waiting[rank],
                least_waiting_blocks=least,
                overlap_blocks=0 if demand.is_computed else overlaps.get(rank, 0),
                decode_blocks=active.would_hold(rank, sequence, blocks)
                if settings.track_active_blocks
                else 0,
                active_requests=view.requests,
            )
            for rank, view in views.items()
        }

    # -- the books

    def _book(self, demand: Demand, choice: Choice) -> None:
        settings, rank = self.settings, choice.rank
        tracks = settings.track_active_blocks
        sequence = demand.sequence if tracks and settings.assume_kv_reuse else EMPTY
        uncached = demand.prompt_tokens - choice.overlap_blocks * demand.block_size
        computes = settings.track_prefill_tokens and demand.prompt_tokens and not demand.is_computed
        placed = Placed(
            rank,
            sequence,
            demand.prompt_blocks if tracks else 0,
            max(1, uncached) if computes else 0,
        )
        self._active.add(demand.id, placed)
        self._own[demand.id] = rank
        self.outstanding[rank.worker] = self.outstanding.get(rank.worker, 0) + 1
        if self.tell is not None:
            self._say(_added(demand.id, placed))

    def first_token(self, identifier: str) -> None:
        """The prompt of a request is computed."""
        if self._active.first_token(identifier):
            self._say(Computed(identifier))

    def output(self, identifier: str, tokens: int, block_size: int) -> None:
        """So many tokens more were made for a request; matters with ``track_output_blocks`` only."""
        if self.settings.track_output_blocks:
            self._active.output(identifier, tokens, block_size)

    def finish(self, identifier: str) -> None:
        """A request is over, however it went; one that is not known is ignored."""
        rank = self._own.pop(identifier, None)
        if rank is None:
            return
        self._active.end(identifier)
        left = self.outstanding[rank.worker] - 1
        if left:
            self.outstanding[rank.worker] = left
        else:
            del self.outstanding[rank.worker]
        self._say(Ended(identifier))

    def _say(self, change: RoutingChange) -> None:
        if self.tell is not None:
            self.tell(change)

    # -- other routers

    def snapshot(self, now_s: float) -> list[RoutingChange]:
        """Return what another router must know of this one to begin with."""
        changes: list[RoutingChange] = [
            _added(identifier, placed)
            for identifier, placed in self._active.items()
            if identifier in self._own
        ]
        if self._affinity is not None:
            changes += [Bound(session, *rank) for session, rank in self._affinity.items(now_s)]
        return changes

    def apply(self, router: int, changes: Iterable[RoutingChange], now_s: float) -> None:
        """Another router, known by a number, says what it did."""
        known = self._remote.setdefault(router, set())
        for change in changes:
            if isinstance(change, Bound):
                if self._affinity is not None:
                    self._affinity.bind(change.session, Rank(change.worker, change.dp_rank), now_s)
                continue
            key = f"{router}/{change.id}"
            if isinstance(change, Added):
                self._add_remote(known, key, change)
            elif key in known and isinstance(change, Computed):
                self._active.first_token(key)
            elif key in known:
                known.discard(key)
                self._active.end(key)

    def _add_remote(self, known: set[str], key: str, change: Added) -> None:
        if key in known or len(self._active) - len(self._own) >= MAX_REMOTE:
            self._dropped_remote += 1
            return
        sequence = array("Q")
        sequence.frombytes(change.sequence[: len(change.sequence) // 8 * 8])
        blocks = max(change.blocks, len(sequence))
        known.add(key)
        rank = Rank(change.worker, change.dp_rank)
        self._active.add(key, Placed(rank, sequence, blocks, max(0, change.prefill_tokens)))

    def drop_router(self, router: int) -> None:
        """Another router is gone, and its requests with it; also before its snapshot is applied."""
        for key in self._remote.pop(router, ()):
            self._active.end(key)

    def statistics(self) -> dict[str, Any]:
        """Return the books as plain data."""
        ranks = {}
        for rank in sorted(self._facts):
            view = self._active.on(rank)
            ranks[f"{rank.worker}/{rank.dp_rank}"] = {
                "requests": view.requests,
                "prefill_tokens": view.prefill_tokens,
                "decode_blocks": view.blocks,
            }
        return {
            "own": len(self._own),
            "remote": len(self._active) - len(self._own),
            "dropped_remote": self._dropped_remote,
            "sessions": len(self._affinity) if self._affinity is not None else 0,
            "ranks": ranks,
        }


def _added(identifier: str, placed: Placed) -> Added:
    rank = placed.rank
    return Added(
        identifier, rank.worker, rank.dp_rank, placed.blocks, placed.prefill_tokens, placed.sequence.tobytes()
    )
