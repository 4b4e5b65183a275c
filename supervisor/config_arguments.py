"""Checks of the arguments of one actor: against its constructor, and by the class's ``check_args``."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from callboard.transports.errors import ConfigError, did_you_mean

from .config_keys import show
from .config_reader import Reader
from .spec import ActorSpec, is_reference
from .toml_source import Path

PLAIN = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def check_arguments(reader: Reader, path: Path, cls: type, spec: ActorSpec) -> None:
    """The constructor takes the arguments, and the class's own check finds nothing wrong with those that fit."""
    try:
        parameters = list(inspect.signature(cls).parameters.values())
    except (TypeError, ValueError):
        return
    before = len(reader.problems)
    fitting = _check_signature(reader, path, cls, spec, parameters)
    hook = _own_check(cls)
    is_damaged = any(place[: len(path) - 1] == path[:-1] for place in reader.source.damaged)
    if hook is None or is_damaged:  # what lacks a line may look wrong without being so
        return
    try:
        inspect.signature(hook).bind(**fitting)
    except TypeError as error:
        if len(reader.problems) == before:  # else what it lacks is named already
            reader.problem(path, f"{cls.__name__}.check_args does not take these arguments: {error}")
        return
    for what in _problems_of(hook, cls, deepcopy(fitting)):
        reader.problem(_place(path, what, spec.kwargs), what)


def _check_signature(
    reader: Reader, path: Path, cls: type, spec: ActorSpec, parameters: list[inspect.Parameter]
) -> dict[str, Any]:
    """Note what does not fit; return the rest by name."""
    try:
        hints = typing.get_type_hints(inspect.getattr_static(cls, "__init__"))
    except Exception:  # names that only a type checker sees
        hints = {}
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    kinds = {p.kind for p in parameters}
    if len(spec.args) > len(positional) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        count = f"{len(spec.args)} arguments, {cls.__name__} takes {len(positional)}"
        reader.problem(path, f"{count}: {', '.join(p.name for p in positional) or 'none'}")
    given = {p.name for p in positional[: len(spec.args)]} | spec.kwargs.keys()
    for p in parameters:
        required = p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if required and p.name not in given and path[:-1] not in reader.source.damaged:
            reader.problem(path, f'{cls.__name__} needs the argument "{p.name}"')
    fitting = {}
    for name, value in spec.kwargs.items():
        if name not in by_name and inspect.Parameter.VAR_KEYWORD not in kinds:
            takes = f"it takes: {', '.join(by_name) or 'none'}{did_you_mean(name, by_name)}"
            reader.problem((*path, name), f'{cls.__name__} has no argument "{name}"; {takes}')
        elif what := misfit(hints.get(name) if name in by_name else None, value):
            reader.problem((*path, name), what)
        else:
            fitting[name] = value
    for index, (p, value) in enumerate(zip(positional, spec.args, strict=False)):
        if what := misfit(hints.get(p.name), value):
            reader.problem((*path, index), what)
        else:
            fitting[p.name] = value
    return fitting


def misfit(hint: Any, value: Any) -> str:
    """Return what is wrong with a value of a file for this type; empty if nothing is, or it cannot be told.

    >>> misfit(int | None, "3"), misfit(float, 3)
    ('takes an integer, not "3"', '')
    """
    from callboard.actors.ref import Ref

    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        choices = [choice for choice in typing.get_args(hint) if choice is not types.NoneType]
        hint = choices[0] if len(choices) == 1 else None  # a file has no None
    if (typing.get_origin(hint) or hint) is Ref:
        if not (isinstance(value, dict) and "ref" in value):
            name = value if isinstance(value, str) else "name"
            return f'takes a reference, {{ ref = "{name}" }}, not {show(value)}'
    elif hint in PLAIN and not (type(value) is hint or (hint is float and type(value) is int)):
        return f"takes {PLAIN[hint]}, not {'a reference' if is_reference(value) else show(value)}"
    return ""


def _own_check(cls: type) -> Callable[..., Any] | None:
    """Return the class's ``check_args``, unless a constructor below it takes other arguments."""
    for base in cls.__mro__:
        found = vars(base).get("check_args")
        if isinstance(found, classmethod):  # anything else is a message of the user's
            return found.__get__(None, cls)
        if "__init__" in vars(base):
            return None
    return None


def _problems_of(hook: Callable[..., Any], cls: type, args: dict[str, Any]) -> list[str]:
    try:
        if inspect.iscoroutinefunction(hook):
            return [f"{cls.__name__}.check_args is async; it is called without an event loop: def check_args"]
        hook(**args)
    except ConfigError as error:
        return [_one_line(what) for what in error.problems]
    except (Exception, SystemExit) as error:  # whatever a user's check raises, or its end of the program
        return [_one_line(f"{cls.__name__}.check_args failed: {type(error).__name__}: {error}")]
    return []


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _place(path: Path, what: str, args: Mapping[str, Any]) -> Path:
    """The place of the key that the text begins with, such as "engine.blocks is -1", if it is in the file."""
    inside: Any = args
    for part in what.partition(" ")[0].split("."):
        if not (isinstance(inside, dict) and part in inside):
            break
        path, inside = (*path, part), inside[part]
    return path
