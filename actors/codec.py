"""Values to bytes and back, so that what arrives equals what was sent.

MessagePack alone would turn a tuple into a list, a dataclass into a dict, an enum into its value, without a
word. So only plain data (`is_plain`) is encoded as it is; anything else is rewritten with MessagePack extension types
that `Codec.decode` turns back, and what has no such form is an `EncodeError` that names its path. To look at every
value in Python costs more than to encode it. ormsgpack looks while it encodes: it raises for whatever is not plain, but
takes a bytearray or memoryview for bytes, so what may hold bytes is looked at all the same.

Classes travel by name and are only ever looked up among the modules that the receiver has already imported: decoding
never imports what a peer names, and never runs a pickle.

Buffers of `OUT_OF_BAND_BYTES` or more leave the message and travel behind it as frames of their own. They are not
copied here: what could still change is copied by `Link.send`, or by whoever lets the message wait (`stable`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from ormsgpack import (
    OPT_PASSTHROUGH_DATACLASS,
    OPT_PASSTHROUGH_DATETIME,
    OPT_PASSTHROUGH_ENUM,
    OPT_PASSTHROUGH_SUBCLASS,
    OPT_PASSTHROUGH_TUPLE,
    OPT_PASSTHROUGH_UUID,
    packb,
)

from .envelope import MALFORMED, Answer
from .errors import DecodeError, EncodeError
from .extension import Extensions, OutOfBand

OUT_OF_BAND_BYTES = 64 * 1024
LONG = 32
"""Lists longer than this (numbers, mostly) are looked at without a loop in Python first."""

_ONLY_PLAIN = (
    OPT_PASSTHROUGH_DATACLASS
    | OPT_PASSTHROUGH_DATETIME
    | OPT_PASSTHROUGH_ENUM
    | OPT_PASSTHROUGH_SUBCLASS
    | OPT_PASSTHROUGH_TUPLE
    | OPT_PASSTHROUGH_UUID
)
_BIN8, _BIN16, _BIN32 = 0xC4, 0xC5, 0xC6
"""Each of them begins bytes. Where none occurs, there are none; else it may as well be a part of a number or a text."""

_SCALARS = frozenset({str, int, float, bool, type(None)})
_KEYS = _SCALARS | {bytes}
_BUFFERS = frozenset({bytes, bytearray, memoryview})


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
            if type(inner) not in _SCALARS and not is_plain(inner):
                return False
        return True
    if kind is list:
        if len(value) > LONG and _SCALARS.issuperset(set(map(type, value))):
            return True
        for inner in value:
            if type(inner) not in _SCALARS and not is_plain(inner):
                return False
        return True
    return kind in _SCALARS or (kind is bytes and len(value) < OUT_OF_BAND_BYTES)


class Encoded:
    """Arguments that are encoded already; as the only argument, `Codec.encode` passes them on as they are."""

    __slots__ = ("body", "buffers")

    def __init__(self, body: bytes, buffers: Sequence[bytes]) -> None:
        self.body, self.buffers = bytes(body), list(buffers)


class Codec:
    """Encodes and decodes for one node. Not thread-safe: used on the event loop only.

    ``ref_class`` and its two functions let references travel inside values; this module knows no actor.
    """

    __slots__ = ("_answers", "_decode", "_extensions", "decode_body", "pack")

    def __init__(
        self,
        *,
        ref_class: type | None = None,
        ref_to_wire: Callable[[Any], list[Any]] | None = None,
        ref_from_wire: Callable[[list[Any]], Any] | None = None,
        plain_objects: bool = False,
    ) -> None:
        self._extensions = Extensions(ref_class, ref_to_wire, ref_from_wire, OUT_OF_BAND_BYTES)
        self._extensions.plain_objects = plain_objects
        self.pack: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
        """Encodes what is plain already: envelopes, whose bodies are `msgspec.Raw`, and control messages."""
        self._decode = msgspec.msgpack.Decoder(ext_hook=self._extensions.build).decode
        self._extensions.decode = self._decode
        self._answers = msgspec.msgpack.Decoder(list[Answer], ext_hook=self._extensions.build).decode
        self.decode_body: Callable[[Any], Any] = self._decode
        """`decode` for a body without buffers, for the hot path: raises one of `MALFORMED` as well as `DecodeError`."""

    def encode(self, value: Any, what: str) -> tuple[bytes, list[Any] | None]:
        """Return a value as MessagePack, and the buffers that travel beside it, if any.

        ``what`` names the value in errors. Raises `EncodeError`.
        """
        # A large first argument of bytes is not to be copied only to find out that it leaves the message.
        if type(value) not in _BUFFERS and not (type(value) is list and value and type(value[0]) in _BUFFERS):
            try:
                body = packb(value, None, _ONLY_PLAIN)
            except TypeError:
                return self._encode(value, what)
            if _BIN8 not in body and _BIN16 not in body and _BIN32 not in body:
                return body, None
        return self._encode(value, what)

    def _encode(self, value: Any, what: str) -> tuple[bytes, list[Any] | None]:
        """Encode what may be plain, or not."""
        try:
            if is_plain(value):
                return self.pack(value), None
        except (OverflowError, UnicodeEncodeError):  # only the walk finds the integer, or the text
            pass
        except RecursionError:
            raise EncodeError(what, "it is nested too deeply, or contains itself") from None
        return self._rewrite(value, what)

    def _rewrite(self, value: Any, what: str) -> tuple[bytes, list[Any] | None]:
        """The slow way: walk the whole value."""
        if type(value) is list and len(value) == 1 and type(value[0]) is Encoded:
            return value[0].body, value[0].buffers or None
        buffers = OutOfBand()
        try:
            return self.pack(self._extensions.rewrite(value, what, buffers)), buffers.frames or None
        except EncodeError:
            raise
        except RecursionError:
            raise EncodeError(what, "it is nested too deeply, or contains itself") from None
        except Exception as error:  # of the value's own attributes, keys or texts
            raise EncodeError(what, f"{type(error).__name__}: {error}") from error

    def decode(self, body: msgspec.Raw | bytes, buffers: Sequence[bytes | memoryview] = ()) -> Any:
        """Decode one body; ``buffers`` are the frames that came with it. Raises `DecodeError`."""
        self._extensions.buffers = list(buffers)
        try:
            return self._decode(body)
        except MALFORMED as error:
            raise DecodeError(f"malformed value: {error}") from None
        finally:
            self._extensions.buffers = []

    def answers(self, frames: Sequence[bytes | memoryview]) -> list[Answer]:
        """Decode a message of the answering side, bodies and all; raises one of `MALFORMED`, or `DecodeError`.

        Then some bodies may be good all the same: take them one by one.
        """
        if len(frames) == 1:
            return self._answers(frames[0])
        self._extensions.buffers = list(frames[1:])
        try:
            return self._answers(frames[0])
        finally:
            self._extensions.buffers = []


def decode_plain(body: msgspec.Raw | bytes) -> Any:
    """Decode a body that holds plain data only (credits, errors). Raises `DecodeError`."""
    try:
        return _plain_decode(body)
    except MALFORMED as error:
        raise DecodeError(f"malformed value: {error}") from None


_plain_decode = msgspec.msgpack.Decoder().decode
