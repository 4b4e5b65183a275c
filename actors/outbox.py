"""The way out to one peer: everything that a tick produces leaves as one frame.

Hot path. `post` appends; the first post of a tick schedules one flush; `CHUNK` waiting envelopes, or
`CHUNK_BYTES`, flush at once, so that both processes work at the same time instead of taking turns
(the measured optimum is about a quarter of the messages in flight). Streams that have items to send note
themselves as dirty and are asked for their record at the flush.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from callboard.transports.base import Link
from callboard.transports.errors import TooLarge, TransportError
from callboard.transports.settings import SMALLEST_LIMIT_BYTES
from callboard.transports.stable import stable

from .envelope import array_header, join, split_raw

CHUNK = 64
CHUNK_BYTES = 256 * 1024


class Dirty(Protocol):
    """Something that puts its record into the outbox when asked."""

    def emit(self) -> None:
        """Post what has been collected since the last time."""


class Outbox:
    """An ordered, batching queue in front of one link. Until the link is up it only collects."""

    __slots__ = (
        "_bytes", "_chunk_bytes", "_dirty", "_loop", "_parts", "_ready", "_refused", "_scheduled",
        "limit_bytes", "link", "posted", "setting",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit_bytes: int,
        setting: str,
        refused: Callable[[Sequence[Any], TransportError], None],
    ) -> None:
        self._loop = loop
        self._refused = refused
        self._parts: list[bytes] = []
        self._bytes = 0
        self._ready: deque[Sequence[Any]] = deque()
        self._dirty: list[Dirty] = []
        self._scheduled = False
        self.link: Link | None = None
        self.limit_bytes = limit_bytes
        self._chunk_bytes = min(CHUNK_BYTES, limit_bytes - 8)
        self.setting = setting
        self.posted = 0

    def __repr__(self) -> str:
        state = "down" if self.link is None else "full" if self.link.full else "up"
        return f"<Outbox {state}, {len(self._parts)} envelopes and {len(self._ready)} frames wait>"

    @property
    def idle(self) -> bool:
        """True if nothing waits here."""
        return not (self._parts or self._ready or self._dirty)

    def attach(self, link: Link) -> None:
        """Start sending on ``link``; its limit counts from now on."""
        self.link = link
        if link.peer.max_message_bytes:
            theirs = max(link.peer.max_message_bytes, SMALLEST_LIMIT_BYTES)
            self.limit_bytes = min(self.limit_bytes, theirs)
            self._chunk_bytes = min(CHUNK_BYTES, self.limit_bytes - 8)
        self.flush()

    def detach(self) -> list[bytes]:
        """Drop everything: the link is gone, and what was meant for it must not reach a successor.

        Returns the batches that the link has not got.
        """
        left = [frames[0] for frames in self._ready]
        if self._parts:
            left.append(join(self._parts))
        self.link = None
        self._parts = []
        self._ready.clear()
        self._dirty.clear()
        self._bytes = 0
        return left

    def post(self, part: bytes) -> None:
        """Queue one encoded envelope; raises `TooLarge`."""
        size = len(part)
        parts = self._parts
        if size + self._bytes > self._chunk_bytes:
            if size + 8 > self.limit_bytes:
                raise TooLarge(size, self.limit_bytes, self.setting)
            self._emit()
            parts = self._parts
        parts.append(part)
        self._bytes += size
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)
        elif len(parts) >= CHUNK:
            self._emit()

    def check(self, size: int) -> None:
        """Raise `TooLarge` if a message of ``size`` bytes cannot be sent."""
        if size + 8 > self.limit_bytes:
            raise TooLarge(size, self.limit_bytes, self.setting)

    def post_with(self, part: bytes, buffers: Sequence[Any]) -> None:
        """Queue one envelope with the buffers that travel behind it; raises `TooLarge`."""
        self.check(len(part) + total_bytes(buffers))
        self._emit()
        self._send((array_header(1) + part, *buffers))

    def dirty(self, stream: Dirty) -> None:
        """Ask ``stream`` for its record at the end of this tick."""
        self._dirty.append(stream)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what waits; called at the end of a tick and when a full link has room again."""
        if self._dirty:
            streams, self._dirty = self._dirty, []
            self._scheduled = True  # what they post belongs to this flush
            for stream in streams:
                stream.emit()
        self._scheduled = False
        ready = self._ready
        if ready:
            link = self.link
            while ready and link is not None and not link.full:
                frames = ready.popleft()
                if not self._hand_over(link, frames):
                    ready.appendleft(frames)
                    return
        if self._parts:
            self._emit()

    def _emit(self) -> None:
        parts = self._parts
        if not parts:
            return
        self._parts = []
        self._bytes = 0
        self.posted += len(parts)
        self._send((join(parts),))

    def _send(self, frames: Sequence[Any]) -> None:
        link = self.link
        if link is None or self._ready or link.full or not self._hand_over(link, frames):
            self._ready.append(stable(frames) if len(frames) > 1 else frames)

    def _hand_over(self, link: Link, frames: Sequence[Any]) -> bool:
        try:
            link.send(frames)
        except TooLarge as error:  # posted before the peer had said its limit
            parts = split_raw(frames[0])
            if len(parts) > 1:
                self._ready.extendleft([(join([bytes(part)]),) for part in reversed(parts)])
            else:
                self._refused(frames, error)
        except TransportError:  # the link has just gone: link_down follows and fails what was outstanding
            return False
        return True


def total_bytes(buffers: Sequence[Any]) -> int:
    """Return the size of all buffers together."""
    return sum(memoryview(buffer).nbytes for buffer in buffers)
