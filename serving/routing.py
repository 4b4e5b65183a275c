"""How a router chooses among instances. Pure: an instance is its index, a choice depends on what was chosen before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from callboard.transports.errors import ConfigError, did_you_mean


class Policy(Protocol):
    """Chooses one of several instances."""

    def pick(self, candidates: Sequence[int], outstanding: Mapping[int, int]) -> int:
        """Return one of ``candidates`` (ascending, not empty); ``outstanding`` counts the requests on each."""


class RoundRobin:
    """Takes turns: the next index after the last one chosen, whoever came or went meanwhile.

    >>> policy = RoundRobin()
    >>> [policy.pick([0, 1, 2], {}) for _ in range(4)]
    [0, 1, 2, 0]
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = -1

    def pick(self, candidates: Sequence[int], outstanding: Mapping[int, int]) -> int:
        """Return the next one."""
        last = self._last
        self._last = next((index for index in candidates if index > last), candidates[0])
        return self._last


class LeastLoaded:
    """Takes the instance with the fewest requests outstanding; those that are equal take turns.

    >>> LeastLoaded().pick([0, 1, 2], {0: 2, 1: 1, 2: 3})
    1
    """

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns = RoundRobin()

    def pick(self, candidates: Sequence[int], outstanding: Mapping[int, int]) -> int:
        """Return the least loaded one."""
        least = min(outstanding.get(index, 0) for index in candidates)
        equal = [index for index in candidates if outstanding.get(index, 0) == least]
        return self._turns.pick(equal, outstanding)


POLICIES: dict[str, type[Policy]] = {"round-robin": RoundRobin, "least-loaded": LeastLoaded}
"""Policies by the name that a config gives them."""


def make_policy(mode: str) -> Policy:
    """Return the policy of a mode. Raises `ConfigError`."""
    cls = POLICIES.get(mode)
    if cls is None:
        known = ", ".join(POLICIES)
        raise ConfigError(f'mode is "{mode}"; modes are: {known}{did_you_mean(mode, POLICIES)}')
    return cls()


class Balance:
    """What is outstanding on each instance, and the policy that looks at it."""

    __slots__ = ("_policy", "outstanding")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.outstanding: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Balance {type(self._policy).__name__} {self.outstanding}>"

    def begin(self, candidates: Sequence[int]) -> int:
        """Choose an instance and count a request on it."""
        index = self._policy.pick(candidates, self.outstanding)
        self.outstanding[index] = self.outstanding.get(index, 0) + 1
        return index

    def end(self, index: int) -> None:
        """The request is over."""
        left = self.outstanding[index] - 1
        if left:
            self.outstanding[index] = left
        else:
            del self.outstanding[index]
