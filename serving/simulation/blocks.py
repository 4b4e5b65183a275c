"""The KV blocks of one rank: a prefix cache with reference counts, and eviction of what nobody holds. Pure.

A block that is full has a name, its sequence hash. It stays in the cache when nobody holds it any more, until its place
is needed: the one that was let go of longest ago goes first. A request lets go of its blocks from its end, so that
beginnings outlive their continuations. A block that is not full, or whose name the cache has already, belongs to its
request alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..kv.changes import BlocksRemoved, BlocksStored, EngineChange


class BlockPool:
    """``total`` blocks. What is stored and removed is noted in `changes` until it is taken."""

    __slots__ = ("_held", "_idle", "_private", "block_size", "changes", "dp_rank", "total")

    def __init__(self, total: int, block_size: int, dp_rank: int = 0) -> None:
        self.total, self.block_size, self.dp_rank = total, block_size, dp_rank
        self._held: dict[int, int] = {}
        self._idle: dict[int, None] = {}  # in the order in which they were let go of
        self._private = 0
        self.changes: list[EngineChange] = []

    def __repr__(self) -> str:
        return f"<BlockPool {self.used} used, {len(self._idle)} idle of {self.total}>"

    @property
    def used(self) -> int:
        """Blocks that requests hold."""
        return len(self._held) + self._private

    @property
    def available(self) -> int:
        """Blocks that can be had, by eviction if need be."""
        return self.total - self.used

    def resident(self) -> set[int]:
        """Return the names of all that is in the cache."""
        return {*self._held, *self._idle}

    def cached(self, names: Sequence[int]) -> int:
        """Return how many blocks at the beginning of a prompt are in the cache."""
        held, idle = self._held, self._idle
        return next((n for n, name in enumerate(names) if name not in held and name not in idle), len(names))

    def cost(self, names: Sequence[int]) -> int:
        """Return how many of these cached blocks nobody holds yet: `hold` makes so many fewer available."""
        return sum(1 for name in names if name in self._idle)

    def hold(self, names: Sequence[int]) -> None:
        """A request takes blocks that are in the cache."""
        for name in names:
            self._idle.pop(name, None)
            self._held[name] = self._held.get(name, 0) + 1

    def take(self, count: int) -> bool:
        """A request takes blocks of its own; False, and none is taken, if there are too few."""
        if count > self.available:
            return False
        gone = []
        while self.used + len(self._idle) + count > self.total:
            name = next(iter(self._idle))
            del self._idle[name]
            gone.append(name)
        if gone:
            self.changes.append(BlocksRemoved(dp_rank=self.dp_rank, blocks=gone))
        self._private += count
        return True

    def fill(self, names: Sequence[int], parent: int | None, tokens: bytes, lora: str) -> None:
        """Blocks that a request had for itself are full: they continue ``parent``, and it holds them by name."""
        new: list[int] = []
        before, start = parent, 0
        for number, name in enumerate(names):
            self._private -= 1
            if name in self._held or name in self._idle:
                self._stored(new, before, tokens, start, lora)
                new, before, start = [], name, number + 1
            else:
                new.append(name)
            self._idle.pop(name, None)
            self._held[name] = self._held.get(name, 0) + 1
        self._stored(new, before, tokens, start, lora)

    def let_go(self, names: Sequence[int], private: int) -> None:
        """A request is over: its named blocks, from its end, and those of its own."""
        self._private -= private
        for name in reversed(names):
            left = self._held[name] - 1
            if left:
                self._held[name] = left
            else:
                del self._held[name]
                self._idle[name] = None

    def clear(self) -> None:
        """Drop every block that nobody holds."""
        if self._idle:
            self.changes.append(BlocksRemoved(dp_rank=self.dp_rank, blocks=list(self._idle)))
            self._idle.clear()

    def _stored(self, names: list[int], parent: int | None, tokens: bytes, start: int, lora: str) -> None:
        if not names:
            return
        size = self.block_size * 4
        self.changes.append(
            BlocksStored(
                dp_rank=self.dp_rank,
                blocks=names,
                parent=parent,
                tokens=tokens[start * size : (start + len(names)) * size],
                block_size=self.block_size,
                lora=lora,
            )
        )
