"""Objects with fields as plain data: taken apart by the sender, put together by the receiver.

A class travels by its name, and is only looked up among what the receiver has imported already; the look-up reads
dictionaries, so that no module's ``__getattr__`` runs. An object arrives in the state in which it was sent: no
``__init__`` and no validator runs again (but the ``__post_init__`` of a Struct, which msgspec gives no way around).

=============  ===========================  ==================================================
form           fields                       further
=============  ===========================  ==================================================
"enum"         name of the member
"flag"         number
"struct"       map of fields                map of attributes that are no fields, if any
"dataclass"    map of fields                the same
"namedtuple"   map of fields
"pydantic"     map of fields                names of the fields set, extra, private attributes
=============  ===========================  ==================================================
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from .errors import DecodeError, EncodeError
from .record import is_simple


class Parts(NamedTuple):
    """One object, taken apart; what is in it is not rewritten yet."""

    form: str
    fields: Any
    further: tuple[Any, ...] = ()


Path = str | tuple[Any, str, Any]
"""Where a value is: a name, or (path, "[]" or "." or "key", key); spelt out only when something is wrong."""


def spell(path: Path) -> str:
    """Return the text of a path.

    >>> spell((("arguments", "[]", 0), ".", "name")), spell(("result", "key", 5))
    ('arguments[0].name', 'key 5 of result')
    """
    if isinstance(path, str):
        return path
    inner, kind, key = path
    text = spell(inner)
    if kind == ".":
        return f"{text}.{key}"
    try:
        shown = repr(key)
    except Exception:  # of the key's own class, or an integer of thousands of digits
        shown = f"<{type(key).__name__}>"
    return f"key {shown} of {text}" if kind == "key" else f"{text}[{shown}]"


# -- names


@functools.cache
def class_name(cls: type) -> str:
    """Return the name under which a peer finds ``cls``; raises LookupError if it cannot."""
    if "<locals>" in cls.__qualname__:
        raise LookupError(f"its class {cls.__qualname__} is defined inside a function; move it to a module")
    name = f"{cls.__module__}:{cls.__qualname__}"
    if _look_up(name) is not cls:
        raise LookupError(f"its class cannot be found as {cls.__qualname__} in the module {cls.__module__}")
    return name


def find_class(name: str) -> type:
    """Return the class of this name among the modules already imported; raises `DecodeError`."""
    found = _look_up(name)
    if not isinstance(found, type):
        module = name.partition(":")[0]
        raise DecodeError(f"a value of class {name} arrived, but {module} is not imported here or lacks it")
    return found


def _look_up(name: str) -> Any:
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found


# -- apart


def take_apart(value: Any, path: Path) -> Parts | None:
    """Return the parts of ``value``, None if it is no object with fields; raises `EncodeError`."""
    kind = type(value)
    if isinstance(value, enum.Flag):
        return Parts("flag", value._value_)
    if isinstance(value, enum.Enum):
        return Parts("enum", value._name_)
    if isinstance(value, msgspec.Struct):
        names = kind.__struct_fields__
        fields = {name: v for name in names if (v := getattr(value, name)) is not msgspec.UNSET}
        return Parts("struct", fields, _beside(value, fields))
    if dataclasses.is_dataclass(kind):
        return _dataclass_parts(value, kind, path)
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return Parts("namedtuple", dict(zip(kind._fields, value, strict=True)))
    if hasattr(kind, "__pydantic_fields_set__"):
        state = _base_model().__getstate__(value)
        known = kind.model_fields  # what else is there are cached properties
        fields = {name: v for name, v in state["__dict__"].items() if name in known}
        further = (sorted(state["__pydantic_fields_set__"]), state["__pydantic_extra__"])
        return Parts("pydantic", fields, (*further, state["__pydantic_private__"]))
    return None


def _dataclass_parts(value: Any, kind: type, path: Path) -> Parts:
    for base in kind.__mro__:
        if base.__module__ == "builtins" and base is not object:
            raise EncodeError(
                spell(path), f"{kind.__qualname__} is a dataclass and a {base.__name__}; fields alone travel"
            )
    names = [field.name for field in dataclasses.fields(value)]
    for name in names:
        if not hasattr(value, name):
            raise EncodeError(spell((path, ".", name)), f"this field of {kind.__qualname__} has no value")
    fields = {name: getattr(value, name) for name in names}
    return Parts("dataclass", fields, _beside(value, fields))


def _beside(value: Any, fields: dict[str, Any]) -> tuple[Any, ...]:
    """The attributes that are no fields, and no cached properties, which are computed again."""
    kind = type(value)
    others = {
        name: attribute
        for name, attribute in getattr(value, "__dict__", {}).items()
        if name not in fields
        and not isinstance(inspect.getattr_static(kind, name, None), functools.cached_property)
    }
    return (others,) if others else ()


# -- together


def put_together(content: list[Any]) -> Any:
    """Build what `take_apart` took apart; raises `DecodeError`, and anything where the parts do not fit."""
    known = _KNOWN.get(content[1])
    if known is not None and known.form == content[0] and known.is_there():
        if len(content) == 3 and known.fill is not None:
            fields = content[2]
            if type(fields) is dict and tuple(fields) == known.names:
                return known.fill(fields)
        return known.build(known.cls, content[2], content[3:])
    form, name, fields, *further = content
    cls = find_class(name)
    fits, build = _FORMS[form]
    if not fits(cls):
        raise DecodeError(f"{name} is not a {form} in this process")
    if name == f"{cls.__module__}:{cls.__qualname__}":  # a peer could make any number of other names
        _KNOWN[name] = Known(form, name, cls, build)
    return build(cls, fields, further)


class Known:
    """A class that was found under its name, and fits the form."""

    __slots__ = ("_first", "_module", "_rest", "build", "cls", "fill", "form", "names")

    def __init__(self, form: str, name: str, cls: Any, build: Build) -> None:
        self.form, self.cls, self.build = form, cls, build
        self._module, _, path = name.partition(":")
        self._first, *self._rest = path.split(".")
        self.names: tuple[str, ...] = ()
        self.fill: Callable[[dict[str, Any]], Any] | None = None
        """The short way to build one if exactly the fields ``names`` came: the sender has the same version."""
        if form == "dataclass":
            self.names = tuple(field.name for field in dataclasses.fields(cls))
            self.fill = _filler(cls, self.names)

    def is_there(self) -> bool:
        """True if the name still means this class: its module may have been loaded again, or taken out."""
        found = getattr(sys.modules.get(self._module), "__dict__", _NOTHING).get(self._first)
        for part in self._rest:
            found = getattr(found, "__dict__", _NOTHING).get(part)
        return found is self.cls


def _filler(cls: Any, names: tuple[str, ...]) -> Callable[[dict[str, Any]], Any]:
    """Return what does the same as `_build_dataclass` for all fields."""
    new = object.__new__

    def fill_at_once(fields: dict[str, Any]) -> Any:
        result = new(cls)
        result.__dict__.update(fields)
        return result

    # The same thing for a class that does not define it, but the builtin function is faster.
    set_one: Callable[[Any, str, Any], None] = (
        setattr if cls.__setattr__ is object.__setattr__ else object.__setattr__
    )

    def fill_one_by_one(fields: dict[str, Any]) -> Any:
        result = new(cls)
        for name, value in fields.items():
            set_one(result, name, value)
        return result

    return fill_at_once if is_simple(cls, names) else fill_one_by_one


Build = Callable[[Any, Any, list[Any]], Any]
_NOTHING: dict[str, Any] = {}
_KNOWN: dict[str, Known] = {}


def _build_enum(cls: Any, name: str, further: list[Any]) -> Any:
    return cls[name]


def _build_flag(cls: Any, number: int, further: list[Any]) -> Any:
    return cls(number)


def _build_struct(cls: Any, fields: dict[str, Any], further: list[Any]) -> Any:
    result = cls(**fields)
    if further:
        _set(result, further)
    return result


def _build_named_tuple(cls: Any, fields: dict[str, Any], further: list[Any]) -> Any:
    if tuple(fields) == cls._fields:  # of a sender of the same version
        return tuple.__new__(cls, fields.values())
    _know_all(cls, fields, cls._fields)
    defaults = getattr(cls, "_field_defaults", {})
    return tuple.__new__(cls, [fields[n] if n in fields else defaults[n] for n in cls._fields])


def _build_dataclass(cls: Any, fields: dict[str, Any], further: list[Any]) -> Any:
    """Set the fields as copy does; a field that the sender did not know takes its default."""
    result = object.__new__(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    _know_all(cls, fields, known)
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
    if further:
        _set(result, further)
    return result


def _build_pydantic(cls: Any, fields: dict[str, Any], further: list[Any]) -> Any:
    known = cls.model_fields
    _know_all(cls, fields, known)
    for name, spec in known.items():
        if name not in fields:
            if spec.is_required():
                raise DecodeError(f"{cls.__qualname__} arrived without its field {name!r}")
            fields[name] = spec.get_default(call_default_factory=True)
    names, extra, private = further
    result = cls.__new__(cls)
    _base_model().__setstate__(
        result,
        {
            "__dict__": fields,
            "__pydantic_fields_set__": set(names),
            "__pydantic_extra__": extra,
            "__pydantic_private__": private,
        },
    )
    return result


def _know_all(cls: type, fields: dict[str, Any], known: Any) -> None:
    for name in fields:
        if name not in known:
            raise DecodeError(f"{cls.__qualname__} has no field {name!r} in this process")


def _set(result: Any, further: list[Any]) -> None:
    vars(result).update(further[0])


def _base_model() -> Any:
    return sys.modules["pydantic"].BaseModel


_FORMS: dict[str, tuple[Callable[[Any], bool], Callable[[Any, Any, list[Any]], Any]]] = {
    "enum": (lambda cls: issubclass(cls, enum.Enum), _build_enum),
    "flag": (lambda cls: issubclass(cls, enum.Flag), _build_flag),
    "struct": (lambda cls: issubclass(cls, msgspec.Struct), _build_struct),
    "dataclass": (dataclasses.is_dataclass, _build_dataclass),
    "pydantic": (lambda cls: "pydantic" in sys.modules and issubclass(cls, _base_model()), _build_pydantic),
    "namedtuple": (lambda cls: issubclass(cls, tuple) and hasattr(cls, "_fields"), _build_named_tuple),
}
