"""Frames that are larger than a NATS server takes at a time travel in pieces, which follow each other. Pure.

A piece bears the header ``Callboard-Piece: 2/3``. A frame of which a piece is missing is left out; the numbers of its
events show that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

PIECE = "Callboard-Piece"
HEADER_BYTES = 512
"""Kept free for headers: they count for the server's limit."""

MOST_BYTES = 4 * 1024 * 1024
"""Of one frame; pieces that would be more are left out."""


def cut(frame: bytes, most_bytes: int) -> Iterator[tuple[bytes, str]]:
    """Yield the pieces of a frame with their marks; the mark of a frame that fits is empty.

    >>> list(cut(b"abc", 512 + 2)), list(cut(b"ab", 512 + 2))
    ([(b'ab', '1/2'), (b'c', '2/2')], [(b'ab', '')])
    """
    room = max(1, most_bytes - HEADER_BYTES)
    if len(frame) <= room:
        yield frame, ""
        return
    count = -(-len(frame) // room)
    for number in range(count):
        yield frame[number * room : (number + 1) * room], f"{number + 1}/{count}"


class Pieces:
    """Puts the pieces of one subject together again."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._count = self._size = 0
        self.incomplete = 0
        """Frames of which a piece was missing."""

    @property
    def waits(self) -> bool:
        """True in the middle of a frame."""
        return bool(self._parts)

    def add(self, data: bytes, headers: Mapping[str, str] | None) -> bytes | None:
        """Return the frame that this completes, if it does."""
        mark = headers.get(PIECE, "") if headers else ""
        if not mark:
            self._drop()
            return data
        number, _, count = mark.partition("/")
        if not (number.isdecimal() and count.isdecimal()):
            self._drop()
            return None
        if number == "1":
            self._drop()
            self._count = int(count)
        if int(number) != len(self._parts) + 1 or int(count) != self._count:
            self._drop()
            return None
        self._parts.append(data)
        self._size += len(data)
        if self._size > MOST_BYTES:
            self._drop()
            return None
        if len(self._parts) < self._count:
            return None
        whole = b"".join(self._parts)
        self._parts, self._count, self._size = [], 0, 0
        return whole

    def _drop(self) -> None:
        if self._parts:
            self.incomplete += 1
        self._parts, self._count, self._size = [], 0, 0
