"""Frames that nobody can change any more. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .base import Buffer, Frames
from .fresh import bytes_of


def is_stable(frame: Buffer) -> bool:
    """True if nobody can change what is in ``frame``: it is bytes, or a view of such.

    >>> is_stable(b"a"), is_stable(memoryview(b"a")), is_stable(memoryview(bytearray(b"a")).toreadonly())
    (True, True, False)
    """
    return type(frame) is bytes or (type(frame) is memoryview and type(frame.obj) is bytes)


def stable(frames: Frames) -> Frames:
    """Return frames that may be kept although the caller goes on with its own: copies of those that could change."""
    if all(type(frame) is bytes for frame in frames):
        return frames
    return tuple(frame if is_stable(frame) else bytes_of(frame) for frame in frames)


def flat(frame: Buffer) -> memoryview:
    """Return a view of single bytes of a contiguous frame."""
    view = memoryview(frame)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def total_bytes(frames: Sequence[Buffer]) -> int:
    """Return the size of all frames together."""
    return sum(len(frame) if type(frame) is bytes else memoryview(frame).nbytes for frame in frames)
