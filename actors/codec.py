"""Values to bytes and back, so that what arrives equals what was sent.

MessagePack alone would turn a tuple into a list, a dataclass into a dict, an enum into its value, without a
word. So only plain data (`plain`) is encoded as it is; anything else is rewritten with MessagePack extension types
that `Codec.decode` turns back, and what has no such form is an `EncodeError` that names its path.

Classes travel by name and are only ever looked up among the modules that the receiver has already imported: decoding
never imports what a peer names, and never runs a pickle.

Buffers of `OUT_OF_BAND_BYTES` or more leave the message and travel behind it as frames of their own. They are not
copied here: what could still change is copied by `Link.send`, or by whoever lets the message wait (`stable`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from ormsgpack import packb

from .envelope import MALFORMED, Answer
from .errors import DecodeError, EncodeError
from .extension import Extensions, OutOfBand
from .plain import BIN8, BIN16, BIN32, ONLY_PLAIN, OUT_OF_BAND_BYTES, PLAIN_TYPES, is_plain


class Encoded:
    """Arguments that are encoded already; as the only argument, `Codec.encode` passes them on as they are."""

    __slots__ = ("body", "buffers")

    def __init__(self, body: bytes, buffers: Sequence[bytes]) -> None:
        self.body, self.buffers = bytes(body), list(buffers)


class Codec:
    """Encodes and decodes for one node. Not thread-safe: used on the event loop only.

    ``ref_class`` and its two functions let references travel inside values; this module knows no actor.
    """

    __slots__ = ("_answers", "_decode", "_extensions", "_never_packed", "decode_body", "pack")

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
        self._never_packed = self._extensions.never_packed
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
        never = self._never_packed
        kind = type(value)
        if kind in never or (kind is list and value and (kind := type(value[0])) in never):
            return self._encode(value, what) if kind is bytes else self._rewrite(value, what)
        try:
            body = packb(value, None, ONLY_PLAIN)
        except TypeError:
            if type(value) is list and not PLAIN_TYPES.issuperset(map(type, value)):
                return self._rewrite(value, what)
            return self._encode(value, what)
        if BIN8 not in body and BIN16 not in body and BIN32 not in body:
            return body, None
        return self._encode(value, what, body)

    def _encode(self, value: Any, what: str, body: bytes | None = None) -> tuple[bytes, list[Any] | None]:
        """Encode what may be plain, or not; ``body`` is what it is if it is plain."""
        try:
            if is_plain(value):
                return body or self.pack(value), None
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
        outer, self._extensions.buffers = self._extensions.buffers, list(buffers)
        try:
            return self._decode(body)
        except MALFORMED as error:
            raise DecodeError(f"malformed value: {error}") from None
        finally:  # the ``__post_init__`` of a Struct may send something that is decoded at once
            self._extensions.buffers = outer

    def answers(self, frames: Sequence[bytes | memoryview]) -> list[Answer]:
        """Decode a message of the answering side, bodies and all; raises one of `MALFORMED`, or `DecodeError`.

        Then some bodies may be good all the same: take them one by one.
        """
        if len(frames) == 1:
            return self._answers(frames[0])
        outer, self._extensions.buffers = self._extensions.buffers, list(frames[1:])
        try:
            return self._answers(frames[0])
        finally:
            self._extensions.buffers = outer


def decode_plain(body: msgspec.Raw | bytes) -> Any:
    """Decode a body that holds plain data only (credits, errors). Raises `DecodeError`."""
    try:
        return _plain_decode(body)
    except MALFORMED as error:
        raise DecodeError(f"malformed value: {error}") from None


_plain_decode = msgspec.msgpack.Decoder().decode
