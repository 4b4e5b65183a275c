"""Settings from the tables of a config. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from callboard.transports.errors import ConfigError, did_you_mean

T = TypeVar("T")


def options_of_instance(common: Any, instances: Any, index: int, name: str) -> Any:
    """Return a table of a worker's config with what its own entry of ``instances`` says of it.

    Raises `ConfigError` if there are ``instances`` that make no sense, or none of this number.
    """
    if instances is None:
        return common
    if not isinstance(instances, list | tuple) or not all(isinstance(one, Mapping) for one in instances):
        raise ConfigError(f"instances is {instances!r}; it must be a list of tables, one for each instance")
    if index >= len(instances):
        raise ConfigError(
            f"instances has {len(instances)} entries, and this is instance {index}: there must be one for each"
            " of replicas"
        )
    own = instances[index]
    if unknown := sorted(set(own) - {"engine", "kv_events"}):
        raise ConfigError(
            f"unknown key {unknown[0]!r} of instances; keys are: engine, kv_events"
            f"{did_you_mean(unknown[0], ('engine', 'kv_events'))}"
        )
    if name not in own:
        return common
    example = "{ url = ... }"
    return {
        **table({} if common is None else common, name, example),
        **table(own[name], f"instances: {name}", example),
    }


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
