"""Which rank has which prefix in its cache: the index that a router asks for every request. Pure.

A radix tree over local block hashes. A node is a *run* of blocks, not a block: prompts share long prefixes and then go
their own ways, so a match compares a few runs as bytes (memcmp) where a tree of blocks would look up each one, and a
block costs its two hashes and one entry of a dict. A run is cut where the ranks that hold it differ or where two
continuations part, and grows in place while one rank appends to its end.

    lookup: sequence hash → run           for stores (where is the parent) and removals
    root → runs by their first local hash  for matches

A rank's score is the number of blocks from the beginning of the prompt that it holds without a gap.

The index holds at most ``max_blocks``. Above that, whole runs at the ends of the tree go by the clock algorithm (second
chance): those that no match has passed since the hand was there last. What a worker stores behind an evicted block has
no place any more and counts as an orphan.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from struct import unpack
from typing import Generic, TypeVar

from .hashing import HASH_BYTES, unpack_hashes
from .run import Run, common

R = TypeVar("R", bound=Hashable)

MAX_RUN_BYTES = 256 * HASH_BYTES
"""A cut moves what is behind it: no run may be so long that this takes noticeably long."""

MASKS_REMEMBERED = 4096


class PrefixIndex(Generic[R]):
    """An index of ranks of any hashable kind. Not thread-safe.

    >>> from callboard.serving.kv.hashing import pack_hashes
    >>> index = PrefixIndex(max_blocks=100)
    >>> index.store("a", None, pack_hashes([1, 2, 3]), pack_hashes([1, 12, 13]))
    True
    >>> index.match(pack_hashes([1, 2, 9]))
    {'a': 2}
    """

    def __init__(self, max_blocks: int) -> None:
        self.max_blocks = max_blocks
        self._root = Run(None, b"", b"", 0)
        self._lookup: dict[int, Run] = {}
        self._bits: dict[R, int] = {}
        self._ranks: list[R | None] = []
        self._counts: list[int] = []
        self._masks: dict[int, tuple[R, ...]] = {}
        self._clock: deque[Run] = deque()
        self.runs = 0
        self.orphans = self.unknown = self.evicted = 0
        """Blocks stored behind an unknown one, blocks removed that were not there, blocks given up for room."""

    def __repr__(self) -> str:
        return f"<PrefixIndex {len(self)} of {self.max_blocks} blocks in {self.runs} runs, {len(self._bits)} ranks>"

    def __len__(self) -> int:
        return len(self._lookup)

    # -- asking

    def match(self, local: bytes) -> dict[R, int]:
        """Return how many blocks of a prompt (its packed local hashes) each rank has; those with none are left out."""
        found: dict[R, int] = {}
        children, at, end, active = self._root.children, 0, len(local), -1
        while children is not None and at < end:
            run = children.get(local[at : at + HASH_BYTES])
            if run is None:
                break
            mask = run.mask
            if mask != active:
                lost = active & ~mask if active != -1 else 0
                if lost:
                    blocks = at // HASH_BYTES
                    for rank in self._ranks_of(lost):
                        found[rank] = blocks
                active &= mask
                if not active:
                    break
            run.used = True
            if not local.startswith(run.local, at):
                at += common(run.local, local, at, end)
                break
            at += len(run.local)
            children = run.children
        if active > 0 and at:
            blocks = at // HASH_BYTES
            for rank in self._ranks_of(active):
                found[rank] = blocks
        return found

    def blocks_of(self, rank: R) -> set[int]:
        """Return the sequence hashes of all that a rank holds; walks the whole tree."""
        bit = 1 << self._bits[rank] if rank in self._bits else 0
        found: set[int] = set()
        for run in self._walk():
            if run.mask & bit:
                found.update(unpack_hashes(bytes(run.sequence)))
        return found

    def count(self, rank: R) -> int:
        """Return how many blocks a rank holds."""
        return self._counts[self._bits[rank]] if rank in self._bits else 0

    def ranks(self) -> list[R]:
        """Return the ranks that were entered and not dropped."""
        return list(self._bits)

    def statistics(self) -> dict[str, int]:
        """Return sizes and counters."""
        return {
            "blocks": len(self),
            "runs": self.runs,
            "ranks": len(self._bits),
            "orphans": self.orphans,
            "unknown": self.unknown,
            "evicted": self.evicted,
        }

    # -- telling

    def store(self, rank: R, parent: int | None, local: bytes, sequence: bytes) -> bool:
        """A rank holds a run of blocks behind ``parent`` (a sequence hash); False if that is not known.

        ``local`` and ``sequence`` are packed hashes, as many of the one as of the other (`ValueError`). Blocks that it
        holds already may come again.
        """
        if len(local) != len(sequence) or len(local) % HASH_BYTES:
            raise ValueError(
                f"{len(local)} bytes of local and {len(sequence)} of sequence hashes do not fit together"
            )
        run: Run | None
        if parent is None:
            run, offset = self._root, 0
        else:
            run = self._lookup.get(parent)
            if run is None:
                self.orphans += len(local) // HASH_BYTES
                return False
            offset = run.find(parent) + HASH_BYTES
        bit = 1 << self._bit_of(rank)
        at, end = 0, len(local)
        while at < end:
            if offset == len(run.local):
                child = run.children.get(local[at : at + HASH_BYTES]) if run.children is not None else None
                if child is None:
                    self._append(run, local, sequence, at, bit)
                    break
                run, offset = child, 0
            same = common(run.local[offset:] if offset else run.local, local, at, end)
            run = self._enter(run, offset, same, bit)
            at += same
            offset = len(run.local)
        if len(self._lookup) > self.max_blocks:
            self._evict()
        return True

    def remove(self, rank: R, hashes: Iterable[int]) -> None:
        """A rank no longer holds these blocks, named by their sequence hashes."""
        slot = self._bits.get(rank)
        if slot is None:
            self.unknown += sum(1 for _ in hashes)
            return
        bit, lookup = 1 << slot, self._lookup
        for block in hashes:
            run = lookup.get(block)
            if run is None or not run.mask & bit:
                self.unknown += 1
                continue
            self._leave(run, run.find(block), block, bit)
            self._counts[slot] -= 1

    def clear(self, rank: R) -> None:
        """A rank holds nothing any more."""
        slot = self._bits.get(rank)
        if slot is None or not self._counts[slot]:
            return
        bit = 1 << slot
        for run in list(self._walk()):
            run.mask &= ~bit
        for run in list(self._walk()):
            self._prune(run)
        self._counts[slot] = 0

    def drop(self, rank: R) -> None:
        """A rank is gone."""
        self.clear(rank)
        slot = self._bits.pop(rank, None)
        if slot is not None:
            self._ranks[slot] = None
            self._masks.clear()

    # -- the tree

    def _walk(self) -> Iterable[Run]:
        stack = [self._root]
        while stack:
            run = stack.pop()
            if run is not self._root:
                yield run
            if run.children is not None:
                stack.extend(run.children.values())

    def _bit_of(self, rank: R) -> int:
        slot = self._bits.get(rank)
        if slot is None:
            if None in self._ranks:
                slot = self._ranks.index(None)
                self._ranks[slot] = rank
            else:
                slot = len(self._ranks)
                self._ranks.append(rank)
                self._counts.append(0)
            self._bits[rank] = slot
        return slot

    def _ranks_of(self, mask: int) -> tuple[R, ...]:
        ranks = self._masks.get(mask)
        if ranks is None:
            if len(self._masks) >= MASKS_REMEMBERED:
                self._masks.clear()
            ranks = tuple(
                rank for slot, rank in enumerate(self._ranks) if mask >> slot & 1 and rank is not None
            )
            self._masks[mask] = ranks
        return ranks

    def _append(self, run: Run, local: bytes, sequence: bytes, at: int, bit: int) -> None:
        """Enter blocks that nobody had behind ``run``, which ends there."""
        lookup, total = self._lookup, len(local) - at
        self._counts[bit.bit_length() - 1] += total // HASH_BYTES
        while at < len(local):
            room = MAX_RUN_BYTES - len(run.local)
            if run is self._root or run.mask != bit or run.children is not None or room <= 0:
                piece = local[at : at + MAX_RUN_BYTES]
                child = Run(run, piece, sequence[at : at + MAX_RUN_BYTES], bit)
                run.add_child(child)
                self._clock.append(child)
                self.runs += 1
                run = child
            else:
                piece = local[at : at + room]
                run.local += piece
                run.sequence += sequence[at : at + room]
            part = sequence[at : at + len(piece)]
            if len(part) == HASH_BYTES:
                lookup[int.from_bytes(part, "little")] = run
            else:
                lookup.update(dict.fromkeys(unpack(f"<{len(part) // HASH_BYTES}Q", part), run))
            at += len(piece)

    def _enter(self, run: Run, offset: int, size: int, bit: int) -> Run:
        """A rank holds ``size`` bytes of a run from ``offset`` on; returns the run that ends with them.

        With a ``size`` of 0 something else follows at ``offset``: the run that ends there.
        """
        if not size:
            self._cut(run, offset)
            return run
        if run.mask & bit:
            if offset + size < len(run.local):
                self._cut(run, offset + size)
            return run
        if offset:
            run = self._cut(run, offset)
        if size < len(run.local):
            self._cut(run, size)
        run.mask |= bit
        self._counts[bit.bit_length() - 1] += size // HASH_BYTES
        return run

    def _cut(self, run: Run, offset: int) -> Run:
        rest = run.split(offset)
        self._lookup.update(dict.fromkeys(unpack_hashes(bytes(rest.sequence)), rest))
        self._clock.append(rest)
        self.runs += 1
        return rest

    def _leave(self, run: Run, offset: int, block: int, bit: int) -> None:
        """A rank no longer holds the block at ``offset`` of a run."""
        is_last = offset + HASH_BYTES == len(run.local)
        if run.mask == bit and is_last and run.children is None and offset:
            del run.local[offset:], run.sequence[offset:], self._lookup[block]
            return
        if offset:
            run = self._cut(run, offset)
        if not is_last:
            self._cut(run, HASH_BYTES)
        run.mask &= ~bit
        self._prune(run)

    def _prune(self, run: Run) -> None:
        """Take a run out that nobody holds and nothing follows, and then perhaps the gap before it."""
        while run is not self._root and not run.mask and run.children is None and run.parent is not None:
            parent = run.parent
            self._unlink(run)
            run = parent

    def _unlink(self, run: Run) -> None:
        parent = run.parent
        assert parent is not None
        parent.drop_child(run.key)
        for block in unpack_hashes(bytes(run.sequence)):
            del self._lookup[block]
        run.parent = None
        self.runs -= 1
        if len(self._clock) > 2 * self.runs + 64:
            self._clock = deque(entry for entry in self._clock if entry.parent is not None)

    def _evict(self) -> None:
        clock = self._clock
        while len(self._lookup) > self.max_blocks and clock:
            run = clock.popleft()
            if run.parent is None:  # it went by itself
                continue
            if run.children is not None or run.used:
                run.used = False
                clock.append(run)
                continue
            size = len(run)
            for slot in range(len(self._ranks)):
                if run.mask >> slot & 1:
                    self._counts[slot] -= size
            self.evicted += size
            parent = run.parent
            self._unlink(run)
            self._prune(parent)
