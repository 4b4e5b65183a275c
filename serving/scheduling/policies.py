"""Modes that look at nothing but who is there and how much runs on each. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Protocol

from .demand import Rank


class Policy(Protocol):
    """Chooses one of several ranks."""

    def pick(self, eligible: Sequence[Rank], running: Mapping[Rank, int]) -> Rank:
        """Return one of ``eligible`` (ascending, not empty); ``running`` counts the requests on each."""


class RoundRobin:
    """Takes turns: the next one after the last that was chosen, whoever came or went meanwhile.

    >>> policy = RoundRobin()
    >>> [policy.pick([Rank(0), Rank(1), Rank(2)], {}).worker for _ in range(4)]
    [0, 1, 2, 0]
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = Rank(-1)

    def pick(self, eligible: Sequence[Rank], running: Mapping[Rank, int]) -> Rank:
        """Return the next one."""
        last = self._last
        self._last = next((rank for rank in eligible if rank > last), eligible[0])
        return self._last


class Uniform:
    """Draws one, each as likely as any other."""

    __slots__ = ("_rng",)

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def pick(self, eligible: Sequence[Rank], running: Mapping[Rank, int]) -> Rank:
        """Return any one."""
        return eligible[self._rng.randrange(len(eligible))]


class PowerOfTwo:
    """Draws two and takes the one on which less runs."""

    __slots__ = ("_rng",)

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def pick(self, eligible: Sequence[Rank], running: Mapping[Rank, int]) -> Rank:
        """Return the less loaded of two."""
        if len(eligible) == 1:
            return eligible[0]
        one, other = self._rng.sample(eligible, 2)
        return one if running.get(one, 0) <= running.get(other, 0) else other


class LeastLoaded:
    """Takes the rank with the fewest requests running; those that are equal take turns.

    >>> LeastLoaded().pick([Rank(0), Rank(1), Rank(2)], {Rank(0): 2, Rank(1): 1, Rank(2): 3})
    Rank(worker=1, dp_rank=0)
    """

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns = RoundRobin()

    def pick(self, eligible: Sequence[Rank], running: Mapping[Rank, int]) -> Rank:
        """Return the least loaded one."""
        least = min(running.get(rank, 0) for rank in eligible)
        return self._turns.pick([rank for rank in eligible if running.get(rank, 0) == least], running)


def make_policy(mode: str, rng: Random) -> Policy:
    """Return the policy of a mode; ``direct`` and ``kv`` fall back to turns where they have nothing to go by."""
    match mode:
        case "random":
            return Uniform(rng)
        case "power-of-two":
            return PowerOfTwo(rng)
        case "least-loaded":
            return LeastLoaded()
    return RoundRobin()
