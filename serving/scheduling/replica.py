"""What the instances of a router tell each other, so that they do not all choose the worker that looks idle to each.

Events of topic ``routing``. The publisher's snapshot is one `Added` per request that runs, and one `Bound` per session.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

EVENT_BYTES = 128 * 1024
"""Of the changes of one event, before the last; the event plane carries 512 KiB."""

CHANGE_BYTES = 16
"""Of a change beside its texts and hashes, at least."""

UTF8_BYTES = 4
"""Of a character, at most."""


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


def events_of(changes: Iterable[RoutingChange]) -> Iterator[RoutingChanges]:
    """Yield events of bounded size; of a prompt whose hashes alone are larger, the first ones are told."""
    event, size = list[RoutingChange](), 0
    for change in changes:
        told = change
        if isinstance(told, Added) and len(told.sequence) > EVENT_BYTES:
            told = replace(told, sequence=told.sequence[:EVENT_BYTES])
        event.append(told)
        size += _bytes_of(told)
        if size >= EVENT_BYTES:
            yield RoutingChanges(event)
            event, size = [], 0
    if event:
        yield RoutingChanges(event)


def _bytes_of(change: RoutingChange) -> int:
    text = change.session if isinstance(change, Bound) else change.id
    hashes = len(change.sequence) if isinstance(change, Added) else 0
    return CHANGE_BYTES + UTF8_BYTES * len(text) + hashes
