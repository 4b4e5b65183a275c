"""What the instances of a router tell each other, so that they do not all choose the worker that looks idle to each.

Events of topic ``routing``. The publisher's snapshot is one `Added` per request that runs, and one `Bound` per session.
"""

from __future__ import annotations

from msgspec import Struct


class Added(Struct, frozen=True, array_like=True, tag="a"):
    """A request was placed."""

    id: str
    worker: int
    dp_rank: int
    blocks: int
    prefill_tokens: int
    sequence: bytes
    """Sequence hashes of the blocks that it holds, packed; may be empty."""


class Computed(Struct, frozen=True, array_like=True, tag="c"):
    """Its first token came."""

    id: str


class Ended(Struct, frozen=True, array_like=True, tag="e"):
    """It is over."""

    id: str


class Bound(Struct, frozen=True, array_like=True, tag="b"):
    """A session is on a worker."""

    session: str
    worker: int
    dp_rank: int


RoutingChange = Added | Computed | Ended | Bound


class RoutingChanges(Struct, frozen=True, array_like=True):
    """One event: changes in their order."""

    changes: list[RoutingChange]
