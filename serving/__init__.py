"""An OpenAI-compatible frontend, a router and workers as actors; names are loaded when they are first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .frontend import Frontend
    from .router import Router
    from .worker import Worker

__all__ = ["Frontend", "Router", "Worker"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f".{name.lower()}", __name__), name)
    globals()[name] = value
    return value
