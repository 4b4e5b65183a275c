"""When a rank takes nothing more. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ..protocol import RankLoad
from .demand import Rank, RankFacts
from .settings import RouterSettings


class BusyRule:
    """The thresholds, and what the workers report; a rank is busy if one of them is exceeded."""

    __slots__ = ("_blocks_share", "_reports", "_tokens", "_tokens_frac")

    def __init__(self, settings: RouterSettings) -> None:
        self._blocks_share = settings.active_decode_blocks_threshold
        self._tokens = settings.active_prefill_tokens_threshold
        self._tokens_frac = settings.active_prefill_tokens_threshold_frac
        self._reports: dict[Rank, RankLoad] = {}

    def __str__(self) -> str:
        names = {
            "active_decode_blocks_threshold": self._blocks_share,
            "active_prefill_tokens_threshold": self._tokens,
            "active_prefill_tokens_threshold_frac": self._tokens_frac,
        }
        return (
            ", ".join(f"{name} = {value:g}" for name, value in names.items() if value is not None) or "never"
        )

    @property
    def armed(self) -> bool:
        """True if there is a threshold."""
        return (self._blocks_share, self._tokens, self._tokens_frac) != (None, None, None)

    def report(self, worker: int, loads: Iterable[RankLoad]) -> None:
        """A worker says what its ranks have to do."""
        for load in loads:
            self._reports[Rank(worker, load.dp_rank)] = load

    def remove_worker(self, worker: int) -> None:
        """It is gone."""
        for rank in [rank for rank in self._reports if rank.worker == worker]:
            del self._reports[rank]

    def exceeded(self, rank: Rank, facts: RankFacts, blocks: int, prefill_tokens: int) -> bool:
        """Return whether a rank is busy: by the router's own books or by its report, whichever says more."""
        report = self._reports.get(rank)
        if report is not None:
            blocks = max(blocks, report.used_blocks)
            prefill_tokens = max(prefill_tokens, report.prefill_tokens)
        share = self._blocks_share
        if share is not None and facts.total_blocks and blocks > share * facts.total_blocks:
            return True
        if self._tokens is not None and prefill_tokens > self._tokens:
            return True
        limit = self._tokens_frac
        return (
            limit is not None
            and facts.max_batch_tokens > 0
            and prefill_tokens > limit * facts.max_batch_tokens
        )
