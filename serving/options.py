"""Settings from the tables of a config. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from callboard.transports.errors import ConfigError, did_you_mean

T = TypeVar("T")


def table(value: Any, what: str, example: str) -> dict[str, Any]:
    """Return a copy of a table of a config. Raises `ConfigError` for anything else."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{what} is {value!r}; it must be a table, such as {example}")
    return dict(value)


def settings_of(cls: type[T], values: Mapping[str, Any], what: str) -> T:
    """Build a dataclass of settings; ``what`` names the table in errors (``engine "openai"``).

    Raises `ConfigError` with every unknown and every missing key; what the values may be is the class's to say, which
    is asked unless a key is missing.
    """
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    missing = [
        f"{what} needs the key {field.name!r}, which is missing"
        for field in fields(cls)  # type: ignore[arg-type]
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING
    ]
    problems = [
        f"unknown key {key!r} of {what}; keys are: {', '.join(known)}{did_you_mean(key, known)}"
        for key in values
        if key not in known
    ] + missing
    if not missing:
        try:
            made = cls(**{key: value for key, value in values.items() if key in known})
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return made


def check_all(*checks: Callable[[], object]) -> None:
    """Call all of them. Raises `ConfigError` with the problems of each."""
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
