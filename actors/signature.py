"""What an actor class understands: its methods, how each is run, and what arguments it takes.

Read once per class. Arguments from other processes are checked against the annotations before a handler
runs: exact simple types by a set lookup, everything else by msgspec (`fitting`), which also turns plain data into the
dataclass, Struct or pydantic model that is annotated (so that JSON callers can reach typed methods).
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Any

from callboard.transports.errors import did_you_mean

from .errors import BadArguments
from .fitting import Fit, Test, accepted, fit_of, quick_test_of

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
    """Exact types that need no further look, per parameter; None: anything goes."""
    tests: tuple[Test, ...] = ()
    """What else needs no further look, per parameter."""
    fits: list[Fit | None] = dataclasses.field(default_factory=list)
    """How all other values are fitted, per parameter; None: not read yet."""
    only: frozenset[type] = frozenset()
    """If it can be called with one argument, the exact types of it that need no further look."""
    most: int = 0
    """Parameters that can be given by position."""
    required: int = 0
    """Those of them without a default."""
    places: dict[str, int] = dataclasses.field(default_factory=dict)
    """Where in ``parameters`` those are that can be given by name."""
    needed: tuple[tuple[str, int], ...] = ()
    """Names and places of all parameters without a default."""
    special: bool = False
    """Not simply called or awaited: it streams, or it blocks."""
    waits: bool = False
    """A coroutine function."""
    plain_call: bool = True
    """Can be called by position, and counting is enough to say how."""
    variadic: bool = False

    def bind(self, args: list[Any], kwargs: dict[str, Any] | None) -> list[Any]:
        """Check the arguments and return the positional ones; raises `BadArguments`.

        What is left in ``kwargs`` has to be given by name; both may be changed.
        """
        if kwargs:
            return self._bind_named(args, kwargs)
        accepts = self.accepts
        if self.plain_call and self.required <= len(args) <= self.most:
            if len(args) == 1:  # what most methods take, without a loop
                accepted = accepts[0]
                if accepted is None or type(args[0]) in accepted or self.tests[0](args[0]):
                    return args
            else:
                for value, accepted, test in zip(args, accepts, self.tests, strict=False):
                    if accepted is not None and type(value) not in accepted and not test(value):
                        break
                else:
                    return args
            return self._fit_all(args)
        return self._bind_slowly(args, {} if kwargs is None else kwargs)

    def _bind_named(self, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        """Put in place what is given by name, unless something is wrong: only `_bind_slowly` says what."""
        count, places = len(args), self.places
        if self.variadic or count > self.most:
            return self._bind_slowly(args, kwargs)
        for name in kwargs:
            if places.get(name, -1) < count:  # unknown, positional only, or given twice
                return self._bind_slowly(args, kwargs)
        for name, place in self.needed:
            if place >= count and name not in kwargs:
                return self._bind_slowly(args, kwargs)
        for name in self.parameters[count : self.most]:
            if name not in kwargs:
                break
            args.append(kwargs.pop(name))
        args = self._fit_all(args)
        if kwargs:
            for place in range(len(args), len(self.parameters)):
                name = self.parameters[place]
                if name in kwargs:
                    kwargs[name] = self._fit(place, kwargs[name])
        return args

    def _bind_slowly(self, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            names = [name for name in kwargs if name not in self.signature.parameters]
            hint = did_you_mean(names[0], self.parameters) if names else ""
            raise BadArguments(f"{self.name}{self._shape()} was called wrongly: {error}{hint}") from None
        for place, name in enumerate(self.parameters):
            if name in bound.arguments and self.signature.parameters[name].kind not in _VARIADIC:
                bound.arguments[name] = self._fit(place, bound.arguments[name])
        kwargs.clear()
        kwargs.update(bound.kwargs)
        return list(bound.args)

    def _fit_all(self, args: list[Any]) -> list[Any]:
        for place, value in enumerate(args):
            accepted = self.accepts[place]
            if accepted is not None and type(value) not in accepted and not self.tests[place](value):
                args[place] = self._fit(place, value)
        return args

    def _fit(self, place: int, value: Any) -> Any:
        """Return ``value`` as the parameter at ``place`` takes it."""
        try:
            fit = self.fits[place]
            if fit is None:
                fit = self.fits[place] = fit_of(self.annotations[place])
            return fit(value)
        except Exception as error:  # of a validator, too
            name, wanted = self.parameters[place], _spell(self.annotations[place])
            raise BadArguments(
                f"{self.name}{self._shape()} takes {wanted} as {name!r}, got {_shorten(value)}: {error}"
            ) from None

    def _shape(self) -> str:
        return str(self.signature.replace(return_annotation=inspect.Signature.empty)).replace("'", "")


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


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
    annotations = tuple(hints.get(p.name, Any) for p in own)
    accepts = tuple(map(accepted, annotations))
    most = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in own)
    needed = tuple(
        (p.name, place) for place, p in enumerate(own) if p.default is p.empty and p.kind not in _VARIADIC
    )
    required = sum(place < most for _, place in needed)
    variadic = any(p.kind in _VARIADIC for p in own)
    plain = not variadic and required == len(needed)
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
        annotations=annotations,
        accepts=accepts,
        tests=tuple(map(quick_test_of, annotations)),
        fits=[None] * len(own),
        only=(accepts[0] or frozenset()) if plain and most and required <= 1 else frozenset(),
        most=most,
        required=required,
        places={p.name: place for place, p in enumerate(own) if p.kind is not p.POSITIONAL_ONLY},
        needed=needed,
        plain_call=plain,
        variadic=variadic,
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
