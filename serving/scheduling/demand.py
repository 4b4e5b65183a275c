"""What is asked of a scheduler, and what it answers."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Rank(NamedTuple):
    """One data-parallel rank of one worker: what a request is placed on."""

    worker: int
    """Number of the instance."""
    dp_rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFacts:
    """What is known of a rank that does not change while it lives; 0 is unknown."""

    total_blocks: int = 0
    max_batch_tokens: int = 0
    max_running: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One request, as far as placing it goes."""

    id: str
    """Unique among those that are placed: the request id and the attempt."""
    prompt_tokens: int
    block_size: int
    sequence: array[int] = field(default_factory=lambda: array("Q"))
    """Sequence hashes of the full blocks of the prompt; empty for modes that do not look at it."""
    priority: int = 0
    arrived_s: float = 0.0
    session: str = ""
    is_computed: bool = False
    """A prefill worker has computed the prompt: whoever takes it only decodes."""
    pinned: Rank | None = None
    """Takes it whatever the cost; load is booked all the same."""

    @property
    def prompt_blocks(self) -> int:
        """Blocks of the prompt, the last one perhaps not full."""
        return -(-self.prompt_tokens // self.block_size) if self.block_size else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where a request goes."""

    rank: Rank
    overlap_blocks: int = 0
    cost: float = 0.0
    costs: Mapping[Rank, float] = field(default_factory=dict)


class Wait(NamedTuple):
    """Nobody may take the request now: it waits for load to end."""

    why: str


class Refusal(NamedTuple):
    """Nobody takes the request, and waiting is not worth it."""

    why: str


Placement = Choice | Wait | Refusal
