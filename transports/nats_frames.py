"""What travels in a NATS message between two nodes. Pure.

A link numbers its lanes (0 is the node itself, the others are actors) and on each lane its pieces. A piece is a header

    kind u8, flags u8, lane u16, crc32 of the addressed node u32, link u64, number u64      (big endian)

and a body. A message of one frame that fits into a piece is the body. Any other begins with the number of its
frames (u32) and the length of each (u64); what follows is cut where a piece is full. Frames of the handshake begin with
`RESERVED_BYTE`, JSON of strangers with a bracket: neither is a kind.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from .base import RESERVED_BYTE, Frames

DATA, ACK, PROBE, GOODBYE = 1, 2, 3, 4
KINDS = frozenset((DATA, ACK, PROBE, GOODBYE))

FIRST, LAST, SINGLE = 1, 2, 4
"""Flags: the first and the last piece of a message; a message whose only frame is the body."""
WHOLE = FIRST | LAST | SINGLE

_header = struct.Struct(">BBHIQQ")
HEADER_BYTES = _header.size
_count = struct.Struct(">I")
_mark = struct.Struct(">HQ")

MOST_FRAMES = 65_536
MOST_OWN_BYTES = 256 * 1024
"""A frame of the plane itself in front of a message may be so long, and does not count."""
_OWN = bytes((RESERVED_BYTE,))


class Header(NamedTuple):
    """The beginning of a piece."""

    kind: int
    flags: int
    lane: int
    node: int
    link: int
    number: int


class Nonsense(ValueError):
    """Bytes that no peer sends."""


pack = _header.pack


def unpack(data: bytes) -> Header | None:
    """Return the header of a piece, or None for what is none."""
    if len(data) < HEADER_BYTES or data[0] not in KINDS:
        return None
    return Header._make(_header.unpack_from(data))


def node_hash(node: str) -> int:
    """Return what the header says of the node that it is meant for."""
    return zlib.crc32(node.encode("utf-8", "surrogatepass"))


def pieces(frames: Frames, most_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Cut a message into flags and bodies of ``most_bytes`` at most.

    >>> list(pieces([b"abc"], 10))
    [(7, b'abc')]
    """
    views = [memoryview(frame).cast("B") for frame in frames]
    if len(views) == 1 and len(views[0]) <= most_bytes:
        yield WHOLE, bytes(views[0])
        return
    head = _count.pack(len(views)) + struct.pack(f">{len(views)}Q", *map(len, views))
    parts: list[bytes | memoryview] = []
    room, flags = most_bytes, FIRST
    for view in (memoryview(head), *views):
        at = 0
        while at < len(view):
            if not room:
                yield flags, b"".join(parts)
                parts, room, flags = [], most_bytes, 0
            part = view[at : at + room]
            parts.append(part)
            room -= len(part)
            at += len(part)
    yield flags | LAST, b"".join(parts)


class Assembly:
    """Puts the pieces of one lane together again; memory is bounded by ``limit_bytes``."""

    __slots__ = ("_limit", "_parts", "_size")

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def __repr__(self) -> str:
        return f"<Assembly of {len(self._parts)} pieces, {self._size} bytes>"

    def add(self, flags: int, body: bytes) -> list[bytes | memoryview] | None:
        """Take the next piece; returns the frames of the message when it is whole. Raises `Nonsense`."""
        if bool(flags & FIRST) is bool(self._parts):
            raise Nonsense("a message that begins in the middle of another, or with its middle")
        self._parts.append(body)
        self._size += len(body)
        if self._size > self._limit + 4 + 8 * MOST_FRAMES:
            raise Nonsense(f"sent more than {self._limit:,} bytes; that is the limit here")
        if not flags & LAST:
            return None
        whole = memoryview(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
        self._parts, self._size = [], 0
        return _split(whole, self._limit)


def _split(whole: memoryview, limit_bytes: int) -> list[bytes | memoryview]:
    try:
        (count,) = _count.unpack_from(whole)
        if not 0 < count <= MOST_FRAMES:
            raise Nonsense(f"a message of {count} frames")
        lengths = struct.unpack_from(f">{count}Q", whole, 4)
    except struct.error as error:
        raise Nonsense(f"a message without its lengths: {error}") from None
    at = 4 + 8 * count
    own = lengths[0] if whole[at : at + 1] == _OWN and lengths[0] <= MOST_OWN_BYTES else 0
    if sum(lengths) - own > limit_bytes:
        raise Nonsense(f"sent {sum(lengths):,} bytes; the limit here is {limit_bytes:,}")
    if at + sum(lengths) != len(whole):
        raise Nonsense("a message whose lengths do not add up")
    frames: list[bytes | memoryview] = []
    for length in lengths:
        frames.append(whole[at : at + length])
        at += length
    frames[0] = bytes(frames[0])
    return frames


def marks_in(most_bytes: int) -> int:
    """Return how many marks fit into a body."""
    return max(0, (most_bytes - _count.size) // _mark.size)


def pack_marks(marks: dict[int, int], most_bytes: int = 1024 * 1024) -> list[bytes]:
    """Return lanes and a number on each, for acknowledgements or a farewell: bodies of ``most_bytes``, at least one."""
    every, most = list(marks.items()), max(1, marks_in(most_bytes))
    parts = [every[at : at + most] for at in range(0, len(every), most)] or [[]]
    return [_count.pack(len(part)) + b"".join(_mark.pack(*mark) for mark in part) for part in parts]


def unpack_marks(body: memoryview) -> tuple[dict[int, int], memoryview]:
    """Return what `pack_marks` was given, and what follows it. Raises `Nonsense`."""
    try:
        (count,) = _count.unpack_from(body)
        if count > MOST_FRAMES:
            raise Nonsense(f"{count} lanes")
        end = 4 + count * _mark.size
        marks = dict(_mark.iter_unpack(body[4:end]))
        if len(body) < end:
            raise Nonsense("lanes without their numbers")
    except struct.error as error:
        raise Nonsense(f"lanes without their numbers: {error}") from None
    return marks, body[end:]
