"""What a worker publishes: the changes of its caches on topic ``kv``, and what it has to do on topic ``load``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context

from msgspec import Struct

from callboard.actors.events import ActorEvents, Publisher, Topic

from ..protocol import RankLoad
from .changes import Change, EngineChange, KvChanges
from .resident import ResidentBlocks, count_blocks

LOAD_EVERY_S = 0.25
"""How often a load is looked at; it is published when it has changed."""

MAX_BLOCKS = 4_000_000
"""Blocks per rank that are kept for those who ask."""

CHANGES_PER_EVENT = 512
BLOCKS_PER_EVENT = 16_384
"""Of 16 bytes, beside those of one more change: an event of the plane takes 512 KiB."""

log = logging.getLogger("callboard.serving")


class Loads(Struct, frozen=True, array_like=True):
    """One event of topic ``load``: all ranks of a worker."""

    ranks: list[RankLoad]


KV = Topic("kv", KvChanges)
LOAD = Topic("load", Loads)


class _Event:
    """An event that is being gathered."""

    __slots__ = ("_blocks", "changes")

    def __init__(self, changes: KvChanges) -> None:
        self.changes, self._blocks = changes, 0

    @property
    def is_full(self) -> bool:
        return self._blocks >= BLOCKS_PER_EVENT or len(self.changes.changes) >= CHANGES_PER_EVENT

    def add(self, change: Change) -> None:
        self.changes.changes.append(change)
        self._blocks += count_blocks(change)


class KvPublisher:
    """Tells what enters and leaves the caches of one worker; `changed` is the listener of an engine or a source."""

    def __init__(self, events: ActorEvents, *, max_blocks: int = MAX_BLOCKS) -> None:
        self._events, self._max_blocks = events, max_blocks
        self._ranks: dict[int, ResidentBlocks] = {}
        self._kv: Publisher[KvChanges] | None = None
        self._early: list[EngineChange] = []
        self._deaf = False

    def __repr__(self) -> str:
        return f"<KvPublisher {list(self._ranks.values())}>"

    async def start(self) -> None:
        """Begin to publish. Raises `TransportError`."""
        self._kv = await self._events.publisher(KV, snapshot=self.snapshot)
        early, self._early = self._early, []
        self.changed(early)

    def ignore(self) -> None:
        """Nothing will be published: keep nothing of what the engine says."""
        self._deaf = True
        self._early.clear()

    def changed(self, changes: Sequence[EngineChange]) -> None:
        """The engine says what changed, in its order."""
        if self._kv is None:
            if not self._deaf:
                self._early += changes
            return
        told: dict[int, _Event] = {}
        for change in changes:
            rank = self._ranks.get(change.dp_rank)
            if rank is None:
                rank = self._ranks[change.dp_rank] = ResidentBlocks(change.dp_rank, self._max_blocks)
            for news in rank.apply(change):
                event = told.get(rank.dp_rank)
                if event is None or event.is_full:
                    if event is not None:
                        self._kv.send(event.changes)
                    event = told[rank.dp_rank] = _Event(KvChanges(rank.dp_rank, rank.block_size, []))
                event.add(news)
        for event in told.values():
            self._kv.send(event.changes)

    def snapshot(self) -> Iterable[KvChanges]:
        """Yield what is in the caches."""
        for rank in self._ranks.values():
            yield from rank.snapshot()

    def names(self) -> dict[int, set[int]]:
        """Return the sequence hashes of all blocks, by rank."""
        return {number: rank.names() for number, rank in self._ranks.items()}

    def statistics(self) -> dict[str, int]:
        """Return counters of all ranks together."""
        ranks = self._ranks.values()
        return {
            "blocks": sum(len(rank) for rank in ranks),
            "orphans": sum(rank.orphans for rank in ranks),
            "unknown": sum(rank.unknown for rank in ranks),
            "refused": sum(rank.refused for rank in ranks),
            "elsewhere": sum(rank.elsewhere for rank in ranks),
        }


class LoadPublisher:
    """Tells what the ranks of one worker have to do, whenever that has changed."""

    def __init__(self, events: ActorEvents, load: Callable[[], list[RankLoad]]) -> None:
        self._events, self._load = events, load
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to publish. Raises `TransportError`."""
        publisher = await self._events.publisher(LOAD, snapshot=lambda: [Loads(self._load())])
        work = self._publish(publisher)
        self._task = asyncio.get_running_loop().create_task(work, name="load", context=Context())

    async def _publish(self, publisher: Publisher[Loads]) -> None:
        last: list[RankLoad] = []
        while True:
            load = self._load()
            if load != last:
                publisher.send(Loads(load))
                last = load
            await asyncio.sleep(LOAD_EVERY_S)

    async def close(self) -> None:
        """Publish no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
