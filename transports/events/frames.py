"""Frames: encoded events of one source with their numbers. Pure.

A frame is the msgpack array ``[version, kind, source id, first number, [event, ...]]``; an event is the msgpack of its
topic's type, as bytes. Kinds:

* ``EVENTS``: events with the numbers from ``first`` on, without a gap; none: "the next one is ``first``";
* ``STATE``: part of a snapshot, which stands for every event up to ``first``; more parts follow;
* ``STATE_END``: the last part.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from .errors import BadFrame

VERSION = 1
FRAME_BYTES = 256 * 1024
"""Events are gathered into frames of about this size; every plane carries it (NATS takes 1 MiB by default)."""

EVENT_BYTES = 512 * 1024
"""No event may be larger."""

MOST_EVENTS = 8192
"""In one frame."""


class Kind(IntEnum):
    """What a frame holds."""

    EVENTS = 0
    STATE = 1
    STATE_END = 2


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """A decoded frame."""

    version: int
    kind: Kind
    source: int
    first: int
    events: list[bytes]

    @property
    def last(self) -> int:
        """Number of the last event; ``first - 1`` if there is none."""
        return self.first + len(self.events) - 1


_decode = msgspec.msgpack.Decoder(Frame).decode
_encode = msgspec.msgpack.Encoder().encode


def encode(kind: Kind, source: int, first: int, events: list[bytes]) -> bytes:
    """Return a frame."""
    return _encode((VERSION, int(kind), source, first, events))


def decode(data: bytes | memoryview) -> Frame:
    """Return what a frame holds. Raises `BadFrame` for anything else."""
    try:
        frame = _decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadFrame(str(error)) from None
    if frame.version != VERSION:
        raise BadFrame(f"its version is {frame.version}, and this process speaks {VERSION}")
    if frame.first < 0 or len(frame.events) > MOST_EVENTS:
        raise BadFrame(f"it holds {len(frame.events)} events from number {frame.first}")
    return frame


def split(kind: Kind, source: int, first: int, events: list[bytes]) -> list[bytes]:
    """Return frames of bounded size for these events; for `Kind.STATE_END` the last one ends the snapshot.

    At least one frame is returned.
    """
    parts: list[list[bytes]] = [[]]
    size = 0
    for event in events:
        if parts[-1] and (size + len(event) > FRAME_BYTES or len(parts[-1]) >= MOST_EVENTS):
            parts.append([])
            size = 0
        parts[-1].append(event)
        size += len(event)
    frames = []
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        of_part = Kind.STATE if kind is Kind.STATE_END and not is_last else kind
        frames.append(encode(of_part, source, first, part))
        if kind is Kind.EVENTS:
            first += len(part)
    return frames
