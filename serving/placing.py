"""Where each request goes, and how it waits for that: the scheduler, with who is up and how they fare."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from random import Random

from callboard.actors.errors import Overloaded

from .errors import EngineBusy, NoWorkers, RequestRefused, UnknownModel
from .journey import Journey
from .kv.view import CacheView
from .membership import Member, Pool
from .prompts import prompt_text
from .protocol import RankLoad
from .scheduling.breaker import Breaker
from .scheduling.demand import Choice, Demand, Rank, RankFacts, Refusal
from .scheduling.queue import WaitingQueue
from .scheduling.scheduler import Scheduler
from .scheduling.settings import RouterSettings

NONE: dict[Rank, int] = {}


@dataclass(frozen=True, slots=True)
class Placed:
    """A request has its worker; give the place back with `Placer.finish`."""

    id: str
    member: Member
    choice: Choice
    demand: Demand
    queued_s: float = 0.0
    is_probe: bool = False
    """It shows whether a worker that failed is well again."""

    @property
    def worker(self) -> int:
        """Number of the instance."""
        return self.member.index


@dataclass(slots=True, eq=False)
class _Waiter:
    journey: Journey
    future: asyncio.Future[Placed]
    why: str
    ticket: int = 0
    """Of the queue, while it is in it."""


class Placer:
    """Places requests on the members of one pool."""

    def __init__(
        self,
        pool: Pool,
        settings: RouterSettings,
        caches: CacheView,
        *,
        actor: str,
    ) -> None:
        self.pool, self.settings, self.caches = pool, settings, caches
        self._actor = actor
        self.scheduler = Scheduler(settings, Random())
        self.breaker = Breaker(settings.inhibit_s, settings.inhibit_max_s)
        self._queue: WaitingQueue[_Waiter] = WaitingQueue(settings.queue_policy, settings.queue_limit)
        self._plain: dict[str, int] = {}
        """How many wait that keep others of their model waiting."""
        self._timer: asyncio.TimerHandle | None = None
        self._pumping = False
        self._pump_due = False
        self.queued = self.refused = 0
        self.placed: dict[int, int] = {}
        """Requests by the number of their worker; of those that are up."""
        self.failures: dict[int, int] = {}
        self._ended: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Placer {self.pool.name}, {self.scheduler}, {len(self._queue)} wait>"

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker."""
        return len(self._queue)

    # -- what happens to the pool

    def joined(self, member: Member) -> None:
        """A member has said what it serves."""
        assert member.info is not None
        info = member.info
        facts = RankFacts(
            total_blocks=info.total_blocks,
            max_batch_tokens=info.max_batch_tokens,
            max_running=info.max_running,
        )
        for rank in member.ranks:
            self.scheduler.set_rank(rank, facts)

    def left(self, member: Member) -> None:
        """A member is gone, or is another incarnation now: its counters begin again."""
        self.placed.pop(member.index, None)
        self.failures.pop(member.index, None)
        self._ended.pop(member.index, None)
        self.scheduler.remove_worker(member.index)
        self.breaker.forget(member.index)
        self.caches.left(member.ranks)

    def reported(self, worker: int, loads: list[RankLoad]) -> None:
        """A worker says what it has to do."""
        self.scheduler.report(worker, loads)
        self._pump_soon()

    # -- placing

    async def place(self, journey: Journey) -> Placed:
        """Return the place of a request, which waits for places up to ``wait_s`` in all, until it moves.

        Raises `UnknownModel`, `RequestRefused`, `NoWorkers` when the time is over, and `Overloaded` if nobody takes
        it or too many wait already.
        """
        found = self._try_in_turn(journey)
        if isinstance(found, Placed):
            return found
        if not self.pool.known_models and not self.pool.is_settled:
            await self.pool.asked()
        return await self._wait(journey, found)

    def _try_in_turn(self, journey: Journey) -> Placed | str:
        """Like `_try`, but whoever comes later does not pass those who wait for the same."""
        if self._pump_due:
            ahead = len(self._queue)
        else:
            ahead = 0 if journey.is_special else self._plain.get(journey.request.model, 0)
        if ahead:
            return "others wait already"
        return self._try(journey)

    def place_now(self, journey: Journey) -> Placed | None:
        """Return the place of a request, or None if there is none at once."""
        try:
            found = self._try(journey)
        except (UnknownModel, RequestRefused, Overloaded):
            return None
        return found if isinstance(found, Placed) else None

    async def _wait(self, journey: Journey, why: str) -> Placed:
        if self._queue.full:
            self.refused += 1
            raise Overloaded(
                f"{len(self._queue)} requests wait for a worker, which is the limit (queue_limit): {why}",
                actor=self._actor,
            )
        loop = asyncio.get_running_loop()
        waiter = _Waiter(journey, loop.create_future(), why)
        waiter.ticket = self._queue.push(
            waiter,
            arrived_s=journey.arrived_s,
            priority=journey.request.priority,
            uncached_tokens=self._uncached(journey),
        )
        if not journey.is_special:
            self._plain[journey.request.model] = self._plain.get(journey.request.model, 0) + 1
        self.queued += 1
        self._pump_soon()  # something may have changed since it was tried
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(journey.patience_s(self.settings.wait_s)):
                return await waiter.future
        except TimeoutError:
            if waiter.future.done() and not waiter.future.cancelled():  # it came at the last moment
                return waiter.future.result()
            self.refused += 1
            raise NoWorkers(waiter.why) from None
        except asyncio.CancelledError:
            self._give_back(waiter)
            raise
        finally:
            journey.waited_s += time.monotonic() - began_s
            self._leave(waiter)

    def _uncached(self, journey: Journey) -> int:
        """Tokens of a prompt that are in no cache; matters to ``wspt`` only."""
        if self.settings.queue_policy != "wspt":
            return 0
        if self.settings.mode == "kv" and (serving := self.pool.serving(journey.request.model)):
            assert serving[0].info is not None
            journey.hash(serving[0].info)
        tokens = journey.demand().prompt_tokens or len(prompt_text(journey.request).split())
        if not journey.local:
            return tokens
        overlaps = self.caches.overlaps(journey.local, time.monotonic())
        return max(0, tokens - max(overlaps.values(), default=0) * journey.block_size)

    def _give_back(self, waiter: _Waiter) -> None:
        """A place may have come in the moment in which its request left."""
        future = waiter.future
        if future.done() and not future.cancelled() and future.exception() is None:
            self.finish(future.result())

    def _try(self, journey: Journey) -> Placed | str:
        """Return a place, or why there is none now. Raises what waiting would not change."""
        request, now_s = journey.request, time.monotonic()
        serving = self.pool.serving(request.model)
        if not serving:
            if (
                self.pool.known_models
                and request.model not in self.pool.known_models
                and self.pool.is_settled
            ):
                raise UnknownModel(request.model, self.pool.known_models)
            return f"no instance of {self.pool.name} that serves {request.model} is up"
        if request.worker is not None:
            serving = [member for member in serving if member.index == request.worker]
            if not serving:
                return f"worker {request.worker}, which the request names, is not up or serves another model"
        fresh = [m for m in serving if (m.index, m.incarnation) not in journey.excluded]
        if not fresh:
            if all((m.index, m.incarnation) in journey.busy for m in serving):
                self.refused += 1
                why = f"each of {len(serving)} workers is full"
                if journey.retry_after_s:
                    raise EngineBusy(why, journey.retry_after_s)
                raise Overloaded(why, actor=self._actor)
            # Nobody else is left: who had no room may have it once more when something has ended there, and those
            # that failed, paced by their inhibition.
            fresh = [m for m in serving if self.ended_on(m) > journey.busy.get((m.index, m.incarnation), inf)]
            if not fresh and self.settings.inhibit_s:
                fresh = [m for m in serving if (m.index, m.incarnation) in journey.lost]
            if not fresh:
                names = ", ".join(member.ref.name for member in serving)
                return f"{names} failed this request: {journey.failure}"
        allowed = set(self.breaker.allowed([member.index for member in fresh], now_s))
        if not allowed:
            names = ", ".join(member.ref.name for member in fresh)
            return f"{names} failed lately (inhibit_s){f': {journey.failure}' if journey.failure else ''}"
        ranks = [rank for member in fresh if member.index in allowed for rank in member.ranks]
        return self._place_on(journey, ranks, now_s)

    def _place_on(self, journey: Journey, ranks: list[Rank], now_s: float) -> Placed | str:
        overlaps: Mapping[Rank, int] = NONE
        if self.settings.mode == "kv":
            info = self.pool.members[ranks[0].worker].info
            assert info is not None
            journey.hash(info)
            overlaps = self.caches.overlaps(journey.local, now_s)
        demand = journey.demand()
        placement = self.scheduler.place(demand, ranks, overlaps, now_s)
        if isinstance(placement, Choice):
            rank = placement.rank
            is_probe = self.breaker.chosen(rank.worker)
            self.placed[rank.worker] = self.placed.get(rank.worker, 0) + 1
            if self.settings.mode == "kv":
                self.caches.routed(rank, journey.local, journey.sequence, now_s)
            queued_s = now_s - journey.arrived_s
            return Placed(demand.id, self.pool.members[rank.worker], placement, demand, queued_s, is_probe)
        if isinstance(placement, Refusal):
            self.refused += 1
            if self.settings.mode == "direct":
                raise RequestRefused(placement.why)
            raise Overloaded(placement.why, actor=self._actor)
        return placement.why

    # -- what becomes of a placed request

    def first_piece(self, placed: Placed) -> None:
        """Its worker works: the prompt is computed."""
        if self._is_up(placed):
            self.breaker.succeeded(placed.worker)
        self.scheduler.first_token(placed.id)
        self._pump_soon()

    def output(self, placed: Placed, tokens: int) -> None:
        """So many tokens more of its answer have come; matters with ``track_output_blocks`` only."""
        self.scheduler.output(placed.id, tokens, placed.demand.block_size)

    def failed(self, placed: Placed, *, inhibit: bool) -> None:
        """Its worker failed."""
        if not self._is_up(placed):
            return
        self.failures[placed.worker] = self.failures.get(placed.worker, 0) + 1
        if inhibit:
            self.breaker.failed(placed.worker, time.monotonic())

    def ended_on(self, member: Member) -> int:
        """Return how many requests have left room on a member."""
        return self._ended.get(member.index, 0)

    def finish(self, placed: Placed, *, had_begun: bool = True) -> None:
        """It is over, however it went."""
        self.scheduler.finish(placed.id)
        if had_begun and self._is_up(placed):
            self._ended[placed.worker] = self._ended.get(placed.worker, 0) + 1
        if placed.is_probe and self._is_up(placed):
            self.breaker.abandoned(placed.worker)
        self._pump_soon()

    def _is_up(self, placed: Placed) -> bool:
        """False if its incarnation is gone: who reads slowly hears of that when the successor serves already."""
        return self.pool.look().get(placed.worker) is placed.member

    # -- those who wait

    def _pump_soon(self) -> None:
        """Once for all that happens in this turn: a worker may die with thousands of requests, and each would look."""
        if self._queue and not self._pump_due:
            self._pump_due = True
            asyncio.get_running_loop().call_soon(self.pump)

    def pump(self) -> None:
        """Place those who can be placed now, in the order of the queue."""
        self._pump_due = False
        if not self._queue or self._pumping:
            return
        self._pumping = True
        tried_s = time.monotonic()
        try:
            blocked: set[str] = set()
            for waiter in self._queue.in_order():
                model = waiter.journey.request.model
                if waiter.future.done() or (model in blocked and not waiter.journey.is_special):
                    continue
                try:
                    found = self._try(waiter.journey)
                except Exception as error:
                    self._settle(waiter, error)
                    continue
                if isinstance(found, Placed):
                    self._settle(waiter, found)
                else:
                    waiter.why = found
                    if not waiter.journey.is_special:
                        blocked.add(model)
        finally:
            self._pumping = False
        self._arm(tried_s)

    def _leave(self, waiter: _Waiter) -> None:
        if not waiter.ticket:
            return
        self._queue.leave(waiter.ticket)
        waiter.ticket = 0
        model = waiter.journey.request.model
        if not waiter.journey.is_special:
            self._plain[model] -= 1
            if not self._plain[model]:
                del self._plain[model]

    def _settle(self, waiter: _Waiter, outcome: Placed | Exception) -> None:
        self._leave(waiter)
        if isinstance(outcome, Placed):
            waiter.future.set_result(outcome)
        else:
            waiter.future.set_exception(outcome)

    def _arm(self, tried_s: float) -> None:
        """Look again when an inhibited worker may be probed that could not be at ``tried_s``."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._queue:
            return
        at_s = self.breaker.next_change_s(self.pool.members, tried_s)
        if at_s is not None:
            delay_s = max(0.001, at_s - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.pump)

    def close(self, error: Exception) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
        for waiter in self._queue.in_order():
            if not waiter.future.done():
                self._settle(waiter, error)

    def statistics(self) -> dict[str, object]:
        """Return counters and books as plain data."""
        return {
            "placed": dict(self.placed),
            "failures": dict(self.failures),
            "waiting": self.waiting,
            "queued": self.queued,
            "refused": self.refused,
            "inhibited": self.breaker.inhibited,
            "inhibitions": self.breaker.inhibitions,
            "probes": self.breaker.probes,
            **self.scheduler.statistics(),
        }
