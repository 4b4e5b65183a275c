"""Drives the batches of one simulated rank on the event loop: a task while there is work, none while there is not."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from typing import Any

from ..kv.changes import EngineChange
from ..kv.hashing import pack
from ..protocol import RankLoad
from ..simulation.batching import Batcher
from ..simulation.batching import Sequence as Running
from ..simulation.blocks import BlockPool
from ..simulation.settings import SimulatedSettings
from ..simulation.timing import Timing

CATCH_UP_S = 0.1
"""Time that the event loop has lost and that the steps may catch up."""


class Job:
    """One request on a rank: its pieces come as the steps are done, whether or not they are read."""

    __slots__ = ("_id_of", "_left", "_pieces", "_waiter", "made", "sequence")

    def __init__(
        self, sequence: Running, pieces: Iterator[Any], limit: int, id_of: Callable[[Any], int]
    ) -> None:
        self.sequence = sequence
        self._pieces, self._left, self._id_of = pieces, limit, id_of
        self.made: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """True when every piece is made."""
        return self._left <= 0

    def make(self) -> None:
        """One token more is computed."""
        piece = next(self._pieces)
        self.made.append(piece)
        self.sequence.tokens += pack((self._id_of(piece),))
        self._left -= 1
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Return when a piece is there."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter


class Rank:
    """One data-parallel rank: its blocks, its requests, its clock."""

    def __init__(
        self, settings: SimulatedSettings, dp_rank: int, told: Callable[[Sequence[EngineChange]], None]
    ) -> None:
        self.dp_rank = dp_rank
        self.pool = BlockPool(settings.blocks, settings.block_size, dp_rank)
        self.batcher = Batcher(
            self.pool, max_running=settings.max_running, max_batch_tokens=settings.max_batch_tokens
        )
        self.timing = Timing(settings, dp_rank)
        self._told = told
        self._task: asyncio.Task[None] | None = None
        self._jobs: dict[Running, Job] = {}

    def __repr__(self) -> str:
        return f"<Rank {self.dp_rank}, {self.batcher}>"

    def add(self, job: Job) -> None:
        """A request comes."""
        self._jobs[job.sequence] = job
        self.batcher.add(job.sequence)
        if self._task is None:
            # A context of its own: it works for all requests, not for the one that woke it.
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"simulated rank {self.dp_rank}", context=Context()
            )

    def drop(self, job: Job) -> None:
        """A request is over or left; its blocks are free at once."""
        if self._jobs.pop(job.sequence, None) is not None:
            self.batcher.drop(job.sequence)

    def load(self) -> RankLoad:
        """Return what there is to do."""
        batcher = self.batcher
        return RankLoad(
            dp_rank=self.dp_rank,
            running=len(batcher.running),
            waiting=len(batcher.waiting),
            used_blocks=self.pool.used,
            prefill_tokens=batcher.prefill_tokens,
        )

    def close(self) -> None:
        """Work no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        batcher, due_s = self.batcher, time.monotonic()
        try:
            while not batcher.idle:
                step = batcher.begin()
                assert step is not None, "a request that can never be held was let in"
                # By a plan: the time that the loop takes must not add up.
                due_s = max(due_s, time.monotonic() - CATCH_UP_S) + self.timing.step_s(step)
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                for sequence in batcher.end():
                    job = self._jobs[sequence]
                    job.make()
                    if job.done:
                        self.drop(job)
                if self.pool.changes:
                    changes, self.pool.changes = self.pool.changes, []
                    self._told(changes)
        finally:
            self._task = None
