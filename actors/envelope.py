"""The wire form of a message: one MessagePack array per envelope, one array of envelopes per frame.

Each envelope is encoded when it is sent, by one call, and a frame is an array header with the encoded
envelopes behind it. So the caller may change its arguments after the call, a value that cannot be encoded
raises where it was passed, its exact size is known, and building a frame is one join.

    [kind, id, body, target, method, budget_s, extra]

Fields may be added at the end, or to ``extra``: a reader ignores what it does not know. Which fields a kind uses:

=========  ====================================================  ===========================================
kind       fields                                                body
=========  ====================================================  ===========================================
ASK        id, target, method, budget_s, extra                   arguments
TELL       target, method, extra                                 arguments
OPEN       id, target, method, budget_s, extra                   arguments
REPLY      id                                                    result
ERROR      id                                                    map with the facts of an error
ITEMS      id, target: the bytes of the items                    array of items
END        id                                                    number of items
MORE       id                                                    [items, bytes] of stream credit given back
CREDIT     target                                                [messages, bytes] that may be sent again
CANCEL     id                                                    nil
=========  ====================================================  ===========================================

Arguments are an array of positional values, or a map ``{"a": [...], "k": {...}}`` with keywords.
``budget_s`` is the time left, in seconds, re-anchored by the receiver on its own clock; 0 means no deadline.
Sizes of the MessagePack forms are those of the MessagePack specification.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any

import msgspec

ASK, TELL, OPEN, REPLY, ERROR, ITEMS, END, MORE, CREDIT, CANCEL = range(1, 11)

Kind = Annotated[int, msgspec.Meta(ge=ASK)]
"""Newer peers may know more of them; what is below the first is nonsense."""

NIL = msgspec.Raw(b"\xc0")


class Envelope(msgspec.Struct, array_like=True, gc=False):
    """Any message, its body still encoded. The hot paths have forms of their own: `Letter` and `Answer`."""

    kind: Kind
    id: int
    body: msgspec.Raw = NIL
    target: int = 0
    method: str = ""
    budget_s: float = 0.0
    extra: dict[str, Any] | None = None


class Answer(msgspec.Struct, array_like=True, gc=False):
    """What comes back to the asking side, its body decoded in the same pass (see `Codec.answers`)."""

    kind: int
    id: int
    body: Any = None
    target: int = 0


_decode = msgspec.msgpack.Decoder(list[Envelope]).decode
_decode_raw = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_pack16 = struct.Struct(">BH").pack
_pack32 = struct.Struct(">BI").pack

MALFORMED = (msgspec.ValidationError, msgspec.DecodeError, RecursionError, UnicodeDecodeError, TypeError)
"""What decoding bytes of a stranger can raise; catch all of it at the frame boundary. A key that cannot be hashed is a
TypeError with msgspec before 0.22."""


def array_header(length: int) -> bytes:
    """Return the MessagePack header of an array of ``length`` elements.

    >>> array_header(3), array_header(300)
    (b'\\x93', b'\\xdc\\x01,')
    """
    if length < 16:
        return bytes((0x90 | length,))
    if length < 65536:
        return _pack16(0xDC, length)
    return _pack32(0xDD, length)


def join(parts: list[bytes]) -> bytes:
    """Return the array whose elements are the encoded ``parts``."""
    return array_header(len(parts)) + b"".join(parts)


def split_raw(frame: bytes) -> list[msgspec.Raw]:
    """Return the envelopes of one's own frame, still encoded: the inverse of `join`."""
    return _decode_raw(frame)


def split(frame: bytes | memoryview) -> list[Envelope]:
    """Decode one frame; raises one of `MALFORMED`."""
    return _decode(frame)
