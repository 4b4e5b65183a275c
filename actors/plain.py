"""Plain data: what MessagePack carries without changing it.

To look at every value in Python costs more than to encode it. ormsgpack looks while it encodes: it raises for whatever
is not plain, but takes a bytearray or memoryview for bytes, so what may hold bytes is looked at all the same.
"""

from __future__ import annotations

from typing import Any

from ormsgpack import (
    OPT_PASSTHROUGH_DATACLASS,
    OPT_PASSTHROUGH_DATETIME,
    OPT_PASSTHROUGH_ENUM,
    OPT_PASSTHROUGH_SUBCLASS,
    OPT_PASSTHROUGH_TUPLE,
    OPT_PASSTHROUGH_UUID,
    packb,
)

OUT_OF_BAND_BYTES = 64 * 1024
"""Bytes of this size or more leave a message: they are not plain."""
LONG = 32
"""Lists longer than this (numbers, mostly) are looked at without a loop in Python first."""

ONLY_PLAIN = (
    OPT_PASSTHROUGH_DATACLASS
    | OPT_PASSTHROUGH_DATETIME
    | OPT_PASSTHROUGH_ENUM
    | OPT_PASSTHROUGH_SUBCLASS
    | OPT_PASSTHROUGH_TUPLE
    | OPT_PASSTHROUGH_UUID
)
BIN8, BIN16, BIN32 = 0xC4, 0xC5, 0xC6
"""Each of them begins bytes. Where none occurs, there are none; else it may as well be a part of a number or a text."""

SCALARS = frozenset({str, int, float, bool, type(None)})
PLAIN_TYPES = SCALARS | {list, dict, bytes}
_KEYS = SCALARS | {bytes}


def is_plain(value: Any) -> bool:
    """True if MessagePack carries ``value`` without changing it (integers beyond 64 bits raise later).

    >>> is_plain({"a": [1, 2.5, None]}), is_plain({"a": (1, 2)})
    (True, False)
    """
    kind = type(value)
    if kind is dict:
        for key, inner in value.items():
            if type(key) is not str and type(key) not in _KEYS:
                return False
            if type(inner) not in SCALARS and not is_plain(inner):
                return False
        return True
    if kind is list:
        if len(value) > LONG and SCALARS.issuperset(set(map(type, value))):
            return True
        for inner in value:
            if type(inner) not in SCALARS and not is_plain(inner):
                return False
        return True
    return kind in SCALARS or (kind is bytes and len(value) < OUT_OF_BAND_BYTES)


def pack_plain(value: Any, may_hold_bytes: bool = True) -> bytes | None:
    """Return ``value`` as MessagePack; None if it is not plain, or has other keys than texts.

    It is encoded before it is known whether it holds bytes: not for what may hold large ones.
    """
    try:
        body = packb(value, None, ONLY_PLAIN)
    except TypeError:
        return None
    if may_hold_bytes and (BIN8 in body or BIN16 in body or BIN32 in body) and not is_plain(value):
        return None
    return body
