"""What the instances of a router tell each other, so that they do not all choose the worker that looks idle to each.

Events of topic ``routing``. The publisher's snapshot is one `Added` per request that runs, and one `Bound` per session.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

EVENT_ROOM_BYTES = 256 * 1024
"""What the changes of one event take at most, about: half of what an event plane carries."""


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


def in_events(changes: Iterable[RoutingChange]) -> Iterator[RoutingChanges]:
    """Yield changes as events that every event plane carries, in their order.

    Of a prompt whose blocks alone are too many for one, their number is told and not their names.
    """
    event: list[RoutingChange] = []
    left = EVENT_ROOM_BYTES
    for change in changes:
        told = _bounded(change)
        if told is None:
            continue
        size = _size(told)
        if size > left:
            yield RoutingChanges(event)
            event, left = [], EVENT_ROOM_BYTES
        event.append(told)
        left -= size
    if event:
        yield RoutingChanges(event)


def _bounded(change: RoutingChange) -> RoutingChange | None:
    if _size(change) <= EVENT_ROOM_BYTES:
        return change
    if isinstance(change, Added):
        return replace(change, sequence=b"")
    return None  # a session with a name of such a length: the other routers place it as any request


def _size(change: RoutingChange) -> int:
    text = change.session if isinstance(change, Bound) else change.id
    hashes = len(change.sequence) if isinstance(change, Added) else 0
    return 64 + 4 * len(text) + hashes  # a character is at most four bytes
