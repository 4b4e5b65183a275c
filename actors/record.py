"""What is the same for all objects of one class, read once: to read it for each costs more than to encode one."""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec


class Record:
    """How the objects of a class are taken apart."""

    __slots__ = ("form", "has_dict", "name", "names", "simple", "values")

    def __init__(
        self,
        form: str,
        name: str,
        names: tuple[str, ...],
        values: Callable[[Any], tuple[Any, ...]],
        *,
        has_dict: bool = False,
        simple: bool = False,
    ) -> None:
        self.form, self.name, self.names = form, name, names
        self.values = values
        """Returns the values of an object, one for each name; raises whatever its code does."""
        self.has_dict = has_dict
        """An object may have attributes that are no fields."""
        self.simple = simple
        """Its ``__dict__`` holds the fields, see `is_simple`."""


def record_of(value: Any, form: str, name: str) -> Record | None:
    """Read the class of ``value``, which travels as ``form`` under ``name``; None if it has no fixed fields."""
    kind = type(value)
    if form == "enum" and issubclass(kind, enum.Enum):
        return Record(form, name, (), tuple)
    if form == "namedtuple":
        return Record(form, name, tuple(kind._fields), partial(_items, len(kind._fields)))
    if form == "struct" and issubclass(kind, msgspec.Struct):
        names = kind.__struct_fields__
    elif form == "dataclass" and dataclasses.is_dataclass(kind):
        names = tuple(field.name for field in dataclasses.fields(kind))
    else:
        return None
    has_dict = hasattr(value, "__dict__")
    simple = form == "dataclass" and is_simple(kind, names)
    return Record(form, name, names, _getter(names), has_dict=has_dict, simple=simple)


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def _items(count: int, value: Any) -> tuple[Any, ...]:
    items = tuple(value)
    if len(items) != count:
        raise ValueError(f"{len(items)} items, {count} names")
    return items


def is_simple(cls: Any, names: tuple[str, ...]) -> bool:
    """True if attributes of these names are what the ``__dict__`` of an object holds, and nothing else."""
    if cls.__getattribute__ is not object.__getattribute__:
        return False
    if type(_static(cls, "__dict__")) is not types.GetSetDescriptorType:  # it has none, or one of its own
        return False
    kinds = [type(_static(cls, name)) for name in names]
    return not any(hasattr(kind, "__set__") or hasattr(kind, "__delete__") for kind in kinds)


def _static(cls: type, name: str) -> Any:
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
