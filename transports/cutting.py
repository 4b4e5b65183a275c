"""Large messages in pieces, so that sender, kernel and receiver work at the same time. Pure.

A message of `CUT_BYTES` or more goes as several, each with one frame of the plane itself in front:

    P  first, last, [length of each frame, if it is the first piece]

The other frames of the pieces, one after the other, are the message. Nothing comes between the pieces of one message.
The receiver takes memory for a frame when its first part is there, and for no more than the limit of a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from .base import RESERVED_BYTE, Frames
from .fresh import new_bytes
from .stable import flat

FEATURE = "pieces1"
PIECE = bytes((RESERVED_BYTE,)) + b"P"

CUT_BYTES = 2 * 1024 * 1024
PIECE_BYTES = 1024 * 1024
MOST_FRAMES = 65_536
MOST_OWN_BYTES = 256 * 1024
"""A frame of the plane itself in front of the message may be so long, and does not count."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[bool, bool, list[int]]).decode
_LAST, _MIDDLE = PIECE + _encode((False, True, ())), PIECE + _encode((False, False, ()))


class Nonsense(ValueError):
    """What no peer sends; the text says what the peer did."""


class TooMuch(Nonsense):
    """A message above the limit."""


def pieces(frames: Frames) -> Iterator[Frames]:
    """Cut a message that does not change any more.

    >>> len(list(pieces((b"head", bytes(PIECE_BYTES + 1)))))
    3
    """
    views = [flat(frame) if memoryview(frame).nbytes else memoryview(b"") for frame in frames]
    parts = [view[at : at + PIECE_BYTES] for view in views for at in range(0, len(view), PIECE_BYTES)]
    lengths = [len(view) for view in views]
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if not number:
            yield PIECE + _encode((True, last, lengths)), part
        else:
            yield _LAST if last else _MIDDLE, part


def whole_messages(messages: Iterable[Frames]) -> Iterator[Frames]:
    """Return messages of ours that were not sent: those in pieces put together again, if no piece is missing."""
    assembly: Assembly | None = None
    for frames in messages:
        if frames[0][:2] != PIECE:
            yield frames
            continue
        first, last, lengths = _decode(frames[0][2:])
        if first:
            assembly = Assembly(sum(lengths))
        if assembly is not None:
            whole = assembly.add([bytes(frame) for frame in frames])
            if whole is not None:
                yield whole
        if last:
            assembly = None


class Assembly:
    """Puts the pieces of one link together again; memory is bounded by ``limit_bytes``."""

    __slots__ = ("_at", "_filling", "_frames", "_lengths", "_limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lengths: list[int] = []
        self._frames: list[bytes | memoryview] = []
        self._filling: memoryview | None = None
        self._at = 0

    def __repr__(self) -> str:
        return f"<Assembly {len(self._frames)} of {len(self._lengths)} frames begun>"

    @property
    def is_open(self) -> bool:
        """True between the first and the last piece of a message."""
        return bool(self._lengths)

    def add(self, frames: Sequence[bytes | memoryview]) -> list[bytes | memoryview] | None:
        """Take the next piece; returns the message when it is whole. Raises `Nonsense`."""
        try:
            first, last, lengths = _decode(frames[0][2:])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Nonsense(f"sent a piece that cannot be read: {error}") from None
        if first is self.is_open or len(frames) != 2 or not len(frames[1]):
            raise Nonsense("sent a piece of a message that does not follow the one before")
        part = memoryview(frames[1])
        if first:
            self._begin(lengths, part)
        self._fill(part)
        if last is not (self._filling is None and len(self._frames) == len(self._lengths)):
            raise Nonsense("sent pieces whose lengths do not add up")
        if not last:
            return None
        whole, self._frames, self._lengths = self._frames, [], []
        return whole

    def _begin(self, lengths: list[int], part: memoryview) -> None:
        if not 0 < len(lengths) <= MOST_FRAMES or min(lengths) < 0:
            raise Nonsense(f"sent a message of {len(lengths)} frames in pieces")
        own = lengths[0] if part[0] == RESERVED_BYTE and lengths[0] <= MOST_OWN_BYTES else 0
        if sum(lengths) - own > self._limit_bytes:
            raise TooMuch(f"sent {sum(lengths):,} bytes; the limit here is {self._limit_bytes:,}")
        self._lengths = lengths

    def _fill(self, part: memoryview) -> None:
        self._skip_empty()
        if self._filling is None:
            if len(self._frames) == len(self._lengths):
                raise Nonsense("sent pieces whose lengths do not add up")
            made, self._filling = new_bytes(self._lengths[len(self._frames)])
            self._frames.append(made)
            self._at = 0
        end = self._at + len(part)
        if end > len(self._filling):
            raise Nonsense("sent pieces whose lengths do not add up")
        self._filling[self._at : end] = part
        self._at = end
        if end == len(self._filling):
            self._filling = None
            self._skip_empty()

    def _skip_empty(self) -> None:
        if self._filling is None:
            while len(self._frames) < len(self._lengths) and not self._lengths[len(self._frames)]:
                self._frames.append(b"")
