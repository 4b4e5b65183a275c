"""Settings from the tables of a config. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from callboard.transports.errors import ConfigError, did_you_mean

T = TypeVar("T")


def options_of_instance(
    common: Mapping[str, Any] | None, instances: Sequence[Mapping[str, Any]] | None, index: int, name: str
) -> dict[str, Any] | None:
    """Return a table of a worker's config with what its own entry of ``instances`` says of it; None if neither does.

    Raises `ConfigError` if there are ``instances`` and none of this number.
    """
    if instances is None:
        return None if common is None else dict(common)
    if not isinstance(instances, Sequence) or not all(isinstance(one, Mapping) for one in instances):
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
    merged = {**(common or {}), **own.get(name, {})}
    return merged if common is not None or name in own else None


def settings_of(cls: type[T], values: Mapping[str, Any], what: str) -> T:
    """Build a dataclass of settings; ``what`` names the table in errors (``engine "openai"``).

    Raises `ConfigError` with every unknown and every missing key; what the values may be is the class's to say.
    """
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    problems = [
        f"unknown key {key!r} of {what}; keys are: {', '.join(known)}{did_you_mean(key, known)}"
        for key in values
        if key not in known
    ]
    problems += [
        f"{what} needs the key {field.name!r}, which is missing"
        for field in fields(cls)  # type: ignore[arg-type]
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING
    ]
    if problems:
        raise ConfigError(problems)
    return cls(**values)
