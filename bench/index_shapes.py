"""What an index of prefixes is put through: made from a seed, the same for everybody who is measured. Pure.

Standard library only: the interpreter of a peer imports this, too. Hashes are random numbers here; that two prompts
share a prefix is all that an index sees of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

PROMPT = 128
"""Blocks of a long prompt."""
SHORT = 8
RANKS = 8
ASKS = 4000


@dataclass(frozen=True, slots=True)
class Store:
    """A rank holds blocks behind another one."""

    rank: int
    parent: int | None
    local: list[int]
    sequence: list[int]


@dataclass(frozen=True, slots=True)
class Remove:
    """A rank no longer holds blocks."""

    rank: int
    sequence: list[int]


@dataclass(slots=True)
class Workload:
    """Stores, then what is removed before anybody asks, then prompts that are asked for, then what is removed."""

    stores: list[Store] = field(default_factory=list)
    holes: list[Remove] = field(default_factory=list)
    asks: list[list[int]] = field(default_factory=list)
    removals: list[Remove] = field(default_factory=list)

    @property
    def stored(self) -> int:
        """Blocks in all stores, each as often as it is stored."""
        return sum(len(store.sequence) for store in self.stores)

    @property
    def distinct(self) -> int:
        """Different blocks."""
        return len({block for store in self.stores for block in store.sequence})


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of traffic; ``make`` is given about how many blocks to store."""

    name: str
    what: str
    make: Callable[[int, Random], Workload]


def _numbers(rng: Random, count: int) -> list[int]:
    return [rng.getrandbits(64) for _ in range(count)]


def _prompts(rng: Random, count: int, size: int) -> list[Store]:
    return [Store(number % RANKS, None, _numbers(rng, size), _numbers(rng, size)) for number in range(count)]


def _from_the_tail(stores: list[Store]) -> list[Remove]:
    return [Remove(store.rank, store.sequence[::-1]) for store in stores]


def _asks(rng: Random, stores: list[Store]) -> list[list[int]]:
    return [rng.choice(stores).local for _ in range(ASKS)]


def _long(blocks: int, rng: Random) -> Workload:
    stores = _prompts(rng, blocks // PROMPT, PROMPT)
    return Workload(stores, [], _asks(rng, stores), _from_the_tail(stores))


def _short(blocks: int, rng: Random) -> Workload:
    stores = _prompts(rng, blocks // SHORT, SHORT)
    return Workload(stores, [], _asks(rng, stores), _from_the_tail(stores))


def _shared(blocks: int, rng: Random) -> Workload:
    half = PROMPT // 2
    systems = [(_numbers(rng, half), _numbers(rng, half)) for _ in range(16)]
    work, seen = Workload(), set()
    for number in range(blocks // half):
        which, rank = rng.randrange(len(systems)), number % RANKS
        local, sequence = systems[which]
        if (which, rank) not in seen:
            seen.add((which, rank))
            work.stores.append(Store(rank, None, local, sequence))
        own = Store(rank, sequence[-1], _numbers(rng, half), _numbers(rng, half))
        work.stores.append(own)
        work.removals.append(Remove(rank, own.sequence[::-1]))
        work.asks.append(local + own.local)
    work.asks = [rng.choice(work.asks) for _ in range(ASKS)]
    return work


def _everywhere(blocks: int, rng: Random) -> Workload:
    prompts = _prompts(rng, blocks // PROMPT // RANKS, PROMPT)
    stores = [Store(rank, None, one.local, one.sequence) for one in prompts for rank in range(RANKS)]
    return Workload(stores, [], _asks(rng, stores), _from_the_tail(stores))


def _again(blocks: int, rng: Random) -> Workload:
    work = _long(blocks // 2, rng)
    work.stores += work.stores
    return work


def _one_by_one(blocks: int, rng: Random) -> Workload:
    prompts = _prompts(rng, blocks // PROMPT, PROMPT)
    work = Workload(asks=_asks(rng, prompts))
    for at in range(0, len(prompts), 64):
        together = prompts[at : at + 64]
        for depth in range(PROMPT):
            for one in together:
                parent = one.sequence[depth - 1] if depth else None
                work.stores.append(Store(one.rank, parent, [one.local[depth]], [one.sequence[depth]]))
        for depth in reversed(range(PROMPT)):
            work.removals += [Remove(one.rank, [one.sequence[depth]]) for one in together]
    return work


def _holes(blocks: int, rng: Random) -> Workload:
    prompts = _prompts(rng, blocks // PROMPT // 2, PROMPT)
    work = Workload([Store(rank, None, one.local, one.sequence) for one in prompts for rank in (0, 1)])
    for one in prompts:
        work.holes += [Remove(1, [one.sequence[at]]) for at in rng.sample(range(1, PROMPT), PROMPT // 4)]
    work.asks = _asks(rng, prompts)
    work.removals = [Remove(0, one.sequence[::-1]) for one in prompts]
    return work


def _ranks_apart(blocks: int, rng: Random) -> Workload:
    """Each rank holds 16 blocks more of a prompt than the one before it."""
    step = PROMPT // RANKS
    count = max(1, blocks // (step * sum(range(1, RANKS + 1))))
    work = Workload()
    prompts = _prompts(rng, count, PROMPT)
    for one in prompts:
        for rank in range(RANKS):
            end = step * (rank + 1)
            work.stores.append(Store(rank, None, one.local[:end], one.sequence[:end]))
    work.asks, work.removals = _asks(rng, prompts), _from_the_tail(work.stores)
    return work


def _forks(blocks: int, rng: Random) -> Workload:
    """A tree in which each block has two continuations: no run is longer than one block."""
    work = Workload()
    paths: list[list[int]] = [[]]
    names: list[int | None] = [None]
    for parent in range(blocks // 2):
        for _ in range(2):
            local, name = rng.getrandbits(64), rng.getrandbits(64)
            work.stores.append(Store(0, names[parent], [local], [name]))
            paths.append([*paths[parent], local])
            names.append(name)
    work.asks = [rng.choice(paths[len(paths) // 2 :]) for _ in range(ASKS)]
    work.removals = [Remove(0, one.sequence) for one in reversed(work.stores)]
    return work


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("long", "prompts of 128 blocks that share nothing, stored and removed whole", _long),
        Shape("shared", "prompts of 128 blocks, the first 64 one of 16 system prompts", _shared),
        Shape("everywhere", "prompts of 128 blocks, each on all of 8 ranks", _everywhere),
        Shape("apart", "prompts of 128 blocks of which 8 ranks hold 16, 32, ... 128", _ranks_apart),
        Shape("again", "prompts of 128 blocks, all stored twice", _again),
        Shape("short", "prompts of 8 blocks that share nothing", _short),
        Shape("one-by-one", "64 prompts at a time that grow, and shrink, by single blocks", _one_by_one),
        Shape(
            "holes",
            "prompts of 128 blocks on two ranks, a quarter then removed from the middle of one",
            _holes,
        ),
        Shape("forks", "every block has two continuations", _forks),
    )
}


def workload(shape: str, blocks: int) -> Workload:
    """Return the same workload for the same arguments. Raises `KeyError`."""
    return SHAPES[shape].make(blocks, Random(f"{shape} {blocks}"))
