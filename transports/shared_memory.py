"""Large frames between processes of one host: they stay in shared memory, and only where they are goes over the link.

A sender writes each large frame into a slot of a segment (`segment_pool`, `segment`) and puts one frame in front of the
message, which begins like every frame of the plane itself with `RESERVED_BYTE`:

    S  [leases, offers, withdrawn]   leases: [index in the message, segment, slot, length], offers: as `Offer`
    Y  [segments opened, segments not opened]      the answer to offers

A segment is used once the peer has said that it has opened it. So a peer that cannot (another user, /proc out of reach)
costs nothing but the offers; and the death or the end of a sender takes away nothing of what is on its way. Until then,
when everything is leased, and when the pool is full, a message goes over the link as it is: nobody waits for memory.

Both sides agree by a feature in their identities, which says that they can see each other's processes.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from time import monotonic

import msgspec

from .base import RESERVED_BYTE, Frames, Identity, PlaneStatistics
from .cutting import Nonsense, TooMuch
from .segment import SUPPORTED, Offer, OwnMemory, PeerMemory, Unusable, open_offer
from .segment_pool import Pool, Segment
from .settings import NetworkSettings
from .stable import flat

SHARED, ANSWER = bytes((RESERVED_BYTE,)) + b"S", bytes((RESERVED_BYTE,)) + b"Y"

THRESHOLD_BYTES = 256 * 1024
"""Frames below go over the link: they are as fast there."""
IDLE_S = 5.0
"""Pages that nobody has leased for so long go back to the system."""
MOST_OPENED = 256
MOST_OFFERS = 4
"""Per message."""

FEATURE = "shm1:"

Place = tuple[int, int, int, int]
_encode = msgspec.msgpack.Encoder().encode
_decode_shared = msgspec.msgpack.Decoder(tuple[list[Place], list[Offer], list[int]]).decode
_decode_answer = msgspec.msgpack.Decoder(tuple[list[int], list[int]]).decode
_owners = itertools.count(1)


@lru_cache(maxsize=1)
def _feature() -> str:
    """Equal for processes that reach each other's descriptors: same boot, process namespace and user."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return FEATURE + hashlib.sha256(f"{boot}{namespace}{os.geteuid()}".encode()).hexdigest()[:20]


def announced(identity: Identity, settings: NetworkSettings, *features: str) -> Identity:
    """Return the identity with ``features``, and that of shared memory if this process has some and may use it."""
    feature = _feature() if SUPPORTED and settings.shared_memory_bytes else ""
    return replace(identity, features=(*identity.features, *features, *filter(None, (feature,))))


def sharing(
    peer: Identity,
    settings: NetworkSettings,
    limit_bytes: int,
    statistics: PlaneStatistics,
    answer: Callable[[Frames], None],
) -> Sharing | None:
    """Return what shares memory with ``peer`` over a new link, None if it cannot; close it with the link."""
    feature = _feature() if SUPPORTED and settings.shared_memory_bytes else ""
    if not feature or feature not in peer.features:
        return None
    return Sharing(_Keeper.get(settings.shared_memory_bytes), settings, limit_bytes, statistics, answer)


def is_shared(frame: bytes | memoryview) -> bool:
    """True for the first frame of a message that `Sharing.take` has to see."""
    return frame[:2] == SHARED or frame[:2] == ANSWER


class _Keeper:
    """The pool of one event loop: lives as long as a link uses it, and gives back what is idle."""

    _kept: dict[asyncio.AbstractEventLoop, _Keeper] = {}  # noqa: RUF012 (one per loop, of the whole process)

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_bytes: int) -> None:
        self._loop = loop
        self._users = 0
        self._timer: asyncio.TimerHandle | None = None
        self.pool = Pool(limit_bytes, OwnMemory)

    def __repr__(self) -> str:
        return f"<_Keeper of {self.pool!r} for {self._users} links>"

    @classmethod
    def get(cls, limit_bytes: int) -> _Keeper:
        """Return that of the running loop; give it back with `release`."""
        loop = asyncio.get_running_loop()
        keeper = cls._kept.get(loop)
        if keeper is None:
            keeper = cls._kept[loop] = cls(loop, limit_bytes)
        keeper._users += 1
        keeper.pool.limit_bytes = max(keeper.pool.limit_bytes, limit_bytes)
        return keeper

    def release(self) -> None:
        """The last link closes the pool."""
        self._users -= 1
        if not self._users:
            if self._timer is not None:
                self._timer.cancel()
            self.pool.close()
            del self._kept[self._loop]

    def used(self) -> None:
        """There will be something to give back."""
        if self._timer is None:
            self._timer = self._loop.call_later(IDLE_S, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        self.pool.sweep(monotonic(), IDLE_S)
        if not self.pool.is_idle:
            self.used()


class Sharing:
    """Both directions of one link."""

    __slots__ = (
        "_answer", "_changes", "_closed", "_keeper", "_known", "_limit_bytes", "_may_offer", "_most_opened_bytes",
        "_offered", "_opened", "_owner", "_pool", "_statistics",
    )  # fmt: skip

    def __init__(
        self,
        keeper: _Keeper,
        settings: NetworkSettings,
        limit_bytes: int,
        statistics: PlaneStatistics,
        answer: Callable[[Frames], None],
    ) -> None:
        self._keeper = keeper
        self._pool = keeper.pool
        self._limit_bytes = limit_bytes
        self._statistics = statistics.extra
        self._answer = answer
        self._owner = next(_owners)
        self._offered: set[int] = set()
        self._known: set[int] = set()
        """Segments of ours that the peer has opened."""
        self._changes = self._pool.changes
        self._may_offer = True
        self._opened: dict[int, PeerMemory] = {}
        self._most_opened_bytes = 2 * settings.shared_memory_bytes
        self._closed = False

    def __repr__(self) -> str:
        return f"<Sharing: the peer knows {len(self._known)} segments of ours, we {len(self._opened)} of its>"

    # -- out

    def export(self, frames: Frames) -> Frames:
        """Return the message as it goes over the link: its large frames in shared memory, as far as there is some."""
        if all(len(frame) < THRESHOLD_BYTES for frame in frames if type(frame) is bytes) and all(
            memoryview(frame).nbytes < THRESHOLD_BYTES for frame in frames if type(frame) is not bytes
        ):
            return frames
        leases: list[Place] = []
        offers: list[Offer] = []
        gone = self._withdrawn()
        left = [frames[0]]
        for index in range(1, len(frames)):
            place = self._lease(index, flat(frames[index]), offers)
            if place is None:
                left.append(frames[index])
            else:
                leases.append(place)
        if not leases and not offers and not gone:
            return frames
        self._keeper.used()
        # A segment that was dropped to make room for an offer of this message is named with the next one.
        return (SHARED + _encode((leases, offers, gone)), *left)

    def _lease(self, index: int, data: memoryview, offers: list[Offer]) -> Place | None:
        size = len(data)
        if size < THRESHOLD_BYTES:
            return None
        found = self._pool.find(size, self._known)
        if found is None:
            self._count("shared_fallbacks")
            self._propose(size, offers)
            return None
        segment, slot = found
        segment.lease(slot, self._owner, monotonic())
        _memory(segment).write(slot, data)
        self._count("shared_frames")
        return index, segment.number, slot, size

    def _propose(self, size: int, offers: list[Offer]) -> None:
        if not self._may_offer or len(offers) == MOST_OFFERS:
            return
        try:
            segment = self._pool.propose(size, self._offered)
        except OSError:  # too many open files, or no memory: the ordinary way remains
            return
        if segment is not None:
            self._offered.add(segment.number)
            offers.append(_memory(segment).offer(segment.number))

    def _withdrawn(self) -> list[int]:
        """The segments that are gone since the last time; nothing on its way needs them any more."""
        if self._changes == self._pool.changes:
            return []
        self._changes = self._pool.changes
        gone = [number for number in self._offered if number not in self._pool]
        self._offered.difference_update(gone)
        self._known.difference_update(gone)
        self._may_offer = self._may_offer or bool(gone)
        return gone

    def restore(self, frames: Frames) -> Frames:
        """Return a message of ours that was not sent as it was given to the link; read-only. Before `close`.

        Returned as it is, with the word of the plane in front, if the peer has freed what it has not been given.
        """
        if frames[0][:2] != SHARED:
            return frames
        leases, _, _ = _decode_shared(frames[0][2:])
        if not all(self._pool.holds(number, slot, self._owner) for _, number, slot, _ in leases):
            return frames
        whole = list(frames[1:])
        for index, number, slot, length in leases:
            whole.insert(index, _memory(self._pool[number]).read(slot, length))
        return tuple(whole)

    # -- in

    def take(self, frames: Sequence[bytes | memoryview]) -> list[bytes | memoryview] | None:
        """Take a message for which `is_shared` holds; returns what the peer's upper layer has sent, if anything.

        Raises `Nonsense`.
        """
        head = frames[0]
        try:
            if head[:2] == ANSWER:
                opened, not_opened = _decode_answer(head[2:])
                self._answered(opened, not_opened)
                return None
            leases, offers, withdrawn = _decode_shared(head[2:])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Nonsense(f"sent a word about shared memory that cannot be read: {error}") from None
        for number in withdrawn:
            self._opened.pop(number, None)
        self._open(offers)
        return self._resolve(list(frames[1:]), leases)

    def _answered(self, opened: list[int], not_opened: list[int]) -> None:
        self._known.update(self._offered.intersection(opened))  # the others were withdrawn meanwhile
        if not_opened:
            self._may_offer = False
            self._count("shared_refusals")

    def _open(self, offers: list[Offer]) -> None:
        if not offers:
            return
        if len(offers) > MOST_OFFERS:
            raise Nonsense(f"offered {len(offers)} segments at once")
        opened: list[int] = []
        not_opened: list[int] = []
        for offer in offers:
            try:
                if offer.number in self._opened:
                    raise Nonsense(f"offered segment {offer.number} twice")
                self._check_room(offer)
                self._opened[offer.number] = open_offer(offer)
                opened.append(offer.number)
            except Unusable:
                not_opened.append(offer.number)
        self._answer((ANSWER + _encode((opened, not_opened)), b""))

    def _check_room(self, offer: Offer) -> None:
        mapped = sum(memory.total_bytes for memory in self._opened.values())
        if (
            len(self._opened) >= MOST_OPENED
            or mapped + offer.slot_bytes * offer.slots > self._most_opened_bytes
        ):
            raise Unusable("enough is mapped")

    def _resolve(self, frames: list[bytes | memoryview], leases: list[Place]) -> list[bytes | memoryview]:
        if not frames:
            raise Nonsense("sent a place in shared memory and no message")
        frames[0] = bytes(frames[0])
        size = sum(map(len, frames)) + sum(length for *_, length in leases)
        if size > self._limit_bytes:
            raise TooMuch(f"sent {size:,} bytes; the limit here is {self._limit_bytes:,}")
        for index, number, slot, length in leases:
            memory = self._opened.get(number)
            if memory is None:
                raise Nonsense(f"used segment {number} of shared memory, which is not open here")
            if not 0 < index <= len(frames):
                raise Nonsense(f"sent frame {index} of a message with {len(frames)}")
            try:
                frames.insert(index, memory.lease(slot, length))
            except ValueError as error:
                raise Nonsense(f"used in shared memory {error}") from None
        return frames

    def _count(self, what: str) -> None:
        self._statistics[what] = self._statistics.get(what, 0) + 1

    def close(self) -> None:
        """The link has ended: what it has leased is not used again, and views of what came stay valid. Idempotent."""
        if not self._closed:
            self._closed = True
            self._opened.clear()
            self._pool.leave(self._owner)
            self._keeper.release()


def _memory(segment: Segment) -> OwnMemory:
    assert isinstance(segment.memory, OwnMemory)
    return segment.memory
