"""Settings from the tables of a config. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from callboard.transports.errors import ConfigError, did_you_mean

T = TypeVar("T")


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
