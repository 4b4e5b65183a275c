"""Which slot of which shared segment a large frame takes. Pure: segments are made and mapped by who is given.

A segment has slots of one size, and a byte of state for each: the sender sets it, whoever reads the slot clears it when
the last view is gone. So the bytes are the truth about what is free, and a look for a free slot is one search. What a
link that has ended still holds is never used again: its segment leaves the pool, and its memory goes back
with the last process that maps it.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Protocol

KIB = 1024
MIB = 1024 * KIB

SMALLEST_SLOT_BYTES = 256 * KIB
STEP_BYTES = 16 * MIB
"""Below, sizes of slots are powers of two; above, multiples of this. A segment of small slots has this size, too."""
MOST_SLOTS = 32

FREE, LEASED, TAKEN = 0, 1, 2
"""States of a slot: taken is what the receiver makes of leased when it has made a view of it."""


class States(Protocol):
    """The bytes of state of a segment, one for each slot."""

    def find_free(self) -> int:
        """Return the first free slot, -1 if there is none."""

    def __getitem__(self, slot: int, /) -> int: ...

    def __setitem__(self, slot: int, state: int, /) -> None: ...


class Memory(Protocol):
    """The memory of a segment."""

    @property
    def states(self) -> States:
        """See `States`."""

    def give_back(self) -> None:
        """Give the pages of the slots, all free, back to the system; they read as zeros afterwards."""

    def close(self) -> None:
        """Unmap it here; whoever has mapped it elsewhere keeps it."""


class Segment:
    """One segment: its slots, and who has leased them."""

    __slots__ = ("memory", "number", "owners", "slot_bytes", "used_s", "warm")

    def __init__(self, number: int, slot_bytes: int, slots: int, memory: Memory) -> None:
        self.number = number
        self.slot_bytes = slot_bytes
        self.memory = memory
        self.owners = [0] * slots
        """The link that has leased each slot last; 0 if it has ended."""
        self.used_s = 0.0
        self.warm = False
        """True if there may be pages to give back."""

    def __repr__(self) -> str:
        return f"<Segment {self.number}, {len(self.owners)} slots of {self.slot_bytes:,} bytes, {self.leased} leased>"

    @property
    def total_bytes(self) -> int:
        """Bytes of all slots."""
        return self.slot_bytes * len(self.owners)

    @property
    def leased(self) -> int:
        """How many slots are not free."""
        states = self.memory.states
        return sum(states[slot] != FREE for slot in range(len(self.owners)))

    def held_by(self, owner: int) -> bool:
        """True if the link holds one of the slots."""
        states = self.memory.states
        return any(held == owner and states[slot] != FREE for slot, held in enumerate(self.owners))

    def lease(self, slot: int, owner: int, now_s: float) -> None:
        """Give a free slot to a link."""
        self.memory.states[slot] = LEASED
        self.owners[slot] = owner
        self.used_s = now_s
        self.warm = True


def slot_bytes_for(size: int) -> int:
    """Return the size of slot that ``size`` bytes take.

    >>> slot_bytes_for(300_000) == 512 * 1024, slot_bytes_for(17 * 1024**2) == 32 * 1024**2
    (True, True)
    """
    if size > STEP_BYTES:
        return -(-size // STEP_BYTES) * STEP_BYTES
    return max(SMALLEST_SLOT_BYTES, 1 << (size - 1).bit_length())


class Pool:
    """The segments that one process lends out, ``limit_bytes`` together."""

    def __init__(self, limit_bytes: int, make: Callable[[int, int], Memory]) -> None:
        self.limit_bytes = limit_bytes
        self._make = make
        self._made = 0
        self._retired: dict[int, Segment] = {}
        self.segments: dict[int, Segment] = {}
        self.changes = 0
        """Grows when a segment has gone."""

    def __repr__(self) -> str:
        return f"<Pool {len(self.segments)} segments, {self.total_bytes:,} of {self.limit_bytes:,} bytes>"

    def __contains__(self, number: int) -> bool:
        return number in self.segments or number in self._retired

    def __getitem__(self, number: int) -> Segment:
        return self.segments.get(number) or self._retired[number]

    def holds(self, number: int, slot: int, owner: int) -> bool:
        """True if what a link has leased is still leased to it, and nobody has taken it."""
        segment = self.segments.get(number) or self._retired.get(number)
        return segment is not None and segment.owners[slot] == owner and segment.memory.states[slot] == LEASED

    @property
    def total_bytes(self) -> int:
        """Bytes of all segments, those included that wait for their last reader."""
        return sum(s.total_bytes for s in (*self.segments.values(), *self._retired.values()))

    @property
    def is_idle(self) -> bool:
        """True if there is nothing that `sweep` could do later."""
        return not self._retired and not any(segment.warm for segment in self.segments.values())

    def find(self, size: int, known: Container[int]) -> tuple[Segment, int] | None:
        """Return a free slot for ``size`` bytes, and its segment, among the segments that are known to the receiver."""
        wanted = slot_bytes_for(size)
        for segment in self.segments.values():
            if segment.slot_bytes == wanted and segment.number in known:
                slot = segment.memory.states.find_free()
                if slot >= 0:
                    return segment, slot
        return None

    def propose(self, size: int, offered: Container[int]) -> Segment | None:
        """Return a segment with room for ``size`` bytes that has not been offered yet, made now if the limit allows it.

        None also as long as one with room is offered and not yet opened. Raises OSError if it cannot be made.
        """
        wanted = slot_bytes_for(size)
        fitting = [s for s in self.segments.values() if s.slot_bytes == wanted]
        fitting = [s for s in fitting if s.memory.states.find_free() >= 0]
        if fitting:
            return None if any(s.number in offered for s in fitting) else fitting[0]
        slots = min(MOST_SLOTS, max(1, STEP_BYTES // wanted), self.limit_bytes // wanted)
        if not slots or not self._make_room(wanted):
            return None
        slots = min(slots, (self.limit_bytes - self.total_bytes) // wanted)
        memory = self._make(wanted, slots)
        self._made += 1
        segment = self.segments[self._made] = Segment(self._made, wanted, slots, memory)
        return segment

    def _make_room(self, size: int) -> bool:
        """Drop what is idle, the longest unused first, until ``size`` bytes more are within the limit."""
        over = self.total_bytes + size - self.limit_bytes
        idle = [segment for segment in self.segments.values() if not segment.leased] if over > 0 else []
        if over > sum(segment.total_bytes for segment in idle):
            return False
        for segment in sorted(idle, key=lambda segment: segment.used_s):
            if over <= 0:
                break
            over -= segment.total_bytes
            segment.memory.give_back()
            self._drop(self.segments, segment)
        return True

    def leave(self, owner: int) -> None:
        """A link has ended: what it holds is lost to the pool, for its peer may still read it."""
        for segment in list(self.segments.values()):
            if segment.held_by(owner):
                self._retired[segment.number] = self.segments.pop(segment.number)
        for segment in (*self.segments.values(), *self._retired.values()):
            segment.owners = [0 if held == owner else held for held in segment.owners]
        self._bury()

    def sweep(self, now_s: float, idle_s: float) -> None:
        """Give back the pages of what nobody has leased for ``idle_s``."""
        self._bury()
        for segment in self.segments.values():
            if segment.warm and now_s - segment.used_s >= idle_s and not segment.leased:
                segment.memory.give_back()
                segment.warm = False

    def _bury(self) -> None:
        """Drop the retired segments that no link holds any more."""
        for segment in list(self._retired.values()):
            if not any(segment.held_by(owner) for owner in {*segment.owners} - {0}):
                self._drop(self._retired, segment)

    def _drop(self, of: dict[int, Segment], segment: Segment) -> None:
        del of[segment.number]
        segment.memory.close()
        self.changes += 1

    def close(self) -> None:
        """Drop everything; what peers have mapped stays with them."""
        for segments in (self.segments, self._retired):
            for segment in list(segments.values()):
                self._drop(segments, segment)
