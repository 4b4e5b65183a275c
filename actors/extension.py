"""MessagePack extension types: the forms of values that plain MessagePack would change or refuse.

====  ==========================================================  =======================================
code  carries                                                     payload (MessagePack unless said)
====  ==========================================================  =======================================
1     tuple                                                       array
2, 3  set, frozenset                                              array
4     int beyond 64 bits                                          two's complement, big-endian bytes
5     dataclass, Struct, pydantic model, enum, named tuple        [kind, "module:qualname", fields]
6     bytes, bytearray, memoryview, numpy array or scalar         [kind, frame number or data, dtype, shape]
7     actor reference                                             what the reference says of itself
8     datetime, date, time, timedelta, Decimal, UUID, complex     [kind, text]
9     dict with keys that plain MessagePack would change          array of [key, value]
====  ==========================================================  =======================================
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import sys
import uuid
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec

from .errors import DecodeError, EncodeError

TUPLE, SET, FROZENSET, BIGINT, OBJECT, BUFFER, REF, TEXT, PAIRS = range(1, 10)

_INT64 = range(-(2**63), 2**64)
_encode = msgspec.msgpack.Encoder().encode
Ext = msgspec.msgpack.Ext

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
    """The buffers that leave a message, in the order of their numbers."""

    __slots__ = ("frames",)

    def __init__(self) -> None:
        self.frames: list[Any] = []

    def add(self, buffer: Any) -> int:
        """Take ``buffer`` and return its number."""
        self.frames.append(buffer)
        return len(self.frames) - 1


def class_name(cls: type, path: str) -> str:
    """Return the name under which the peer can find ``cls``; raises `EncodeError` if it cannot."""
    if "<locals>" in cls.__qualname__:
        raise EncodeError(
            path, f"its class {cls.__qualname__} is defined inside a function; move it to a module"
        )
    return f"{cls.__module__}:{cls.__qualname__}"


def find_class(name: str) -> type:
    """Return the class of this name among the modules already imported; raises `DecodeError`."""
    module_name, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module_name)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise DecodeError(
            f"a value of class {name} arrived, but {module_name} is not imported here or lacks it"
        )
    return found


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
        self.buffers: Sequence[bytes | memoryview] = ()

    # -- to the wire

    def rewrite(self, value: Any, path: str, out: OutOfBand) -> Any:
        """Return a form of ``value`` that msgspec carries without changing it."""
        kind = type(value)
        if kind is str or kind is float or kind is bool or value is None:
            return value
        if kind is int:
            if value in _INT64:
                return value
            return Ext(BIGINT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
        if kind is list:
            return [self.rewrite(v, f"{path}[{i}]", out) for i, v in enumerate(value)]
        if kind is dict:
            return self._rewrite_dict(value, path, out)
        if kind is tuple or kind is set or kind is frozenset:
            code = TUPLE if kind is tuple else SET if kind is set else FROZENSET
            return Ext(code, _encode([self.rewrite(v, f"{path}[{i}]", out) for i, v in enumerate(value)]))
        if kind is bytes or kind is bytearray or kind is memoryview:
            return self._rewrite_bytes(value, kind.__name__, path, out)
        if kind in _TEXT_FORMS:
            name, text = _TEXT_FORMS[kind]
            return Ext(TEXT, _encode([name, text(value)]))
        if self._ref_class is not None and isinstance(value, self._ref_class):
            assert self._ref_to_wire is not None
            return Ext(REF, _encode(self._ref_to_wire(value)))
        return self._rewrite_object(value, kind, path, out)

    def _rewrite_dict(self, value: dict[Any, Any], path: str, out: OutOfBand) -> Any:
        if all(
            type(key) in (str, bool, float) or key is None or (type(key) is int and key in _INT64)
            for key in value
        ):
            return {key: self.rewrite(v, f"{path}[{key!r}]", out) for key, v in value.items()}
        pairs = [
            [self.rewrite(k, f"key {k!r} of {path}", out), self.rewrite(v, f"{path}[{k!r}]", out)]
            for k, v in value.items()
        ]
        return Ext(PAIRS, _encode(pairs))

    def _rewrite_bytes(self, value: Any, kind: str, path: str, out: OutOfBand) -> Any:
        size = value.nbytes if isinstance(value, memoryview) else len(value)
        if isinstance(value, memoryview) and not value.c_contiguous:
            raise EncodeError(path, "the memoryview is not contiguous; send bytes(view)")
        if size < self._threshold:
            return bytes(value) if kind == "bytes" else Ext(BUFFER, _encode([kind, bytes(value)]))
        # A buffer that could still change is copied: it may wait here, and the caller may go on with it.
        return Ext(BUFFER, _encode([kind, out.add(bytes(value))]))

    def _rewrite_object(self, value: Any, kind: type, path: str, out: OutOfBand) -> Any:
        if isinstance(value, enum.Enum):
            return Ext(OBJECT, _encode(["enum", class_name(kind, path), value.name]))
        if kind.__module__.partition(".")[0] == "numpy":
            return self._rewrite_numpy(value, path, out)
        if isinstance(value, msgspec.Struct):
            fields = {name: getattr(value, name) for name in value.__struct_fields__}
            return self._object("struct", kind, fields, path, out)
        if dataclasses.is_dataclass(value):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return self._object("dataclass", kind, fields, path, out)
        if hasattr(kind, "__pydantic_fields__"):
            fields = dict(value.__dict__) | (value.__pydantic_extra__ or {})
            return self._object("pydantic", kind, fields, path, out, sorted(value.__pydantic_fields_set__))
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return self._object("namedtuple", kind, dict(zip(kind._fields, value, strict=True)), path, out)
        raise EncodeError(
            path,
            f"a {kind.__module__}.{kind.__qualname__} does not travel; plain data, dataclasses, Structs, pydantic "
            "models, enums, numpy arrays and actor references do",
        )

    def _object(
        self, form: str, cls: type, fields: dict[str, Any], path: str, out: OutOfBand, *more: Any
    ) -> msgspec.msgpack.Ext:
        wire = {name: self.rewrite(v, f"{path}.{name}", out) for name, v in fields.items()}
        return Ext(OBJECT, _encode([form, class_name(cls, path), wire, *more]))

    def _rewrite_numpy(self, value: Any, path: str, out: OutOfBand) -> Any:
        numpy = sys.modules["numpy"]
        if not isinstance(value, numpy.ndarray | numpy.generic) or value.dtype.hasobject or value.dtype.names:
            raise EncodeError(
                path, f"a {type(value).__name__} of dtype {getattr(value, 'dtype', '?')} does not travel"
            )
        scalar = isinstance(value, numpy.generic)
        array = numpy.ascontiguousarray(value).reshape(value.shape)
        dtype, shape = array.dtype.str, list(array.shape)
        if array.nbytes < self._threshold:
            return Ext(BUFFER, _encode(["scalar" if scalar else "ndarray", array.tobytes(), dtype, shape]))
        return Ext(BUFFER, _encode(["ndarray", out.add(array.tobytes()), dtype, shape]))

    # -- from the wire

    def build(self, code: int, payload: memoryview) -> Any:
        """The hook that msgspec calls for each extension; raises `DecodeError`."""
        if code == BIGINT:
            return int.from_bytes(payload, "big", signed=True)
        content = self.decode(bytes(payload))
        try:
            return self._BUILD[code](self, content)
        except DecodeError:
            raise
        except KeyError:
            raise DecodeError(f"unknown extension type {code}; the peer is newer than this process") from None
        except Exception as error:
            raise DecodeError(f"malformed extension {code}: {type(error).__name__}: {error}") from None

    def _build_object(self, content: list[Any]) -> Any:
        form, name, fields, *more = content
        cls: Any = find_class(name)
        if form == "enum" and issubclass(cls, enum.Enum):
            return cls[fields]
        if form == "struct" and issubclass(cls, msgspec.Struct):
            return cls(**fields)
        if form == "dataclass" and dataclasses.is_dataclass(cls):
            return _build_dataclass(cls, fields)
        if form == "pydantic" and hasattr(cls, "model_construct"):
            return cls.model_construct(_fields_set=set(more[0]), **fields)
        if form == "namedtuple" and issubclass(cls, tuple) and hasattr(cls, "_fields"):
            return cls(**fields)
        raise DecodeError(f"{name} is not a {form} in this process")

    def _build_buffer(self, content: list[Any]) -> Any:
        kind, data, *array = content
        if isinstance(data, int):
            if not 0 <= data < len(self.buffers):
                raise DecodeError(f"frame {data} is missing from the message")
            data = self.buffers[data]
        if kind == "bytes":
            return data if isinstance(data, bytes) else bytes(data)
        if kind == "bytearray":
            return bytearray(data)
        if kind == "memoryview":
            return memoryview(data)
        import numpy

        result = numpy.frombuffer(data, dtype=array[0]).reshape(array[1])
        return result[()] if kind == "scalar" else result

    def _build_ref(self, content: list[Any]) -> Any:
        if self._ref_from_wire is None:
            raise DecodeError("an actor reference arrived where none can be used")
        return self._ref_from_wire(content)

    _BUILD: ClassVar[dict[int, Callable[[Extensions, Any], Any]]] = {
        TUPLE: lambda self, content: tuple(content),
        SET: lambda self, content: set(content),
        FROZENSET: lambda self, content: frozenset(content),
        OBJECT: _build_object,
        BUFFER: _build_buffer,
        REF: _build_ref,
        TEXT: lambda self, content: _FROM_TEXT[content[0]](content[1]),
        PAIRS: lambda self, content: {key: value for key, value in content},  # noqa: C416 (unhashable keys raise here)
    }


def _build_dataclass(cls: Any, fields: dict[str, Any]) -> Any:
    """Set the fields as copy does, without ``__init__``; a field that the sender did not know takes its default."""
    result = object.__new__(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    for name in fields:
        if name not in known:
            raise DecodeError(f"{cls.__qualname__} has no field {name!r} in this process")
    for name, spec in known.items():
        if name in fields:
            value = fields[name]
        elif spec.default is not dataclasses.MISSING:
            value = spec.default
        elif spec.default_factory is not dataclasses.MISSING:
            value = spec.default_factory()
        else:
            raise DecodeError(f"{cls.__qualname__} arrived without its field {name!r}")
        object.__setattr__(result, name, value)
    return result
