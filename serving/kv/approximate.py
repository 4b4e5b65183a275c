"""What is probably in the caches, judged by what was sent where: for workers that do not say it. Pure.

``ttl``: a block is believed to be there for ``ttl_s`` after a request with it was routed there. ``lru``: until it is
among the oldest beyond ``max_blocks``, which bounds both. The time is given.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from .hashing import unpack_hashes
from .index import PrefixIndex

R = TypeVar("R", bound=Hashable)


class ApproximateIndex(Generic[R]):
    """A `PrefixIndex` that is told of routed requests and forgets; by use alone if ``ttl_s`` is None."""

    __slots__ = ("_expiry", "_index", "_max", "_ttl_s", "expired")

    def __init__(self, ttl_s: float | None, max_blocks: int) -> None:
        self._ttl_s, self._max = ttl_s, max_blocks
        self._index: PrefixIndex[R] = PrefixIndex(max_blocks + 1)
        self._expiry: dict[tuple[R, int], float] = {}  # in the order of their last use
        self.expired = 0

    def __repr__(self) -> str:
        return f"<ApproximateIndex {len(self)} of {self._max} blocks>"

    def __len__(self) -> int:
        return len(self._expiry)

    def routed(self, rank: R, local: bytes, sequence: bytes, now_s: float) -> None:
        """A request with these blocks (packed hashes of a prompt from its beginning) goes to a rank."""
        expiry, index = self._expiry, self._index
        index.store(rank, None, local, sequence)
        until_s = now_s + self._ttl_s if self._ttl_s is not None else 0.0
        # The deepest first: when blocks go, the beginning of a prompt must outlive its continuation.
        for block in reversed(unpack_hashes(sequence)):
            expiry.pop((rank, block), None)
            expiry[rank, block] = until_s
        self._forget(now_s)

    def match(self, local: bytes, now_s: float) -> dict[R, int]:
        """Return how many blocks of a prompt each rank probably has."""
        self._forget(now_s)
        return self._index.match(local)

    def drop(self, rank: R) -> None:
        """A rank is gone, or its cache is empty."""
        if rank in self._index.ranks():
            self._index.drop(rank)
            self._expiry = {key: until_s for key, until_s in self._expiry.items() if key[0] != rank}

    def _forget(self, now_s: float) -> None:
        expiry = self._expiry
        while expiry:
            key = next(iter(expiry))
            if len(expiry) <= self._max and (self._ttl_s is None or expiry[key] > now_s):
                break
            del expiry[key]
            self._index.remove(key[0], (key[1],))
            self.expired += 1
