"""Whether a value fits an annotation, and what plain data becomes that is annotated otherwise.

To read `typing` costs more than a whole message, so each annotation is read once, into a `Fit`. It is kept by the
parameter that is annotated and not in a table by annotation: ``A | B`` equals ``B | A``, but tries A first.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec

Fit = Callable[[Any], Any]
"""Returns a value as its annotation takes it; raises TypeError or ValueError, or what a validator raises."""
Test = Callable[[Any], bool]
"""True for a value that is passed on as it is. What is False may fit all the same: a `Fit` has the last word."""

_EXACT: dict[Any, frozenset[type] | None] = {
    Any: None,
    object: None,
    str: frozenset({str}),
    int: frozenset({int}),
    float: frozenset({float, int}),
    bool: frozenset({bool}),
    bytes: frozenset({bytes}),
    list: frozenset({list}),
    dict: frozenset({dict}),
    tuple: frozenset({tuple}),
    set: frozenset({set}),
    None: frozenset({type(None)}),
    type(None): frozenset({type(None)}),
}
_ELEMENTS = frozenset({str, int, float, bool, bytes, type(None)})
"""Inside a container a float is a float only: msgspec makes one of an integer. It copies an inner container."""


def fit(value: Any, annotation: Any) -> Any:
    """Return ``value`` as ``annotation`` takes it; raises TypeError or ValueError with the reason.

    What fits is returned as it is, never a copy; plain data becomes the class that is annotated. An annotation that
    means nothing at run time (``Self``, a name that cannot be resolved) accepts everything.
    """
    return fit_of(annotation)(value)


def fit_of(annotation: Any) -> Fit:
    """Read an annotation, for all values that will come."""
    exact = _exact(annotation)
    if exact is None:
        return _as_it_is
    if _is_union(annotation):
        return _fit_of_union(annotation)
    origin = typing.get_origin(annotation) or annotation
    if origin is typing.Annotated:
        return fit_of(typing.get_args(annotation)[0])
    if isinstance(origin, type) and not _understood(origin):
        return lambda value: _of_class(value, origin)
    if hasattr(origin, "model_validate"):
        return lambda value: value if isinstance(value, origin) else origin.model_validate(value)
    plain_class = isinstance(annotation, type) and not _is_typed_dict(annotation)
    test = quick_test_of(annotation)

    def fit_structure(value: Any) -> Any:
        if type(value) in exact or test(value) or (plain_class and isinstance(value, annotation)):
            return value
        return _convert(value, annotation, origin)

    return fit_structure


def _as_it_is(value: Any) -> Any:
    return value


def _convert(value: Any, annotation: Any, origin: Any) -> Any:
    try:
        converted = msgspec.convert(value, annotation, dec_hook=_foreign)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    except TypeError:  # msgspec's word for an annotation that it cannot check
        return value
    return value if isinstance(origin, type) and _is_copy(converted, value, origin) else converted


def _fit_of_union(union: Any) -> Fit:
    """Fit the first member that takes a value as it is, else the first that takes it at all."""
    members = [(fit_of(member), member is type(None)) for member in typing.get_args(union)]
    test = quick_test_of(union)

    def fit_one(value: Any) -> Any:
        if test(value):
            return value
        found, reasons = [], []
        for fit_member, is_none in members:
            try:
                fitted = fit_member(value)
            except (TypeError, ValueError) as error:
                reasons += [error] if not is_none else []
                continue
            if fitted is value:
                return value
            found.append(fitted)
        if found:
            return found[0]
        if len(reasons) == 1:
            raise reasons[0]
        raise TypeError(f"a {type(value).__name__} is none of them")

    return fit_one


# -- without a further look


def quick_test_of(annotation: Any) -> Test:
    """Read which containers of plain values are passed on as they are: the exact types of what is in them tell."""
    if _is_union(annotation):
        tests = [
            test for test in map(quick_test_of, typing.get_args(annotation)) if test is not _needs_a_look
        ]
        if len(tests) > 1:
            return lambda value: any(test(value) for test in tests)
        return tests[0] if tests else _needs_a_look
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple and arguments[1:] == (...,):
        arguments = arguments[:1]
    elif origin not in (list, set, frozenset, dict):
        return _needs_a_look
    exact = [_elements(argument) for argument in arguments]
    if not all(exact):
        return _needs_a_look
    if origin is not dict:
        (inner,) = exact
        return lambda value: type(value) is origin and inner.issuperset(map(type, value))
    keys, values = exact
    return lambda value: (
        type(value) is dict
        and keys.issuperset(map(type, value))
        and values.issuperset(map(type, value.values()))
    )


def _needs_a_look(value: Any) -> bool:
    return False


def _elements(annotation: Any) -> frozenset[type]:
    """The exact types that msgspec passes on as they are where ``annotation`` is inside a container; empty: unknown."""
    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    found: set[type] = set()
    for member in members:
        kind = type(None) if member is None else member
        if not isinstance(kind, type) or not (kind in _ELEMENTS or _is_fixed_record(kind)):
            return frozenset()
        found.add(kind)
    return frozenset(found)


def _is_fixed_record(kind: type) -> bool:
    return not hasattr(kind, "model_validate") and _is_record(kind)


def accepted(annotation: Any) -> frozenset[type] | None:
    """The exact types that ``annotation`` accepts without a further look, or None for everything."""
    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    found: frozenset[type] = frozenset()
    for member in members:
        origin = typing.get_origin(member)
        free = origin in (list, dict) and all(
            arg in (Any, object, str) for arg in typing.get_args(member)[-1:]
        )
        exact = frozenset({origin}) if free and typing.get_args(member)[-1] is not str else _exact(member)
        if exact is None:
            return None
        if not exact and isinstance(origin or member, type) and not _is_union(member):
            kind = origin or member
            exact = frozenset({kind}) if not _understood(kind) or _is_record(kind) else exact
        found |= exact
    return found


# -- what there is


def _of_class(value: Any, kind: Any) -> Any:
    if getattr(kind, "_is_protocol", False) or isinstance(value, kind):
        return value
    raise TypeError(f"a {type(value).__name__} is not a {getattr(kind, '__name__', kind)}")


def _foreign(kind: Any, value: Any) -> Any:
    """What msgspec calls for a class that it does not know."""
    origin = typing.get_origin(kind) or kind  # Ref[Worker] is checked as Ref
    if hasattr(origin, "model_validate") and not isinstance(value, origin):
        return origin.model_validate(value)
    return _of_class(value, origin)


def _is_copy(converted: Any, value: Any, origin: type) -> bool:
    """True if conversion has only made a new container around the same objects."""
    if not isinstance(converted, _CONTAINERS) or _is_typed_dict(origin) or not isinstance(value, origin):
        return False
    return _content(converted) == _content(value)


def _content(container: Any) -> tuple[Any, ...]:
    if isinstance(container, dict):
        return (*map(id, container), *map(id, container.values()))
    if isinstance(container, set | frozenset):
        return tuple(sorted(map(id, container)))
    return tuple(map(id, container))


_CONTAINERS = (list, tuple, dict, set, frozenset)


def _is_typed_dict(annotation: Any) -> bool:
    return hasattr(annotation, "__required_keys__")


def _understood(origin: type) -> bool:
    """True if msgspec (or pydantic) can check this class structurally."""
    return (
        origin.__module__ in {"builtins", "datetime", "decimal", "uuid", "collections", "collections.abc"}
        or issubclass(origin, msgspec.Struct | Enum)
        or dataclasses.is_dataclass(origin)
        or hasattr(origin, "model_validate")
        or _is_typed_dict(origin)
        or (issubclass(origin, tuple) and hasattr(origin, "_fields"))
    )


def _exact(annotation: Any) -> frozenset[type] | None:
    try:
        return _EXACT.get(annotation, frozenset())
    except TypeError:
        return frozenset()


def _is_record(kind: type) -> bool:
    return (
        dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct) or hasattr(kind, "model_validate")
    )


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)
