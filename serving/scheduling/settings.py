"""The knobs of a router, with Dynamo's names and defaults where it has them (reference: its router flags, 1.6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from callboard.transports.errors import ConfigError, did_you_mean

from ..options import settings_of
from .cost import Weights

MODES = ("round-robin", "random", "power-of-two", "least-loaded", "direct", "kv")
QUEUE_POLICIES = ("fcfs", "wspt")
CACHE_POLICIES = ("ttl", "lru")
AFFINITY_MODES = ("soft", "hard")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """How requests are placed. Raises `ConfigError` with every problem."""

    mode: str = "round-robin"
    max_outstanding: int = 1024
    """Requests of this router on one worker at a time."""

    # kv: the cost
    overlap_score_credit: float = 1.0
    """What a block in the cache is worth, in blocks; 0: the caches do not count."""
    overlap_score_credit_decay: float = 0.0
    """How much less it is worth on a worker where prompts wait."""
    prefill_load_scale: float = 3.0
    """What a block to compute costs, in blocks held. Dynamo's default is 1; see docs/router.md for what 3 gains."""
    decode_active_request_weight: float = 0.0
    temperature: float = 0.0
    """0: the least cost; above: drawn by the costs."""
    track_active_blocks: bool = True
    """Count the blocks that running requests hold; without it a rank's requests cost nothing but their prefill."""
    track_output_blocks: bool = False
    """Count the blocks of answers, too."""
    track_prefill_tokens: bool = True
    """Count the tokens of prompts until their first token came."""
    assume_kv_reuse: bool = True
    """Blocks that several running requests share count once."""

    # kv: what is known of the caches
    use_kv_events: bool = True
    """False, or without an event plane: the router goes by what it has sent where."""
    ttl_s: float = 120.0
    """How long it believes that (approximate mode)."""
    approximate_cache_policy: str = "ttl"
    predicted_ttl_s: float | None = None
    """With events: believe for so long that a prompt is where it was sent, until the events say it; None: do not."""
    max_index_blocks: int = 4_000_000
    """Blocks in the index; beyond, the prefixes that nobody asked for longest go (about 115 bytes each)."""

    # waiting
    queue_threshold: float | None = None
    """Requests wait while each worker has prompts for more than this share of ``max_batch_tokens`` to compute."""
    queue_policy: str = "fcfs"
    queue_limit: int = 4096
    """Requests that may wait."""
    wait_s: float = 10.0
    """How long a request waits for a worker, at most."""
    min_initial_workers: int = 0
    """The router starts when so many workers serve."""

    # busy
    active_decode_blocks_threshold: float | None = None
    """A rank is busy when running requests hold more than this share of its blocks."""
    active_prefill_tokens_threshold: int | None = None
    """A rank is busy when more tokens of prompts wait there."""
    active_prefill_tokens_threshold_frac: float | None = None
    """The same as a multiple of ``max_batch_tokens``."""

    # sessions
    session_affinity_ttl_s: float | None = None
    """A session stays on its worker until it was silent for so long; None: no affinity."""
    session_affinity_mode: str = "soft"
    """``soft``: another worker if its own is busy; ``hard``: only if its own is gone."""
    max_sessions: int = 65_536

    # failures
    migration_limit: int = 3
    """How often a generation that has begun may move to another worker; 0: never.

    Workers that fail before they give a piece: so many, and at least one, before the request fails with the last.
    """
    inhibit_s: float = 5.0
    """How long a worker that failed gets nothing; doubled each time, up to ``inhibit_max_s``. 0: never."""
    inhibit_max_s: float = 60.0

    replica_sync: bool | None = None
    """Tell the other instances of this router what runs where, over the event plane; None: in mode ``kv``."""
    eff_isl_threshold: int = 2048
    """Prompts with fewer tokens that are not cached are computed by the decode worker itself."""

    def __post_init__(self) -> None:
        problems = [*self._words(), *self._flags(), *self._counts(), *self._numbers()]
        if problems:
            raise ConfigError(problems)

    def _words(self) -> list[str]:
        allowed = {
            "mode": MODES,
            "queue_policy": QUEUE_POLICIES,
            "approximate_cache_policy": CACHE_POLICIES,
            "session_affinity_mode": AFFINITY_MODES,
        }
        return [
            f'{name} is "{value}"; it must be one of {", ".join(known)}{did_you_mean(str(value), known)}'
            for name, known in allowed.items()
            if (value := getattr(self, name)) not in known
        ]

    def _flags(self) -> list[str]:
        return [
            f"{name} is {value!r}; it must be true or false, without quotes"
            for name in FLAGS
            if type(value := getattr(self, name)) is not bool and not (value is None and name in OPTIONAL)
        ]

    def _counts(self) -> list[str]:
        least = {
            "max_outstanding": 1,
            "max_index_blocks": 1,
            "queue_limit": 0,
            "min_initial_workers": 0,
            "max_sessions": 1,
            "migration_limit": 0,
            "eff_isl_threshold": 0,
            "active_prefill_tokens_threshold": 1,
        }
        return [
            f"{name} is {value!r}; it must be a whole number, at least {low}"
            for name, low in least.items()
            if (value := getattr(self, name)) is not None and (type(value) is not int or value < low)
        ]

    def _numbers(self) -> list[str]:
        problems = []
        for name in NUMBERS:
            value = getattr(self, name)
            if value is None and name in OPTIONAL:
                continue
            if type(value) not in (int, float) or not 0 <= value < float("inf"):
                problems.append(f"{name} is {value!r}; it must be a number, 0 or above")
        share = self.active_decode_blocks_threshold
        if type(share) in (int, float) and share is not None and share > 1:
            problems.append(f"active_decode_blocks_threshold is {share!r}; it is a share, from 0 to 1")
        return problems

    @property
    def weights(self) -> Weights:
        """The knobs of the cost."""
        return Weights(
            overlap_score_credit=self.overlap_score_credit,
            overlap_score_credit_decay=self.overlap_score_credit_decay,
            prefill_load_scale=self.prefill_load_scale,
            decode_active_request_weight=self.decode_active_request_weight,
        )


FLAGS = (
    "track_active_blocks", "track_output_blocks", "track_prefill_tokens", "assume_kv_reuse", "use_kv_events",
    "replica_sync",
)  # fmt: skip
NUMBERS = (
    "overlap_score_credit", "overlap_score_credit_decay", "prefill_load_scale", "decode_active_request_weight",
    "temperature", "ttl_s", "predicted_ttl_s", "queue_threshold", "wait_s", "active_decode_blocks_threshold",
    "active_prefill_tokens_threshold_frac", "session_affinity_ttl_s", "inhibit_s", "inhibit_max_s",
)  # fmt: skip
OPTIONAL = {
    "predicted_ttl_s", "queue_threshold", "active_decode_blocks_threshold", "active_prefill_tokens_threshold_frac",
    "session_affinity_ttl_s", "replica_sync",
}  # fmt: skip


def router_settings(values: Mapping[str, Any]) -> RouterSettings:
    """Return settings from the keys of a config. Raises `ConfigError` with every problem, unknown keys included."""
    return settings_of(RouterSettings, values, "the router")
