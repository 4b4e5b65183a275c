"""How the router's view of the caches follows what the workers publish."""

from __future__ import annotations

import logging

from callboard.actors.directory import split_name
from callboard.actors.events import Event, Item, Left, Lost, Snapshot
from callboard.transports.events.base import Source

from ..scheduling.demand import Rank
from .changes import Cleared, KvChanges, Removed, Stored
from .hashing import unpack_hashes
from .view import CacheView

log = logging.getLogger("callboard.serving.router")


class KvFollower:
    """Turns items of topic ``kv`` into changes of an index. Pure.

    A worker's incarnations are different sources; the index knows ranks of instances. So what an old source says, or
    that it left, counts only while no newer one of its instance was heard.
    """

    def __init__(self, view: CacheView) -> None:
        self._view = view
        self._current: dict[int, Source] = {}
        self._ranks: dict[int, set[Rank]] = {}
        """By the id of the source."""
        self._doubted: dict[int, int] = {}
        """Orphans of a source when it was last asked to begin again."""
        self.events = self.blocks = self.orphans = 0

    def __repr__(self) -> str:
        return f"<KvFollower of {len(self._current)} workers>"

    def take(self, item: Item[KvChanges]) -> bool:
        """Apply an item; True if the source must tell everything again, because what it said does not fit."""
        source = item.source
        worker = split_name(source.name)[1] or 0
        if isinstance(item, Left):
            self._left(worker, source)
            return False
        if not self._is_current(worker, source):
            return False
        if isinstance(item, Lost):  # sources of this topic have snapshots
            return True
        if isinstance(item, Snapshot):
            for rank in self._ranks.get(source.id, ()):
                self._view.index.drop(rank)
            for value in item.values:
                self._apply(worker, source, value)
            return False
        assert isinstance(item, Event)
        self.events += 1
        return not self._apply(worker, source, item.value) and self._may_ask(source)

    def _is_current(self, worker: int, source: Source) -> bool:
        known = self._current.get(worker)
        if known is not None and known.id != source.id:
            if known.incarnation > source.incarnation:
                return False
            self._left(worker, known)
        self._current[worker] = source
        return True

    def _left(self, worker: int, source: Source) -> None:
        known = self._current.get(worker)
        if known is not None and known.id == source.id:
            del self._current[worker]
            for rank in self._ranks.pop(source.id, ()):
                self._view.silent(rank)
        self._doubted.pop(source.id, None)

    def _apply(self, worker: int, source: Source, changes: KvChanges) -> bool:
        rank = Rank(worker, changes.dp_rank)
        self._ranks.setdefault(source.id, set()).add(rank)
        self._view.tells(rank)
        try:
            return self._enter(rank, changes)
        except ValueError as error:  # of another version, perhaps; the others are followed all the same
            log.warning("what %s says of its cache makes no sense: %s", source.name, error)
            return False

    def _enter(self, rank: Rank, changes: KvChanges) -> bool:
        index, fits = self._view.index, True
        for change in changes.changes:
            if isinstance(change, Stored):
                self.blocks += len(change.sequence) // 8
                if not index.store(rank, change.parent, change.local, change.sequence):
                    self.orphans += len(change.sequence) // 8
                    fits = False
            elif isinstance(change, Removed):
                index.remove(rank, unpack_hashes(change.sequence))
            else:
                assert isinstance(change, Cleared)
                index.clear(rank)
        return fits

    def _may_ask(self, source: Source) -> bool:
        """Blocks behind those that the index gave up for room never fit: that is no reason to begin again."""
        if self._view.index.evicted:
            return False
        asked = self._doubted.get(source.id, 0)
        self._doubted[source.id] = asked + 1
        return asked < 8
