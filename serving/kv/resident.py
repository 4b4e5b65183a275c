"""What is in the cache of one rank of an engine, and what to tell of it. Pure.

An engine names its blocks as it likes; here they get the names that every router knows, by their tokens. Two blocks of
an engine may have the same tokens before them and in them: such a block is told when the first comes and the last goes.
A block that goes before its continuations leaves a gap, which is remembered as long as they are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .changes import (
    AllCleared,
    BlocksRemoved,
    BlocksStored,
    Change,
    Cleared,
    EngineChange,
    KvChanges,
    Removed,
    Stored,
)
from .hashing import HASH_BYTES, block_hashes, lora_seed, pack_hashes, sequence_hashes

RUN_BLOCKS = 4096
"""Blocks of one change that is told, at most: what an engine says at once may be more than an event carries."""

ON_DEVICE = {"", "gpu", "device", "cuda", "hbm", "xpu", "cpu_device"}
"""Media that count; what is in host memory or on disk is another tier, of which the index knows nothing."""


@dataclass(slots=True)
class _Block:
    local: int
    parent: int | None
    copies: int = 1
    """0: a gap."""
    children: int = 0


class ResidentBlocks:
    """The blocks of one data-parallel rank, at most ``max_blocks``: beyond, what is stored is not told, and counted."""

    def __init__(self, dp_rank: int, max_blocks: int) -> None:
        self.dp_rank, self.max_blocks = dp_rank, max_blocks
        self.block_size = 0
        self._names: dict[int, int] = {}
        self._blocks: dict[int, _Block] = {}  # in an order in which parents come before their children
        self.orphans = self.unknown = self.refused = self.elsewhere = 0
        """Blocks stored behind an unknown one, removed without being there, beyond the limit, and of other tiers."""

    def __repr__(self) -> str:
        return f"<ResidentBlocks of rank {self.dp_rank}: {len(self)}>"

    def __len__(self) -> int:
        return sum(1 for block in self._blocks.values() if block.copies)

    def names(self) -> set[int]:
        """Return the sequence hashes of all blocks."""
        return {name for name, block in self._blocks.items() if block.copies}

    def apply(self, change: EngineChange) -> list[Change]:
        """Take what an engine says; returns what to tell."""
        if isinstance(change, AllCleared):
            self._names.clear()
            self._blocks.clear()
            return [Cleared()]
        if change.medium.lower() not in ON_DEVICE:
            self.elsewhere += len(change.blocks)
            return []
        return self._remove(change) if isinstance(change, BlocksRemoved) else self._store(change)

    def _store(self, change: BlocksStored) -> list[Change]:
        parent: int | None = None
        if change.parent is not None:
            parent = self._names.get(change.parent)
            if parent is None:
                self.orphans += len(change.blocks)
                return []
        local = block_hashes(change.tokens, change.block_size, lora_seed(change.lora))
        sequence = sequence_hashes(local, parent)
        if len(local) != len(change.blocks) or len(self._blocks) + len(local) > self.max_blocks:
            self.refused += len(change.blocks)
            return []
        self.block_size = change.block_size
        before, gone = parent, list[int]()
        for name, own, engine in zip(sequence, local, change.blocks, strict=True):
            if self._names.get(engine) != name:
                block = self._blocks.get(name)
                if block is None:
                    self._blocks[name] = _Block(own, before)
                    if before is not None:
                        self._blocks[before].children += 1
                else:
                    block.copies += 1
                self._drop(engine, gone)
                self._names[engine] = name
            before = name
        return [*_stored(parent, local, sequence), *_removed(gone)]

    def _remove(self, change: BlocksRemoved) -> list[Change]:
        gone: list[int] = []
        for engine in change.blocks:
            if not self._drop(engine, gone):
                self.unknown += 1
        return _removed(gone)

    def _drop(self, engine: int, gone: list[int]) -> bool:
        name = self._names.pop(engine, None)
        if name is None:
            return False
        block = self._blocks[name]
        block.copies -= 1
        if not block.copies:
            gone.append(name)
            self._forget(name)
        return True

    def _forget(self, name: int | None) -> None:
        """Remove a gap that nothing follows, and then perhaps the one before it."""
        while name is not None and not (block := self._blocks[name]).copies and not block.children:
            del self._blocks[name]
            name = block.parent
            if name is not None:
                self._blocks[name].children -= 1

    def snapshot(self) -> Iterable[KvChanges]:
        """Yield events that say what is there: nothing, then runs of blocks, parents before children; then the gaps."""
        yield KvChanges(self.dp_rank, self.block_size, [Cleared()])
        run: list[int] = []
        parent: int | None = None
        for name, block in self._blocks.items():
            if run and (block.parent != run[-1] or len(run) >= RUN_BLOCKS):
                yield self._run(run, parent)
                run = []
            if not run:
                parent = block.parent
            run.append(name)
        if run:
            yield self._run(run, parent)
        for removed in _removed([name for name, block in self._blocks.items() if not block.copies]):
            yield KvChanges(self.dp_rank, self.block_size, [removed])

    def _run(self, names: Sequence[int], parent: int | None) -> KvChanges:
        local = pack_hashes(self._blocks[name].local for name in names)
        return KvChanges(self.dp_rank, self.block_size, [Stored(parent, local, pack_hashes(names))])


def _stored(parent: int | None, local: Sequence[int], sequence: Sequence[int]) -> list[Change]:
    told: list[Change] = []
    for at in range(0, len(local), RUN_BLOCKS):
        run = sequence[at : at + RUN_BLOCKS]
        told.append(Stored(parent, pack_hashes(local[at : at + RUN_BLOCKS]), pack_hashes(run)))
        parent = run[-1]
    return told


def _removed(names: Sequence[int]) -> list[Change]:
    return [Removed(pack_hashes(names[at : at + RUN_BLOCKS])) for at in range(0, len(names), RUN_BLOCKS)]


def count_blocks(change: Change) -> int:
    """Return how many blocks a change is about."""
    return 0 if isinstance(change, Cleared) else len(change.sequence) // HASH_BYTES
