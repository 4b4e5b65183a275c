"""What a method is marked as, seen from a reference that has only the method, or its name and maybe its class."""

from __future__ import annotations

from typing import Any


def spelt(method: Any) -> str:
    """The name of a message, given as the method or by name."""
    return method if isinstance(method, str) else str(method.__name__)


def interleaves(cls: type | None, method: Any) -> bool:
    """True if it runs beside whatever its actor is handling."""
    function = getattr(cls, method, None) if isinstance(method, str) else method
    return bool(getattr(function, "__callboard_interleave__", False))


def is_idempotent(cls: type | None, method: Any) -> bool:
    """True if it may run twice; the class may say so, where the method is that of a Protocol."""
    mark = "__callboard_idempotent__"
    return bool(getattr(method, mark, False) or getattr(getattr(cls, spelt(method), None), mark, False))
