"""What runs where, as the router knows it: prompts that wait to be computed, and blocks that are held. Pure."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from .demand import Rank


@dataclass(slots=True)
class Placed:
    """One request on a rank."""

    rank: Rank
    sequence: array[int]
    """Sequence hashes that it holds; empty where blocks are not told apart."""
    blocks: int
    """Blocks of the prompt, a last one that is not full included."""
    prefill_tokens: int
    """Tokens to compute; 0 once the first token came."""
    output_tokens: int = 0
    output_blocks: int = 0


@dataclass(slots=True)
class RankLoadView:
    """All that runs on one rank."""

    requests: int = 0
    prefill_tokens: int = 0
    private_blocks: int = 0
    """Blocks that count for one request each: not full, not told apart, or of answers."""
    shared: dict[int, int] = field(default_factory=dict)
    """Sequence hashes of held blocks, and how many requests hold each. Closed under prefixes: whoever holds a block
    holds all before it."""

    @property
    def blocks(self) -> int:
        """Blocks held, each once."""
        return len(self.shared) + self.private_blocks


class ActiveRequests:
    """The requests that were placed and have not ended."""

    __slots__ = ("_by_id", "_by_rank")

    def __init__(self) -> None:
        self._by_id: dict[str, Placed] = {}
        self._by_rank: dict[Rank, RankLoadView] = {}

    def __repr__(self) -> str:
        return f"<ActiveRequests {len(self._by_id)} on {len(self._by_rank)} ranks>"

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, identifier: str) -> bool:
        return identifier in self._by_id

    def on(self, rank: Rank) -> RankLoadView:
        """Return what runs on a rank; not to be changed."""
        return self._by_rank.get(rank) or RankLoadView()

    def items(self) -> list[tuple[str, Placed]]:
        """Return all that runs."""
        return list(self._by_id.items())

    def would_hold(self, rank: Rank, sequence: array[int], blocks: int) -> int:
        """Return how many blocks a rank would hold with one more request."""
        view = self._by_rank.get(rank)
        if view is None:
            return blocks
        return view.blocks + blocks - _held(view.shared, sequence)

    def add(self, identifier: str, placed: Placed) -> None:
        """A request begins. Raises `KeyError` if there is one of this id."""
        if identifier in self._by_id:
            raise KeyError(identifier)
        self._by_id[identifier] = placed
        view = self._by_rank.setdefault(placed.rank, RankLoadView())
        view.requests += 1
        view.prefill_tokens += placed.prefill_tokens
        view.private_blocks += placed.blocks - len(placed.sequence)
        shared = view.shared
        for block in placed.sequence:
            shared[block] = shared.get(block, 0) + 1

    def first_token(self, identifier: str) -> bool:
        """Its prompt is computed; False if that was known, or the request is not."""
        placed = self._by_id.get(identifier)
        if placed is None or not placed.prefill_tokens:
            return False
        self._by_rank[placed.rank].prefill_tokens -= placed.prefill_tokens
        placed.prefill_tokens = 0
        return True

    def output(self, identifier: str, tokens: int, block_size: int) -> None:
        """So many tokens of its answer more are in the cache."""
        placed = self._by_id.get(identifier)
        if placed is None or block_size <= 0:
            return
        placed.output_tokens += tokens
        more = placed.output_tokens // block_size - placed.output_blocks
        placed.output_blocks += more
        self._by_rank[placed.rank].private_blocks += more

    def end(self, identifier: str) -> bool:
        """A request is over; False if it is not known."""
        placed = self._by_id.pop(identifier, None)
        if placed is None:
            return False
        view = self._by_rank[placed.rank]
        view.requests -= 1
        view.prefill_tokens -= placed.prefill_tokens
        view.private_blocks -= placed.blocks - len(placed.sequence) + placed.output_blocks
        shared = view.shared
        for block in placed.sequence:
            left = shared[block] - 1
            if left:
                shared[block] = left
            else:
                del shared[block]
        if not view.requests:
            del self._by_rank[placed.rank]
        return True


def _held(shared: dict[int, int], sequence: array[int]) -> int:
    """How many blocks at the beginning are held; by halving, because what is held is closed under prefixes."""
    low, high = 0, len(sequence)
    while low < high:
        middle = (low + high) // 2
        if sequence[middle] in shared:
            low = middle + 1
        else:
            high = middle
    return low
