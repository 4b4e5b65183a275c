"""The actor between frontends and workers: chooses a worker for each request and passes its pieces on.

A generation is a journey: it goes on another worker when its worker fails, before the first piece or after it, and its
caller gets every piece once. Hot path: pieces are passed on batch by batch as they came; only a list of those that were
given is kept, for a worker that may fail.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from math import inf
from typing import Any

from msgspec.structs import asdict, replace

from callboard.actors.actor import Actor, idempotent, interleave
from callboard.actors.errors import (
    ActorStopped,
    ActorUnavailable,
    DeadlineExceeded,
    MailboxFull,
    Overloaded,
)
from callboard.actors.policy import Executed, StopReason
from callboard.actors.ref import Ref

from .errors import EngineBusy, EngineFailed, ServingError, UnknownModel, WorkersLost
from .feeds import Feeds
from .journey import Journey
from .kv.view import CacheView
from .membership import Pool
from .migration import given, resume, whole
from .placing import Placed, Placer
from .protocol import Finish, GenerateRequest, ModelInfo, Piece, Role, Routed
from .scheduling.demand import Rank
from .scheduling.settings import router_settings
from .worker import Worker

log = logging.getLogger("callboard.serving.router")

DECISIONS = 256
"""Decisions that are kept."""

PREFILL_S = 120.0
"""How long a prefill worker may take for a prompt; then the decode worker computes it."""

LOST = (ActorUnavailable, EngineFailed)
"""A worker that failed, and gets nothing for a while."""

FULL = (MailboxFull, Overloaded, EngineBusy)
DECLINED = (*FULL, ActorStopped, UnknownModel)
"""A worker that is well and does not take this request."""


class Router(Actor):
    """Streams each request from one of the workers that serve its model.

    ``mode`` is ``round-robin``, ``random``, ``power-of-two``, ``least-loaded`` (by the requests outstanding at this
    router), ``direct`` or ``kv``; the other options are the fields of `RouterSettings`. With ``prefill`` workers long
    prompts are computed there and handed over. Raises `ConfigError` with every problem.
    """

    concurrency = 65_536
    """So many that it never matters: a request that waited for its turn here would wait without a limit, and what
    runs is bounded by ``max_outstanding`` and ``queue_limit``, which refuse at once."""

    def __init__(
        self,
        workers: Ref[Worker],
        mode: str = "round-robin",
        *,
        prefill: Ref[Worker] | None = None,
        **options: Any,
    ) -> None:
        self.settings = router_settings({"mode": mode, **options})
        self._workers, self._prefill_workers = workers, prefill
        self._caches = CacheView(self.settings)
        self._decisions: deque[Routed] = deque(maxlen=DECISIONS)
        self.moved = self.finished = self.failed = 0
        self.overlap_blocks = self.prompt_blocks = 0
        self._numbers = 0

    @classmethod
    def check_args(cls, *, workers: Any = None, prefill: Any = None, **options: Any) -> None:
        """Check what the constructor would, without it. Raises `ConfigError` with every problem."""
        router_settings(options)

    async def on_start(self) -> None:
        """Ask the workers what they serve, and hear what is in their caches."""
        self._feeds = Feeds(self.context)
        self._decode = self._placer(self._workers, (Role.BOTH, Role.DECODE), self._caches)
        self._prefill: Placer | None = None
        if self._prefill_workers is not None:
            self._prefill = self._placer(
                self._prefill_workers, (Role.BOTH, Role.PREFILL), CacheView(self.settings)
            )
        try:
            for placer in self._placers:
                await placer.pool.start()
            await self._decode.pool.grown(self.settings.min_initial_workers)
            await self._listen()
        except BaseException:  # the next try may be made in this process
            await self.on_stop(StopReason.FAILED)
            raise

    async def _listen(self) -> None:
        """Follow what the event plane says, as far as the mode needs it."""
        settings, feeds = self.settings, self._feeds
        if self.context.events.plane == "none":
            return
        for placer in self._placers:
            if settings.mode == "kv" and settings.use_kv_events:
                await feeds.follow_caches(placer.pool.name, placer.caches)
            await feeds.follow_loads(placer.pool.name, placer)
        if settings.replica_sync is True or (settings.replica_sync is None and settings.mode == "kv"):
            self._decode.scheduler.tell = await feeds.share_books(self._decode)

    async def on_stop(self, reason: StopReason) -> None:
        """Ask and hear no more."""
        await self._feeds.close()
        for placer in self._placers:
            placer.close(ActorStopped("the router was stopped", actor=self.context.name))
            await placer.pool.close()

    @property
    def _placers(self) -> list[Placer]:
        return [placer for placer in (self._decode, self._prefill) if placer is not None]

    def _placer(self, workers: Ref[Worker], roles: tuple[Role, ...], caches: CacheView) -> Placer:
        pool = Pool(workers, self.context.log, roles)
        placer = Placer(pool, self.settings, caches, actor=self.context.name)
        pool.joined, pool.left, pool.changed = placer.joined, placer.left, placer.pump
        return placer

    # -- generating

    @idempotent
    async def generate(self, request: GenerateRequest) -> AsyncIterator[Piece]:
        """Yield a piece for each token, then one `Finish`, which counts the whole answer.

        A worker that fails is replaced by another one, which continues after the last piece. If none is up, the request
        waits up to ``wait_s`` for one. Raises `UnknownModel`, `RequestRefused`, `NoWorkers`, `Overloaded`, the last
        failure when ``migration_limit`` is reached (`WorkersLost` if there was no piece), and what the engine raises
        about the request.
        """
        journey = Journey(request, time.monotonic())
        self._numbers += 1
        journey.number = self._numbers
        tracks_output = self.settings.track_output_blocks
        while True:
            if self._prefill is not None and not (journey.request.done or journey.request.handover):
                await self._prefilled(self._prefill, journey)
            placed = await self._decode.place(journey)
            self.overlap_blocks += placed.choice.overlap_blocks
            self.prompt_blocks += placed.demand.prompt_blocks
            # Only pieces that another worker could continue after are kept.
            kept: list[Piece] | None = [] if self.settings.migration_limit else None
            begun = ended = False
            batches = placed.member.ref.stream(Worker.generate, self._addressed(journey, placed)).batches()
            try:  # from here on, whoever leaves gives the place back
                if request.explain or log.isEnabledFor(logging.DEBUG):
                    routed = self._decided(journey, placed)
                    if request.explain and journey.attempt == 0:
                        yield routed
                async for batch in batches:
                    if not begun:
                        begun = True
                        self._decode.first_piece(placed)
                    if kept is not None:
                        kept += batch
                    if tracks_output:
                        self._decode.output(placed, len(batch))
                    if type(batch[-1]) is Finish:
                        ended = True
                        if journey.before:
                            batch[-1] = whole(batch[-1], journey.before)
                    for piece in batch:
                        yield piece
                self.finished += 1
                return
            except (*LOST, *DECLINED) as error:
                self._decode.failed(placed, inhibit=isinstance(error, LOST))
                if ended:  # it died between its last piece and the end of the stream
                    self.finished += 1
                    return
                self._move(journey, placed, error, kept if begun else [])
            finally:
                self._decode.finish(placed, had_begun=begun)
                await batches.aclose()

    def _move(self, journey: Journey, placed: Placed, error: Exception, pieces: list[Piece] | None) -> None:
        """Prepare the rest of a request for another worker; raises ``error`` if it cannot go on."""
        member = placed.member
        journey.excluded.add((member.index, member.incarnation))
        if isinstance(error, FULL):
            key = (member.index, member.incarnation)
            journey.busy[key] = inf if key in journey.busy else self._decode.ended_on(member)
        if isinstance(error, EngineBusy):
            journey.retry_after_s = min(journey.retry_after_s or error.retry_after_s, error.retry_after_s)
        if isinstance(error, LOST):
            journey.lost.add((member.index, member.incarnation))
        # Callers may be told of it, and texts of the runtime and of what is behind an engine may hold addresses.
        is_telling = isinstance(error, ServingError) and not isinstance(error, EngineFailed)
        journey.failure = str(error) if is_telling else type(error).__name__
        journey.attempt += 1
        if isinstance(error, UnknownModel):  # it is another incarnation than the one that was asked
            self._decode.pool.doubt(member)
        if isinstance(error, LOST):  # it may have taken what was handed over; one that declined has not
            journey.request = replace(journey.request, handover=None)
            journey.prefilled_by = ""
        if pieces == []:
            if _may_have_killed(error):
                journey.losses += 1
                if journey.losses > self._most_losses:
                    self.failed += 1
                    raise WorkersLost(journey.losses, str(error)) from error
            return
        done = None if pieces is None else given(pieces)
        if done is None or journey.moves >= self.settings.migration_limit:
            self.failed += 1
            raise error
        journey.moves += 1
        journey.losses, journey.waited_s = 0, 0.0
        journey.before += len(done)
        journey.arrived_s = time.monotonic()
        journey.request = resume(journey.request, done)
        self.moved += 1
        self.context.log.info(
            "%s goes on elsewhere after %d tokens: %s", journey.request.request_id, journey.before, error
        )

    @property
    def _most_losses(self) -> int:
        """A request that kills workers must not get all of them."""
        return max(1, self.settings.migration_limit)

    def _addressed(self, journey: Journey, placed: Placed) -> GenerateRequest:
        """The request as its worker gets it."""
        member, request = placed.member, journey.request
        ranks = len(member.ranks) > 1
        if not ranks and not request.explain:
            return request
        rank = placed.choice.rank.dp_rank if ranks else request.dp_rank
        return replace(request, dp_rank=rank, explain=False)

    async def _prefilled(self, prefill: Placer, journey: Journey) -> None:
        """Have a long prompt computed by a prefill worker; if none can, the decode worker does it."""
        info = next((m.info for m in self._decode.pool.serving(journey.request.model)), None)
        if info is not None:
            journey.hash(info)
        overlap = max(self._caches.overlaps(journey.local, time.monotonic()).values(), default=0)
        if journey.prompt_tokens - overlap * journey.block_size < self.settings.eff_isl_threshold:
            return
        asked = journey.request
        if self.settings.mode != "direct":  # a pin is one of the decode workers
            asked = replace(asked, worker=None, dp_rank=None)
        side = Journey(asked, time.monotonic(), number=journey.number)
        while journey.losses < self._most_losses:
            placed = prefill.place_now(side)
            if placed is None:
                return
            member = placed.member
            try:
                worker = member.ref.options(deadline_s=PREFILL_S)
                handover = await worker.ask(Worker.prefill, self._addressed(side, placed))
                prefill.first_piece(placed)
            except DeadlineExceeded:
                prefill.failed(placed, inhibit=False)
                return
            except (*LOST, *DECLINED) as error:
                prefill.failed(placed, inhibit=isinstance(error, LOST))
                side.excluded.add((member.index, member.incarnation))
                side.attempt += 1
                journey.losses += _may_have_killed(error)
            else:
                journey.request = replace(journey.request, handover=handover)
                journey.prefilled_by = member.ref.name
                return
            finally:
                prefill.finish(placed)

    # -- what it decided, and what it knows

    def _decided(self, journey: Journey, placed: Placed) -> Routed:
        """Keep a decision, and say it in the log."""
        routed = self._routed(journey, placed)
        self._decisions.append(routed)
        log.debug("routed %s to %s", routed.request_id, routed.worker, extra={"routed": asdict(routed)})
        return routed

    def _routed(self, journey: Journey, placed: Placed) -> Routed:
        choice, members = placed.choice, self._decode.pool.members
        costs = {
            f"{members[rank.worker].ref.name}/{rank.dp_rank}": cost
            for rank, cost in choice.costs.items()
            if rank.worker in members
        }
        return Routed(
            request_id=journey.request.request_id,
            worker=placed.member.ref.name,
            dp_rank=choice.rank.dp_rank,
            mode=self.settings.mode,
            overlap_blocks=choice.overlap_blocks,
            prompt_blocks=placed.demand.prompt_blocks,
            cost=choice.cost,
            costs=costs,
            attempt=journey.attempt,
            queued_s=placed.queued_s,
            prefill_worker=journey.prefilled_by,
        )

    @interleave
    def decisions(self) -> list[Routed]:
        """Return the last decisions about requests that asked to be explained, the latest last."""
        return list(self._decisions)

    @interleave
    def blocks(self, worker: int, dp_rank: int = 0) -> list[int]:
        """Return the sequence hashes of the blocks that this router believes to be in a rank's cache."""
        return sorted(self._caches.index.blocks_of(Rank(worker, dp_rank)))

    @interleave
    async def models(self) -> list[ModelInfo]:
        """Return what the workers that are up serve, each model once."""
        pool = self._decode.pool
        if not pool.is_settled:
            await pool.asked()
        infos = [member.info for member in reversed(list(pool.look().values())) if member.info is not None]
        return sorted({info.model: info for info in infos}.values(), key=lambda info: info.model)

    @interleave
    def load(self) -> dict[str, int]:
        """Return the workers that are up, by name, with the requests outstanding on each."""
        outstanding = self._decode.scheduler.outstanding
        return {
            member.ref.name: outstanding.get(index, 0) for index, member in self._decode.pool.look().items()
        }

    @interleave
    def statistics(self) -> dict[str, Any]:
        """Return counters and books as plain data, for metrics."""
        return {
            "mode": self.settings.mode,
            "finished": self.finished,
            "failed": self.failed,
            "migrations": self.moved,
            "overlap_blocks": self.overlap_blocks,
            "prompt_blocks": self.prompt_blocks,
            "decode": self._decode.statistics(),
            "prefill": None if self._prefill is None else self._prefill.statistics(),
            "index": self._caches.index.statistics(),
            "events": self._feeds.statistics(),
        }


def _may_have_killed(error: Exception) -> bool:
    """True if a worker failed that may have had the request."""
    return isinstance(error, LOST) and getattr(error, "executed", None) is not Executed.NEVER
