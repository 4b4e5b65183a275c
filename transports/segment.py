"""Shared memory without a name: a memfd of one process, opened by another through /proc.

Nothing has to be removed: the kernel frees the memory when the last process that maps it is gone, however it went. The
size is sealed, so that nobody can cut the file under a reader. Layout: a page with a random token and one byte of state
per slot, then the slots.

A view stays valid as long as anybody holds it, whatever becomes of the link and of the sender; when the last one dies,
the byte of its slot is cleared.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import secrets
import stat
import sys
import weakref
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from .segment_pool import FREE, LEASED, MOST_SLOTS, TAKEN, States

HEAD_BYTES = mmap.PAGESIZE
TOKEN_BYTES = 16
STATES_AT = 64
NAME = "callboard"
PLACE = f"/memfd:{NAME}"

SUPPORTED = sys.platform == "linux" and hasattr(os, "memfd_create") and STATES_AT + MOST_SLOTS <= HEAD_BYTES
SEALS = 0x0001 | 0x0002 | 0x0004
"""F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW; the module fcntl names them on Linux only."""
ADD_SEALS, GET_SEALS = 1033, 1034

MOST_BYTES = 1 << 40
"""No segment is larger; keeps what a peer says of one within what mmap takes."""


class Offer(NamedTuple):
    """What a peer needs to open a segment of ours."""

    number: int
    pid: int
    fd: int
    token: bytes
    slot_bytes: int
    slots: int


class Unusable(Exception):
    """An offer that leads to no segment; the text says why."""


class Mapping:
    """A segment, mapped here; the base of both ends."""

    __slots__ = ("memory", "slot_bytes", "slots")

    def __init__(self, memory: mmap.mmap, slot_bytes: int, slots: int) -> None:
        self.memory = memory
        self.slot_bytes = slot_bytes
        self.slots = slots

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.slots} slots of {self.slot_bytes:,} bytes>"

    @property
    def total_bytes(self) -> int:
        """Bytes of all slots."""
        return self.slot_bytes * self.slots

    @property
    def states(self) -> States:
        """See `States`."""
        return self

    def find_free(self) -> int:
        """See `States`."""
        found = self.memory.find(FREE_BYTE, STATES_AT, STATES_AT + self.slots)
        return found - STATES_AT if found >= 0 else -1

    def __getitem__(self, slot: int) -> int:
        return self.memory[STATES_AT + slot]

    def __setitem__(self, slot: int, state: int) -> None:
        self.memory[STATES_AT + slot] = state


FREE_BYTE = bytes((FREE,))


class OwnMemory(Mapping):
    """A segment that this process has made."""

    __slots__ = ("_fd", "_token")

    def __init__(self, slot_bytes: int, slots: int) -> None:
        """Raises OSError if there are too many descriptors open, or too little memory."""
        self._fd = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._fd, HEAD_BYTES + slot_bytes * slots)
            fcntl.fcntl(self._fd, ADD_SEALS, SEALS)
            super().__init__(mmap.mmap(self._fd, HEAD_BYTES + slot_bytes * slots), slot_bytes, slots)
        except (OSError, ValueError):
            os.close(self._fd)
            raise
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self.memory[:TOKEN_BYTES] = self._token

    def offer(self, number: int) -> Offer:
        """Return what a peer needs to open it."""
        return Offer(number, os.getpid(), self._fd, self._token, self.slot_bytes, self.slots)

    def write(self, slot: int, data: memoryview) -> None:
        """Copy ``data``, flat and of bytes, into a slot."""
        at = HEAD_BYTES + slot * self.slot_bytes
        self.memory[at : at + len(data)] = data

    def read(self, slot: int, length: int) -> memoryview:
        """Return a read-only view of what is in a slot; it does not keep the slot."""
        at = HEAD_BYTES + slot * self.slot_bytes
        return memoryview(self.memory)[at : at + length].toreadonly()

    def give_back(self) -> None:
        """See `Memory.give_back`; works although others map it."""
        with suppress(OSError):
            self.memory.madvise(mmap.MADV_REMOVE, HEAD_BYTES, self.total_bytes)

    def close(self) -> None:
        """See `Memory.close`; the mapping itself goes with the last view of it."""
        os.close(self._fd)
        del self.memory


class PeerMemory(Mapping):
    """A segment of a peer, opened here."""

    __slots__ = ()

    def lease(self, slot: int, length: int) -> memoryview:
        """Return a read-only view of a leased slot, which is free when the last view of it is gone.

        Raises ValueError if the slot is not leased, or too short.
        """
        if not (0 <= slot < self.slots and 0 < length <= self.slot_bytes):
            raise ValueError(f"{length:,} bytes in slot {slot} of {self.slots} of {self.slot_bytes:,} bytes")
        if self[slot] != LEASED:
            raise ValueError(f"slot {slot}, which is not leased")
        self[slot] = TAKEN
        whole = _array_of(self.slot_bytes).from_buffer(self.memory, HEAD_BYTES + slot * self.slot_bytes)
        weakref.finalize(whole, _release, self.memory, STATES_AT + slot, os.getpid()).atexit = False
        return memoryview(whole).cast("B")[:length].toreadonly()


@lru_cache(maxsize=64)
def _array_of(size: int) -> type[ctypes.Array[ctypes.c_char]]:
    return ctypes.c_char * size


def _release(memory: mmap.mmap, at: int, pid: int) -> None:
    """Runs in whatever thread drops the last view. The view of a fork is not the last one: its parent's is."""
    if os.getpid() == pid:
        memory[at] = FREE


def open_offer(offer: Offer) -> PeerMemory:
    """Map the segment that a peer offers; raises `Unusable` if what is there is none, or not that one.

    What the numbers lead to may be anything by now, or by a peer's ill will: nothing here waits, or trusts a size.
    """
    total = HEAD_BYTES + offer.slot_bytes * offer.slots
    if not (0 < offer.slots <= MOST_SLOTS and offer.slot_bytes > 0 and total <= MOST_BYTES):
        raise Unusable(f"{offer.slots} slots of {offer.slot_bytes:,} bytes are no segment")
    path = f"/proc/{offer.pid}/fd/{offer.fd}"
    try:
        place = os.readlink(path)
        if not place.startswith(PLACE):
            raise Unusable(f"{path} is {place}, and no shared memory")
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            return _map(fd, path, offer, total)
        finally:
            os.close(fd)
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        raise Unusable(f"{path} cannot be opened: {reason}") from None


def _map(fd: int, path: str, offer: Offer, total: int) -> PeerMemory:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size != total:
        raise Unusable(f"{path} is of {found.st_size:,} bytes, not {total:,}")
    if fcntl.fcntl(fd, GET_SEALS) & SEALS != SEALS:
        raise Unusable(f"{path} is not sealed: it could shrink")
    memory = mmap.mmap(fd, total)
    if memory[:TOKEN_BYTES] != offer.token:
        memory.close()
        raise Unusable(f"{path} has another token: it is the segment of somebody else")
    return PeerMemory(memory, offer.slot_bytes, offer.slots)
