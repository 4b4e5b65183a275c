"""New bytes objects of many megabytes, filled by us.

What a large new object costs is a page fault for every 4 KiB of it, several times the copy itself. So its memory is
asked for in huge pages, which Linux gives to who asks ("madvise"). Python has no way to do that between the making and
the filling of bytes but its C API: `PyBytes_FromStringAndSize` without a string is made for that.
"""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress

HUGE_BYTES = 8 * 1024 * 1024
"""Smaller objects come from memory that malloc keeps (see `tune_allocator`): there is nothing to ask for."""
_PAGE_BYTES = 2 * 1024 * 1024

_HEAD_BYTES = bytes.__basicsize__ - 1


def new_bytes(size: int) -> tuple[bytes, memoryview]:
    """Return bytes with anything in it, and the writable view to fill it by, before anybody else sees the object.

    The view must be gone before the bytes are, and be used no more once they are given away.
    """
    made: bytes = _make(None, size)
    at = id(made) + _HEAD_BYTES
    if size >= HUGE_BYTES:
        _ask_for_huge_pages(at, size)
    return made, memoryview((ctypes.c_char * size).from_address(at)).cast("B")


def bytes_of(data: memoryview | bytearray | bytes) -> bytes:
    """Return what ``bytes(data)`` returns, of contiguous data; faster if it is large."""
    view = memoryview(data)
    if view.nbytes < HUGE_BYTES:
        return bytes(view)
    made, filling = new_bytes(view.nbytes)
    filling[:] = view.cast("B")
    return made


def _ask_for_huge_pages(at: int, size: int) -> None:
    first = -(-at // _PAGE_BYTES) * _PAGE_BYTES
    length = (at + size) // _PAGE_BYTES * _PAGE_BYTES - first
    if length > 0 and _madvise is not None:
        _madvise(first, length, getattr(mmap, "MADV_HUGEPAGE", 0))  # that it fails changes nothing


_make = ctypes.pythonapi.PyBytes_FromStringAndSize
_make.restype = ctypes.py_object
_make.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t]

_madvise = None
if hasattr(mmap, "MADV_HUGEPAGE"):
    with suppress(OSError, AttributeError):
        _madvise = ctypes.CDLL(None).madvise
        _madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
