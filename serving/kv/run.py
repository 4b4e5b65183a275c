"""A node of the prefix tree: a run of blocks that the same ranks hold, each the continuation of the one before."""

from __future__ import annotations

from struct import pack

from .hashing import HASH_BYTES


class Run:
    """Blocks as packed local and packed sequence hashes; ``mask`` has one bit per rank that holds all of them.

    A run whose mask is 0 is a gap: nobody holds it, but somebody holds what comes after it.
    """

    __slots__ = ("children", "local", "mask", "parent", "sequence", "used")

    def __init__(
        self, parent: Run | None, local: bytes | bytearray, sequence: bytes | bytearray, mask: int
    ) -> None:
        self.parent = parent
        self.local, self.sequence = bytearray(local), bytearray(sequence)
        self.mask = mask
        self.children: dict[bytes, Run] | None = None
        """The continuations, by the local hash that they begin with."""
        self.used = False
        """A match passed since the hand of the clock was here."""

    def __repr__(self) -> str:
        return f"<Run of {len(self)}, ranks {self.mask:b}, {len(self.children or ())} children>"

    def __len__(self) -> int:
        return len(self.local) // HASH_BYTES

    @property
    def key(self) -> bytes:
        """The local hash that it begins with."""
        return bytes(self.local[:HASH_BYTES])

    def find(self, sequence_hash: int) -> int:
        """Return the offset in bytes of a block that is in this run."""
        wanted, packed = pack("<Q", sequence_hash), self.sequence
        if packed.endswith(wanted):
            return len(packed) - HASH_BYTES
        at = packed.find(wanted)
        while at % HASH_BYTES:  # the bytes of two neighbours may look like it
            at = packed.find(wanted, at + 1)
        return at

    def add_child(self, child: Run) -> None:
        """Append a run that continues this one."""
        if self.children is None:
            self.children = {}
        self.children[child.key] = child

    def drop_child(self, key: bytes) -> None:
        """Take a continuation out."""
        children = self.children
        assert children is not None
        del children[key]
        if not children:
            self.children = None

    def split(self, offset: int) -> Run:
        """Cut before the block at ``offset`` (bytes, within the run) and return the rest, now the only child."""
        rest = Run(self, self.local[offset:], self.sequence[offset:], self.mask)
        rest.used = self.used
        rest.children = self.children
        for child in (rest.children or {}).values():
            child.parent = rest
        del self.local[offset:], self.sequence[offset:]
        self.children = {rest.key: rest}
        return rest


def common(one: bytes | bytearray, other: bytes, start: int, end: int) -> int:
    """How many bytes, in whole hashes, ``one`` and ``other[start:end]`` have in common at their beginnings."""
    low, high = 0, min(len(one), end - start) // HASH_BYTES
    if one[: high * HASH_BYTES] == other[start : start + high * HASH_BYTES]:
        return high * HASH_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        if (
            one[low * HASH_BYTES : middle * HASH_BYTES]
            == other[start + low * HASH_BYTES : start + middle * HASH_BYTES]
        ):
            low = middle
        else:
            high = middle - 1
    return low * HASH_BYTES
