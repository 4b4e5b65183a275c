"""Frames that are larger than a NATS server takes at a time travel in pieces, which follow each other. Pure.

A piece bears the header ``Callboard-Piece: 2/3 1c291ca3``: its number, their count, and the CRC-32 of the whole frame,
without which the first half of one frame and the second half of the next would look like a frame. A frame of which a
piece is missing is left out; the numbers of its events show that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from zlib import crc32

PIECE = "Callboard-Piece"
HEADER_BYTES = 512
"""Kept free for headers: they count for the server's limit."""

LEAST_PAYLOAD_BYTES = 4096
"""A server that takes less is refused: most of what it carried would be headers, and JetStream could not be asked."""

MOST_BYTES = 4 * 1024 * 1024
"""Of one frame; pieces that would be more are left out."""

_MARK = re.compile(r"([1-9][0-9]{0,7})/([1-9][0-9]{0,7}) ([0-9a-f]{8})", re.ASCII)


def cut(frame: bytes, most_bytes: int) -> Iterator[tuple[bytes, str]]:
    """Yield the pieces of a frame with their marks; the mark of a frame that fits is empty.

    >>> list(cut(b"abc", 512 + 2)), list(cut(b"ab", 512 + 2))
    ([(b'ab', '1/2 352441c2'), (b'c', '2/2 352441c2')], [(b'ab', '')])
    """
    room = max(1, most_bytes - HEADER_BYTES)
    if len(frame) <= room:
        yield frame, ""
        return
    count, name = -(-len(frame) // room), f"{crc32(frame):08x}"
    for number in range(count):
        yield frame[number * room : (number + 1) * room], f"{number + 1}/{count} {name}"


class Pieces:
    """Puts the pieces of one subject together again."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._of = ("", "")
        """Count and checksum of the frame whose pieces these are."""
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
        found = _MARK.fullmatch(mark)
        if found is None:
            self._drop()
            return None
        number, count, name = found.groups()
        if number == "1":
            self._drop()
            self._of = (count, name)
        if int(number) != len(self._parts) + 1 or (count, name) != self._of:
            self._drop()
            return None
        self._parts.append(data)
        self._size += len(data)
        if self._size > MOST_BYTES:
            self._drop()
            return None
        if len(self._parts) < int(count):
            return None
        whole = b"".join(self._parts)
        if f"{crc32(whole):08x}" != name:
            self._drop()
            return None
        self._parts, self._size, self._of = [], 0, ("", "")
        return whole

    def _drop(self) -> None:
        if self._parts:
            self.incomplete += 1
        self._parts, self._size, self._of = [], 0, ("", "")
