"""Engines, and how a worker's config names one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from callboard.transports.errors import ConfigError, did_you_mean

from ..options import settings_of, table
from .base import Engine

KINDS = {
    "simulated": "callboard.serving.engines.simulated:SimulatedEngine",
    "openai": "callboard.serving.engines.upstream:UpstreamEngine",
    "transformers": "callboard.serving.engines.transformers:TransformersEngine",
}
"""Names of the engines that come with callboard; any other is named by its class path, ``module:Class``."""


def make_engine(options: Mapping[str, Any]) -> Engine:
    """Build the engine that ``{"kind": ..., ...}`` describes. Raises `ConfigError` with every problem.

    The class is built from an instance of its ``Settings``, a dataclass: its fields are the other keys.
    """
    cls, settings = engine_settings(options)
    engine: Engine = cls(settings)
    return engine


def engine_settings(options: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the class that ``make_engine`` would build, and its settings. Raises `ConfigError` like it."""
    values = table(options, "engine", '{ kind = "simulated" }')
    kind = values.pop("kind", None)
    known = ", ".join(KINDS)
    if not isinstance(kind, str):
        raise ConfigError(f'engine.kind is missing; it is a name ({known}) or a class path "module:Class"')
    path = kind if ":" in kind else KINDS.get(kind)
    if path is None:
        raise ConfigError(f"engine.kind is {kind!r}; engines are: {known}{did_you_mean(kind, KINDS)}")
    cls = _load(path)
    return cls, settings_of(cls.Settings, values, f'engine "{kind}"')


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        cls = getattr(import_module(module), name)
    except (Exception, SystemExit) as error:  # whatever a user's module raises, or its end of the program
        raise ConfigError(
            f"engine.kind is {path!r}, which cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not dataclasses.is_dataclass(getattr(cls, "Settings", None)):
        raise ConfigError(f"engine.kind is {path!r}; an engine class has Settings, a dataclass")
    return cls
