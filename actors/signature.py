"""What an actor class understands: its methods, how each is run, and what arguments it takes.

Read once per class. Arguments from other processes are checked against the annotations before a handler
runs: exact simple types by a set lookup, everything else by msgspec, which also turns plain data into the
dataclass, Struct or pydantic model that is annotated (so that JSON callers can reach typed methods).
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Any

import msgspec

from callboard.transports.errors import did_you_mean

from .errors import BadArguments

HOOKS = frozenset({"on_start", "on_ready", "on_down", "on_drain", "on_stop"})


class Run(Enum):
    """How a method is run."""

    COROUTINE = "async def"
    PLAIN = "def"
    STREAM = "async generator"
    PLAIN_STREAM = "generator"


@dataclasses.dataclass(slots=True, eq=False)
class Method:
    """One message of an actor class."""

    name: str
    function: Callable[..., Any]
    run: Run
    streams: bool
    blocking: bool
    interleave: bool
    idempotent: bool
    signature: inspect.Signature
    parameters: tuple[str, ...] = ()
    annotations: tuple[Any, ...] = ()
    accepts: tuple[frozenset[type] | None, ...] = ()
    """Exact types that need no further look, per positional parameter; None: anything goes."""
    only: frozenset[type] = frozenset()
    """If it can be called with one argument, the exact types of it that need no further look."""
    required: int = 0
    special: bool = False
    """Not simply called or awaited: it streams, or it blocks."""
    waits: bool = False
    """A coroutine function."""
    plain_call: bool = True
    """Positional-or-keyword parameters only, so that counting is enough."""

    def bind(self, args: list[Any], kwargs: dict[str, Any] | None) -> list[Any]:
        """Check the arguments and return the positional ones; raises `BadArguments`."""
        accepts = self.accepts
        if kwargs is None and self.plain_call and self.required <= len(args) <= len(accepts):
            if len(args) == 1:  # what most methods take, without a loop
                accepted = accepts[0]
                if accepted is None or type(args[0]) in accepted:
                    return args
            else:
                for value, accepted in zip(args, accepts, strict=False):
                    if accepted is not None and type(value) not in accepted:
                        break
                else:
                    return args
        return self._bind_slowly(args, kwargs or {})

    def _bind_slowly(self, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            names = [name for name in kwargs if name not in self.signature.parameters]
            hint = did_you_mean(names[0], self.parameters) if names else ""
            raise BadArguments(f"{self.name}{self._shape()} was called wrongly: {error}{hint}") from None
        by_name = dict(zip(self.parameters, self.annotations, strict=True))
        for name, value in bound.arguments.items():
            annotation = by_name.get(name, Any)
            if annotation is not Any and self.signature.parameters[name].kind not in _VARIADIC:
                bound.arguments[name] = self._fit(name, value, annotation)
        kwargs.clear()
        kwargs.update(bound.kwargs)
        return list(bound.args)

    def _fit(self, name: str, value: Any, annotation: Any) -> Any:
        try:
            return fit(value, annotation)
        except Exception as error:  # of a validator, too
            raise BadArguments(
                f"{self.name}{self._shape()} takes {_spell(annotation)} as {name!r}, got {_shorten(value)}: {error}"
            ) from None

    def _shape(self) -> str:
        return str(self.signature.replace(return_annotation=inspect.Signature.empty)).replace("'", "")


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
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


def fit(value: Any, annotation: Any) -> Any:
    """Return ``value`` as ``annotation`` takes it; raises TypeError or ValueError with the reason.

    What fits is returned as it is, never a copy; plain data becomes the class that is annotated. An annotation that
    means nothing at run time (``Self``, a name that cannot be resolved) accepts everything.
    """
    exact = _exact(annotation)
    if annotation is Any or annotation is object or (exact is not None and type(value) in exact):
        return value
    if _is_union(annotation):
        return _fit_one(value, annotation)
    origin = typing.get_origin(annotation) or annotation
    if origin is typing.Annotated:
        return fit(value, typing.get_args(annotation)[0])
    if isinstance(origin, type) and not _understood(origin):
        return _of_class(value, origin)
    if hasattr(origin, "model_validate"):
        return value if isinstance(value, origin) else origin.model_validate(value)
    if isinstance(annotation, type) and not _is_typed_dict(annotation) and isinstance(value, annotation):
        return value
    try:
        converted = msgspec.convert(value, annotation, dec_hook=_foreign)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    except TypeError:  # msgspec's word for an annotation that it cannot check
        return value
    return value if isinstance(origin, type) and _is_copy(converted, value, origin) else converted


def _fit_one(value: Any, union: Any) -> Any:
    """Fit the first member that takes ``value`` as it is, else the first that takes it at all."""
    found, reasons = [], []
    for member in typing.get_args(union):
        try:
            fitted = fit(value, member)
        except (TypeError, ValueError) as error:
            reasons += [error] if member is not type(None) else []
            continue
        if fitted is value:
            return value
        found.append(fitted)
    if found:
        return found[0]
    if len(reasons) == 1:
        raise reasons[0]
    raise TypeError(f"a {type(value).__name__} is none of them")


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


def _accepted(annotation: Any) -> frozenset[type] | None:
    """The exact types that ``annotation`` accepts without a further look, or None for everything."""
    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    accepted: frozenset[type] = frozenset()
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
        accepted |= exact
    return accepted


def _is_record(kind: type) -> bool:
    return (
        dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct) or hasattr(kind, "model_validate")
    )


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _spell(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _shorten(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # of its own class, or an integer of thousands of digits
        return f"a {type(value).__name__}"
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _run_of(function: Callable[..., Any]) -> Run:
    if inspect.isasyncgenfunction(function):
        return Run.STREAM
    if inspect.isgeneratorfunction(function):
        return Run.PLAIN_STREAM
    if inspect.iscoroutinefunction(function):
        return Run.COROUTINE
    return Run.PLAIN


def _read(name: str, function: Callable[..., Any]) -> Method:
    signature = inspect.signature(function)
    own = list(signature.parameters.values())[1:]  # without self
    signature = signature.replace(parameters=own)
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # an annotation that cannot be resolved here: the method is called unchecked
        hints = {}
    positional = [p for p in own if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    accepts = tuple(_accepted(hints.get(p.name, Any)) for p in positional)
    required = sum(p.default is p.empty for p in positional)
    plain = all(p.kind is p.POSITIONAL_OR_KEYWORD or p.kind is p.POSITIONAL_ONLY for p in own)
    run = _run_of(function)
    return Method(
        name=name,
        function=function,
        run=run,
        streams=run in (Run.STREAM, Run.PLAIN_STREAM),
        blocking=getattr(function, "__callboard_blocking__", False),
        interleave=getattr(function, "__callboard_interleave__", False),
        idempotent=getattr(function, "__callboard_idempotent__", False),
        signature=signature,
        parameters=tuple(p.name for p in own),
        annotations=tuple(hints.get(p.name, Any) for p in own),
        accepts=accepts,
        only=(accepts[0] or frozenset()) if plain and accepts and required <= 1 else frozenset(),
        required=required,
        plain_call=plain,
        special=run in (Run.STREAM, Run.PLAIN_STREAM) or getattr(function, "__callboard_blocking__", False),
        waits=run is Run.COROUTINE,
    )


def unknown_method(cls: type, name: str, *, streams: bool) -> str:
    """Return the text of an `UnknownMethod`: what there is, and what was probably meant."""
    methods = methods_of(cls)
    method = methods.get(name)
    if method is not None:
        verb = "stream" if method.streams else "ask or tell"
        return f"{cls.__name__}.{name} is {'a stream' if method.streams else 'not a stream'}; use {verb}"
    if name.startswith("_") or name in HOOKS:
        return f"{cls.__name__}.{name} is not a message: names with _ and the hooks on_... are private"
    known = ", ".join(sorted(methods)) or "none"
    return f"{cls.__name__} has no message {name!r}; it has: {known}{did_you_mean(name, methods)}"


@cache
def methods_of(cls: type) -> dict[str, Method]:
    """Return the messages of an actor class by name: its public functions, without the life cycle hooks."""
    base = _base_of(cls)
    found: dict[str, Method] = {}
    for name in dir(cls):
        if name.startswith("_") or name in HOOKS or hasattr(base, name):
            continue
        function = inspect.getattr_static(cls, name)
        if inspect.isfunction(function):
            found[name] = _read(name, function)
    return found


def _base_of(cls: type) -> type:
    return next(
        (c for c in cls.__mro__ if c.__name__ == "Actor" and c.__module__.endswith("actors.actor")), object
    )


@cache
def hook_of(cls: type, name: str) -> Method | None:
    """Return a life cycle hook of an actor class as it is run; None if the class does not define it."""
    function = inspect.getattr_static(cls, name, None)
    if not inspect.isfunction(function) or function is getattr(_base_of(cls), name, None):
        return None
    method = _read(name, function)
    return dataclasses.replace(method, interleave=False, accepts=tuple(None for _ in method.accepts))
