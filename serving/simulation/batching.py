"""Continuous batching on one rank: which requests compute what in the next step of the engine. Pure.

A step computes at most ``max_batch_tokens`` tokens for at most ``max_running`` requests: one for each request whose
prompt is computed, and of the other prompts as much as there is room for (chunked prefill), in the order they came.
When a block is needed and there is none, the request that came last gives its blocks back and is computed again later.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass, field

from ..kv.hashing import HASH_BYTES, block_hashes, lora_seed, sequence_hashes
from .blocks import BlockPool

TOKEN_BYTES = 4
assert HASH_BYTES == 8


@dataclass(slots=True, eq=False)
class Sequence:
    """One request in the engine."""

    tokens: bytearray
    """Prompt and answer so far, packed."""
    prompt_tokens: int
    lora: str = ""
    transferred: bool = False
    """Its prompt was computed elsewhere, and is here now."""
    computed: int = 0
    cached: int = 0
    """Tokens that were in the cache when it began."""
    began: bool = False
    names: array[int] = field(default_factory=lambda: array("Q"))
    """Sequence hashes of its full blocks that are computed."""
    known: array[int] = field(default_factory=lambda: array("Q"))
    """Sequence hashes of its full blocks, as far as they were needed."""
    private: int = 0
    """Blocks that it has for itself."""
    planned: int = 0
    """Tokens that the step under way computes."""

    def __len__(self) -> int:
        return len(self.tokens) // TOKEN_BYTES

    def name_blocks(self, block_size: int) -> array[int]:
        """Return the sequence hashes of all full blocks."""
        whole = len(self) // block_size
        if len(self.known) < whole:
            start = len(self.known) * block_size * TOKEN_BYTES
            fresh = block_hashes(bytes(self.tokens[start:]), block_size, lora_seed(self.lora))
            self.known.extend(sequence_hashes(fresh, self.known[-1] if self.known else None))
        return self.known


@dataclass(frozen=True, slots=True)
class Step:
    """What the engine computes at once."""

    prefill_tokens: int
    decodes: int
    context_tokens: int
    """Tokens that the decoding requests attend to."""


class Batcher:
    """The requests of one rank, waiting and running."""

    def __init__(self, pool: BlockPool, *, max_running: int, max_batch_tokens: int) -> None:
        self.pool = pool
        self._max_running, self._max_tokens = max_running, max_batch_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.prompt_tokens = self.cached_tokens = 0

    def __repr__(self) -> str:
        return f"<Batcher {len(self.running)} run, {len(self.waiting)} wait, {self.pool}>"

    @property
    def idle(self) -> bool:
        """True if there is nothing to do."""
        return not self.running and not self.waiting

    @property
    def prefill_tokens(self) -> int:
        """Tokens of prompts that are to be computed."""
        return sum(len(sequence) - sequence.computed for sequence in self.waiting) + sum(
            max(0, len(sequence) - sequence.computed - 1) for sequence in self.running
        )

    def fits(self, tokens: int) -> bool:
        """Return whether so many tokens of one request can ever be held."""
        return -(-tokens // self.pool.block_size) <= self.pool.total

    def add(self, sequence: Sequence) -> None:
        """A request comes."""
        self.waiting.append(sequence)

    def drop(self, sequence: Sequence) -> None:
        """A request is over or left; its blocks are free at once."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._give_back(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def begin(self) -> Step | None:
        """Plan the next step; None if there is nothing that can be computed."""
        budget = self._max_tokens
        for sequence in self.running:
            sequence.planned = 0
        for sequence in list(self.running):
            if len(sequence) - sequence.computed == 1 and budget and sequence in self.running:
                budget -= self._plan(sequence, 1)
        for sequence in list(self.running):
            if budget and not sequence.planned and sequence in self.running:
                budget -= self._plan(sequence, min(budget, len(sequence) - sequence.computed))
        while budget and self.waiting and len(self.running) < self._max_running:
            sequence = self.waiting[0]
            if not self._admit(sequence):
                break
            budget -= self._plan(sequence, min(budget, len(sequence) - sequence.computed), may_preempt=False)
        planned = [sequence for sequence in self.running if sequence.planned]
        if not planned:
            return None
        decoding = [s for s in planned if s.planned == 1 and s.computed >= s.prompt_tokens]
        prefill = sum(s.planned for s in planned) - len(decoding)
        return Step(prefill, len(decoding), sum(len(s) for s in decoding))

    def end(self) -> list[Sequence]:
        """The step is over; returns the requests that get a token by it."""
        ready = []
        for sequence in self.running:
            if not sequence.planned:
                continue
            sequence.computed += sequence.planned
            sequence.planned = 0
            self._fill(sequence)
            if sequence.computed == len(sequence):
                ready.append(sequence)
        return ready

    # -- blocks

    def _admit(self, sequence: Sequence) -> bool:
        """Begin with a waiting request, if the blocks of all its tokens can be had."""
        pool, size = self.pool, self.pool.block_size
        names = sequence.name_blocks(size)
        # The last token is always computed: without it there is no next one.
        reusable = names[: min(pool.cached(names), (len(sequence) - 1) // size)]
        needed = -(-len(sequence) // size) - len(reusable) + pool.cost(reusable)
        if needed > pool.available:
            return False
        self.waiting.popleft()
        self.running.append(sequence)
        pool.hold(reusable)
        sequence.names = array("Q", reusable)
        sequence.computed = len(reusable) * size
        if not sequence.began:
            sequence.began = True
            sequence.cached = min(sequence.computed, sequence.prompt_tokens)
            self.prompt_tokens += sequence.prompt_tokens
            self.cached_tokens += sequence.cached
        if sequence.transferred:
            self._grow(sequence, len(sequence) - 1)
            sequence.computed = len(sequence) - 1
            self._fill(sequence)
        return True

    def _plan(self, sequence: Sequence, tokens: int, *, may_preempt: bool = True) -> int:
        while not self._grow(sequence, sequence.computed + tokens):
            if not may_preempt:
                return 0
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return 0
        sequence.planned = tokens
        return tokens

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        more = -(-tokens // self.pool.block_size) - len(sequence.names) - sequence.private
        if more <= 0:
            return True
        if not self.pool.take(more):
            return False
        sequence.private += more
        return True

    def _fill(self, sequence: Sequence) -> None:
        size = self.pool.block_size
        full = sequence.computed // size
        have = len(sequence.names)
        if full <= have:
            return
        names = sequence.name_blocks(size)[have:full]
        tokens = bytes(sequence.tokens[have * size * TOKEN_BYTES : full * size * TOKEN_BYTES])
        self.pool.fill(names, sequence.names[-1] if have else None, tokens, sequence.lora)
        sequence.names.extend(names)
        sequence.private -= full - have

    def _give_back(self, sequence: Sequence) -> None:
        self.pool.let_go(sequence.names, sequence.private)
        sequence.names, sequence.private = array("Q"), 0
        sequence.computed = sequence.planned = 0
        sequence.transferred = False

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._give_back(sequence)
        self.waiting.appendleft(sequence)
        self.preemptions += 1
