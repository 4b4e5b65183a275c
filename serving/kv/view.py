"""What a router knows of its workers' caches: by their events, or by what it has sent them."""

from __future__ import annotations

from collections.abc import Iterable

from ..scheduling.demand import Rank
from ..scheduling.settings import RouterSettings
from .approximate import ApproximateIndex
from .index import PrefixIndex


class CacheView:
    """Answers how much of a prompt each rank has. Ranks that tell their events are judged by these, others by routing.

    With ``predicted_ttl_s`` a prompt counts as cached where it was sent until the events say it.
    """

    def __init__(self, settings: RouterSettings) -> None:
        self.index: PrefixIndex[Rank] = PrefixIndex(settings.max_index_blocks)
        ttl_s: float | None = settings.ttl_s if settings.approximate_cache_policy == "ttl" else None
        self._routed: ApproximateIndex[Rank] = ApproximateIndex(ttl_s, settings.max_index_blocks)
        predicted = settings.predicted_ttl_s
        self._predicted: ApproximateIndex[Rank] | None = None
        if predicted is not None:
            self._predicted = ApproximateIndex(predicted, settings.max_index_blocks)
        self.telling: set[Rank] = set()
        """Ranks whose events are followed."""

    def __repr__(self) -> str:
        return f"<CacheView {self.index}, {len(self.telling)} ranks tell>"

    def overlaps(self, local: bytes, now_s: float) -> dict[Rank, int]:
        """Return how many blocks of a prompt each rank has; those with none are left out."""
        found = self.index.match(local)
        if len(self._routed):
            for rank, blocks in self._routed.match(local, now_s).items():
                found[rank] = max(found.get(rank, 0), blocks)
        if self._predicted is not None and len(self._predicted):
            for rank, blocks in self._predicted.match(local, now_s).items():
                found[rank] = max(found.get(rank, 0), blocks)
        return found

    def routed(self, rank: Rank, local: bytes, sequence: bytes, now_s: float) -> None:
        """A request with these blocks goes to a rank."""
        if not local:
            return
        if rank not in self.telling:
            self._routed.routed(rank, local, sequence, now_s)
        elif self._predicted is not None:
            self._predicted.routed(rank, local, sequence, now_s)

    def tells(self, rank: Rank) -> None:
        """The events of a rank are followed from now on."""
        if rank not in self.telling:
            self.telling.add(rank)
            self._routed.drop(rank)

    def silent(self, rank: Rank) -> None:
        """The events of a rank are followed no longer."""
        self.telling.discard(rank)
        self.index.drop(rank)
        self._forget(rank)

    def left(self, ranks: Iterable[Rank]) -> None:
        """These are gone, and what they had with them. What events say of a successor stays."""
        for rank in ranks:
            self._forget(rank)

    def _forget(self, rank: Rank) -> None:
        self._routed.drop(rank)
        if self._predicted is not None:
            self._predicted.drop(rank)
