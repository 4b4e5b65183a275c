"""The first message in each direction of a link: who speaks, which protocol, which limits. Pure.

A frame of the plane itself begins with `RESERVED_BYTE` (no MessagePack array does), then one byte for its kind:
``H`` hello, ``A`` accepted, ``R`` refused, ``B`` goodbye. A MessagePack map follows; unknown keys are ignored.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from .base import PROTOCOL_VERSION, RESERVED_BYTE, Identity

HELLO, ACCEPTED, REFUSED, GOODBYE = b"\xc1H", b"\xc1A", b"\xc1R", b"\xc1B"

LIMIT_BYTES = 16 * 1024
"""No handshake is longer, and no reason."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
_UNREADABLE = (
    msgspec.MsgspecError,  # a ValueError in newer versions only
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)


class Nonsense(ValueError):
    """A frame that is no handshake."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the dialling side says, and the accepting side answers."""

    identity: Identity
    version: tuple[int, int] = PROTOCOL_VERSION
    expects: str = ""
    """Node that the dialling side wants to reach; empty for any."""


def is_own_frame(frame: bytes | memoryview) -> bool:
    """True if the frame belongs to the plane and not to the runtime."""
    return len(frame) > 1 and frame[0] == RESERVED_BYTE


def encode_hello(kind: bytes, hello: Hello) -> bytes:
    """Return a hello or its acceptance."""
    return kind + _encode({"v": hello.version, "e": hello.expects, "i": asdict(hello.identity)})


def encode_refusal(why: str) -> bytes:
    """Return a refusal with its reason."""
    return REFUSED + _encode({"why": why})


def encode_goodbye(why: str) -> bytes:
    """Return the announcement that this side has ended the link."""
    return GOODBYE + _encode({"why": why})


def decode_reason(frame: bytes | memoryview) -> str:
    """Return the text of a refusal or a goodbye."""
    if len(frame) > LIMIT_BYTES:
        return f"the reason is too long to be read: {len(frame)} bytes"
    try:
        return str(_decode(bytes(frame[2:])).get("why", "no reason was given"))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return "the reason cannot be read"


def decode_hello(frame: bytes | memoryview) -> Hello:
    """Return the hello in a frame of kind ``H`` or ``A``; raises `Nonsense`."""
    if len(frame) > LIMIT_BYTES:
        raise Nonsense(f"a handshake of {len(frame)} bytes; the limit is {LIMIT_BYTES}")
    try:
        fields = _decode(bytes(frame[2:]))
        known = {name: value for name, value in fields["i"].items() if name in Identity.__slots__}
        known["features"] = tuple(map(str, known.get("features", ())))
        identity = msgspec.convert(known, Identity)
        major, minor = fields["v"][:2]
        return Hello(identity, (int(major), int(minor)), str(fields.get("e", "")))
    except _UNREADABLE as error:
        raise Nonsense(f"a handshake that cannot be read: {type(error).__name__}: {error}") from None


def objection(own: Identity, hello: Hello) -> str:
    """Why ``own`` does not accept ``hello``; empty if it does.

    The text names both sides, because either of them may read it.
    """
    mine, theirs = own.name or own.node, hello.identity.name or hello.identity.node
    if hello.version[0] != PROTOCOL_VERSION[0]:
        spoken = [".".join(map(str, version)) for version in (PROTOCOL_VERSION, hello.version)]
        return f"{mine} speaks protocol version {spoken[0]}, {theirs} {spoken[1]}; upgrade the older side"
    if hello.identity.namespace != own.namespace:
        return f"{mine} is in namespace {own.namespace!r}, {theirs} in {hello.identity.namespace!r}"
    if hello.expects and hello.expects != own.node:
        return f"node {own.node} is at this address, {hello.expects} was expected and has gone"
    return ""
