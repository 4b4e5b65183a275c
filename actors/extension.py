"""MessagePack extension types: the forms of values that plain MessagePack would change or refuse.

====  ==========================================================  =======================================
code  carries                                                     payload (MessagePack unless said)
====  ==========================================================  =======================================
1     tuple                                                       array
2, 3  set, frozenset                                              array
4     int beyond 64 bits                                          two's complement, big-endian bytes
5     dataclass, Struct, pydantic model, enum, named tuple        [form, "module:qualname", fields, ...]
6     bytes, bytearray, memoryview, numpy array or scalar         [kind, frame number or data, dtype, shape]
7     actor reference                                             what the reference says of itself
8     datetime, date, time, timedelta, Decimal, UUID, complex     [kind, text], and [..., fold, zone]
9     dict with keys that plain MessagePack would change          array of [key, value]
====  ==========================================================  =======================================
"""

from __future__ import annotations

import datetime
import decimal
import math
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from callboard.transports.fresh import bytes_of

from .errors import DecodeError, EncodeError
from .objects import Path, class_name, put_together, spell, take_apart
from .plain import SCALARS, pack_plain
from .record import Record, record_of

TUPLE, SET, FROZENSET, BIGINT, OBJECT, BUFFER, REF, TEXT, PAIRS = range(1, 10)

LONGEST_ERROR = 500
MOST_OF_ONE_HASH = 256
LONGEST_DTYPE, MOST_DIMENSIONS = 64, 64
"""Of numpy: characters of what describes an array, and its dimensions."""

DEEPEST_TRY = 8
"""Containers around a value that is packed because it may be plain: each of them was tried, and took it in, in vain."""

_CODES: dict[type, int] = {list: 0, tuple: TUPLE, set: SET, frozenset: FROZENSET}
_TEXT = frozenset({str})
_NO_BYTES = SCALARS | {list, dict}
_INT64 = range(-(2**63), 2**64)
_encode = msgspec.msgpack.Encoder().encode
Ext = msgspec.msgpack.Ext
Raw = msgspec.Raw
_Unset = type(msgspec.UNSET)

_TEXT_FORMS: dict[type, tuple[str, Callable[[Any], str]]] = {
    datetime.datetime: ("datetime", datetime.datetime.isoformat),
    datetime.date: ("date", datetime.date.isoformat),
    datetime.time: ("time", datetime.time.isoformat),
    datetime.timedelta: ("timedelta", lambda v: f"{v.days} {v.seconds} {v.microseconds}"),
    decimal.Decimal: ("decimal", str),
    uuid.UUID: ("uuid", str),
    complex: ("complex", repr),
}
_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": lambda text: datetime.timedelta(*map(int, text.split())),
    "decimal": decimal.Decimal,
    "uuid": uuid.UUID,
    "complex": complex,
}


class OutOfBand:
    """The buffers that leave a message, in the order of their numbers, and where in it the walk is."""

    __slots__ = ("depth", "frames")

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self.depth = 0
        """Containers around the place."""

    def add(self, buffer: Any) -> int:
        """Take ``buffer`` and return its number."""
        self.frames.append(buffer)
        return len(self.frames) - 1


class Extensions:
    """Rewrites values for the wire and builds them again."""

    def __init__(
        self,
        ref_class: type | None,
        ref_to_wire: Callable[[Any], list[Any]] | None,
        ref_from_wire: Callable[[list[Any]], Any] | None,
        out_of_band_bytes: int,
    ) -> None:
        self._ref_class, self._ref_to_wire, self._ref_from_wire = ref_class, ref_to_wire, ref_from_wire
        self._threshold = out_of_band_bytes
        self.decode: Callable[[Any], Any] = msgspec.msgpack.decode
        self.buffers: list[bytes | memoryview | None] = []
        self._records: dict[type, Record] = {}
        self.never_packed: set[type] = {bytes, bytearray, memoryview, tuple, set, frozenset, *_TEXT_FORMS}
        """Types of which is known that to pack them as plain data fails, or copies them in vain."""
        self.plain_objects = False
        """Leave objects as the fields that came, for who has none of the classes: the command line."""

    # -- to the wire

    def rewrite(self, value: Any, path: Path, out: OutOfBand) -> Any:
        """Return a form of ``value`` that msgspec carries without changing it."""
        kind = type(value)
        if kind is str:
            return value if value.isascii() else self._check_text(value, path)
        if (record := self._records.get(kind)) is not None:
            return self._rewrite_record(value, record, path, out)
        if kind is float or kind is bool or value is None:
            return value
        if kind is int:
            if value in _INT64:
                return value
            return Ext(BIGINT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
        if (code := _CODES.get(kind)) is not None:
            if not value and not code:
                return value
            if code or out.depth:  # else the codec has tried
                body = self._pack(list(value) if code else value, set(map(type, value)), out)
                if body is not None:
                    return Ext(code, body) if code else Raw(body)
            out.depth += 1
            if len(value) == 1 and not code:  # as the arguments of most messages, without a loop
                items = [self.rewrite(value[0], (path, "[]", 0), out)]
            else:
                items = [self.rewrite(v, (path, "[]", i), out) for i, v in enumerate(value)]
            out.depth -= 1
            return Ext(code, _encode(items)) if code else items
        if kind is dict:
            return self._rewrite_dict(value, path, out)
        if kind is bytes or kind is bytearray or kind is memoryview:
            return self._rewrite_bytes(value, kind.__name__, path, out)
        if kind in _TEXT_FORMS:
            name, text = _TEXT_FORMS[kind]
            zone = _zone(value, path) if kind is datetime.datetime or kind is datetime.time else None
            if zone is not None:
                value = value.replace(tzinfo=None)
            return Ext(TEXT, _encode([name, text(value), *(zone or ())]))
        if self._ref_class is not None and isinstance(value, self._ref_class):
            assert self._ref_to_wire is not None
            return Ext(REF, _encode(self._ref_to_wire(value)))
        return self._rewrite_object(value, kind, path, out)

    def _pack(self, value: Any, kinds: set[type], out: OutOfBand) -> bytes | None:
        """Return ``value``, in which are values of these ``kinds``, as MessagePack if it is plain, else None."""
        if kinds <= SCALARS:
            return pack_plain(value, False)
        if kinds <= _NO_BYTES and out.depth <= DEEPEST_TRY:
            return pack_plain(value)
        return None

    def _check_text(self, value: str, path: Path) -> str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise EncodeError(spell(path), f"it is a str that is not valid Unicode: {error.reason}") from None
        return value

    def _rewrite_dict(self, value: dict[Any, Any], path: Path, out: OutOfBand) -> Any:
        if out.depth and (kinds := set(map(type, value.values()))) <= _NO_BYTES:
            body = self._pack(value, kinds, out)
            if body is not None:
                return Raw(body)
        out.depth += 1
        if set(map(type, value)) <= _TEXT:
            result = {
                k if k.isascii() else self._check_text(k, (path, "key", k)): self.rewrite(
                    v, (path, "[]", k), out
                )
                for k, v in value.items()
            }
            out.depth -= 1
            return result
        pairs = [
            [self.rewrite(k, (path, "key", k), out), self.rewrite(v, (path, "[]", k), out)]
            for k, v in value.items()
        ]
        out.depth -= 1
        plain = all(
            type(key) in (str, bool, float) or key is None or (type(key) is int and key in _INT64)
            for key in value
        )
        return dict(pairs) if plain else Ext(PAIRS, _encode(pairs))

    def _rewrite_bytes(self, value: Any, kind: str, path: Path, out: OutOfBand) -> Any:
        size = value.nbytes if isinstance(value, memoryview) else len(value)
        if isinstance(value, memoryview) and (value.format != "B" or value.ndim != 1 or not value.contiguous):
            raise EncodeError(spell(path), "the memoryview is not one of contiguous bytes; send bytes(view)")
        if size < self._threshold:
            return bytes(value) if kind == "bytes" else Ext(BUFFER, _encode([kind, bytes(value)]))
        # No copy here: `Link.send` and whoever lets a message wait copy what could still change.
        frame = value if kind == "bytes" else memoryview(value).toreadonly()
        return Ext(BUFFER, _encode([kind, out.add(frame)]))

    def _rewrite_object(self, value: Any, kind: type, path: Path, out: OutOfBand) -> Any:
        if kind.__module__.partition(".")[0] == "numpy":
            return self._rewrite_numpy(value, path, out)
        try:
            parts = take_apart(value, path)
        except (EncodeError, RecursionError):
            raise
        except Exception as error:  # of the code of its class
            raise EncodeError(spell(path), f"{type(error).__name__}: {error}") from error
        if parts is None:
            raise EncodeError(
                spell(path),
                f"a {kind.__module__}.{kind.__qualname__} does not travel; plain data, dataclasses, Structs, pydantic "
                "models, enums, numpy arrays and actor references do",
            )
        try:
            name = class_name(kind)
        except LookupError as error:
            raise EncodeError(spell(path), str(error.args[0])) from None
        if kind not in self._records and (record := record_of(value, parts.form, name)) is not None:
            self._records[kind] = record
            self.never_packed.add(kind)
        wire = [self._rewrite_part(part, path, out) for part in (parts.fields, *parts.further)]
        return Ext(OBJECT, _encode([parts.form, name, *wire]))

    def _rewrite_record(self, value: Any, record: Record, path: Path, out: OutOfBand) -> Any:
        """Rewrite an object of a known class; what is unusual about it `_rewrite_object` does, or refuses."""
        form, name, names = record.form, record.name, record.names
        if form == "enum":
            body = pack_plain([form, name, value._name_], False)
            return self._rewrite_object(value, type(value), path, out) if body is None else Ext(OBJECT, body)
        try:
            fields: dict[str, Any] | None = value.__dict__ if record.simple else None
            if fields is None or tuple(fields) != names:
                fields = dict(zip(names, record.values(value)))  # noqa: B905 they are as many, and asking costs
                if record.has_dict and not value.__dict__.keys() <= fields.keys():
                    return self._rewrite_object(value, type(value), path, out)
        except Exception:  # of the code of its class, which runs again to be told
            return self._rewrite_object(value, type(value), path, out)
        kinds = set(map(type, fields.values()))
        body = None
        if kinds <= _NO_BYTES and out.depth <= DEEPEST_TRY:
            body = pack_plain([form, name, fields], not kinds <= SCALARS)
        if body is None:
            if _Unset in kinds:
                return self._rewrite_object(value, type(value), path, out)
            body = _encode([form, name, self._rewrite_part(dict(fields), path, out)])
        return Ext(OBJECT, body)

    def _rewrite_part(self, part: Any, path: Path, out: OutOfBand) -> Any:
        if type(part) is not dict:
            return self.rewrite(part, path, out)
        out.depth += 1
        result = {name: self.rewrite(v, (path, ".", name), out) for name, v in part.items()}
        out.depth -= 1
        return result

    def _rewrite_numpy(self, value: Any, path: Path, out: OutOfBand) -> Any:
        numpy = sys.modules["numpy"]
        kind, scalar = type(value), isinstance(value, numpy.generic)
        array = numpy.asarray(value) if scalar or kind is numpy.ndarray else None
        if array is None or not _is_flat(numpy, array.dtype):
            raise EncodeError(
                spell(path),
                f"a {kind.__module__}.{kind.__qualname__} of dtype {getattr(value, 'dtype', '?')} does not travel; "
                "a numpy.ndarray of numbers, times, strings or bytes does",
            )
        data: Any = out.add(_raw(numpy, array)) if array.nbytes >= self._threshold else array.tobytes()
        form = "scalar" if scalar else "ndarray"
        return Ext(BUFFER, _encode([form, data, array.dtype.str, list(array.shape)]))

    # -- from the wire

    def build(self, code: int, payload: memoryview) -> Any:
        """The hook that msgspec calls for each extension; raises `DecodeError`."""
        if code == BIGINT:
            return int.from_bytes(payload, "big", signed=True)
        make = self._BUILD.get(code)
        if make is None and code != OBJECT:
            raise DecodeError(f"unknown extension type {code}; the peer is newer than this process")
        content = self.decode(payload)  # in place: copies of copies would multiply by the depth of nesting
        try:
            if make is None:
                return content[2] if self.plain_objects else put_together(content)
            return make(self, content)
        except RecursionError:
            raise
        except DecodeError as error:
            raise DecodeError(brief(str(error))) from None
        except Exception as error:
            raise DecodeError(brief(f"malformed extension {code}: {type(error).__name__}: {error}")) from None

    def _build_buffer(self, content: list[Any]) -> Any:
        kind, data, *array = content
        if isinstance(data, int):
            data = self._take_frame(data)
        if kind == "bytes":
            return data if isinstance(data, bytes) else bytes_of(data)
        if kind == "bytearray":
            return bytearray(data)
        if kind == "memoryview":
            return memoryview(data)
        result = _array(data, *array)
        return result[()] if kind == "scalar" else result

    def _take_frame(self, number: int) -> Any:
        """Return a frame of the message, once: each further place that names it would be a further copy of it."""
        if not 0 <= number < len(self.buffers):
            raise DecodeError(f"frame {number} is missing from the message")
        frame, self.buffers[number] = self.buffers[number], None
        if frame is None:
            raise DecodeError(f"frame {number} of the message is in two places")
        return frame

    def _build_ref(self, content: list[Any]) -> Any:
        if self._ref_from_wire is None:
            raise DecodeError("an actor reference arrived where none can be used")
        return self._ref_from_wire(content)

    _BUILD: ClassVar[dict[int, Callable[[Extensions, Any], Any]]] = {
        TUPLE: lambda self, content: tuple(content),
        SET: lambda self, content: set(must_be_spread(content)),
        FROZENSET: lambda self, content: frozenset(must_be_spread(content)),
        BUFFER: _build_buffer,
        REF: _build_ref,
        TEXT: lambda self, content: _from_text(*content),
        PAIRS: lambda self, content: _table(content),
    }


def brief(text: str) -> str:
    """Return what is told of an error: the names and shapes in it are as long as a peer makes them."""
    return text if len(text) <= LONGEST_ERROR else f"{text[:LONGEST_ERROR]}... ({len(text):,} characters)"


def must_be_spread(keys: list[Any]) -> list[Any]:
    """Return ``keys``; raises `DecodeError` if so many have one hash that a set of them would take for ever to build.

    Texts and bytes have a hash that a peer cannot know; those of numbers, and of tuples of them, it can choose.
    """
    if len(keys) > MOST_OF_ONE_HASH:
        ((_, most),) = Counter(map(hash, keys)).most_common(1)
        if most > MOST_OF_ONE_HASH:
            raise DecodeError(
                f"{most:,} of {len(keys):,} keys have one hash; the limit is {MOST_OF_ONE_HASH}"
            )
    return keys


def _table(content: list[Any]) -> dict[Any, Any]:
    must_be_spread([key for key, _ in content])
    return dict(content)


def _zone(value: Any, path: Path) -> tuple[Any, ...] | None:
    """What the ISO text of a datetime or time does not tell: fold and zone; None if it tells everything."""
    zone = value.tzinfo
    if zone is None:
        return (value.fold, None) if value.fold else None
    if type(zone) is datetime.timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        if not name and not value.fold:
            return None
        return value.fold, [offset // datetime.timedelta(microseconds=1), *name]
    key = getattr(zone, "key", None)
    if type(zone).__module__.partition(".")[0] == "zoneinfo" and key is not None:
        return value.fold, key
    raise EncodeError(
        spell(path),
        f"its time zone {zone!r} does not travel; datetime.timezone and zoneinfo.ZoneInfo by name do",
    )


def _from_text(kind: str, text: str, fold: int = 0, zone: Any = None) -> Any:
    value = _FROM_TEXT[kind](text)
    if type(zone) is list:
        zone = datetime.timezone(datetime.timedelta(microseconds=zone[0]), *zone[1:])
    elif zone is not None:
        import zoneinfo

        zone = zoneinfo.ZoneInfo(zone)
    return value if not fold and zone is None else value.replace(fold=fold, tzinfo=zone)


def _raw(numpy: Any, array: Any) -> Any:
    """The bytes of an array in C order: a read-only view if they lie like that in memory, else a copy."""
    if not array.flags.c_contiguous:
        return array.tobytes()
    return memoryview(array.reshape(-1).view(numpy.uint8)).toreadonly()


def _is_flat(numpy: Any, dtype: Any) -> bool:
    """True if the bytes of an array are all of it, and the text of its dtype says how to read them."""
    return dtype.kind in "biufcmMSUV" and not dtype.hasobject and bool(numpy.dtype(dtype.str) == dtype)


def _array(data: Any, dtype_text: str, shape: list[int]) -> Any:
    """Everything is checked before numpy sees it: it reads a description of any length, and of any form."""
    import numpy

    if type(dtype_text) is not str or len(dtype_text) > LONGEST_DTYPE:
        raise DecodeError("an array whose dtype is no short text")
    if len(shape) > MOST_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise DecodeError("an array whose shape is no short list of lengths")
    dtype = numpy.dtype(dtype_text)
    if not _is_flat(numpy, dtype):
        raise DecodeError(f"an array of dtype {dtype_text} does not travel")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise DecodeError(f"{len(data)} bytes are not an array of shape {shape} and dtype {dtype_text}")
    if not data:
        return numpy.ndarray(shape, dtype, data)
    # Not ndarray(shape, dtype, data): that takes what is behind a memoryview, and its flag could be set to writeable.
    return numpy.frombuffer(data, dtype).reshape(shape)
