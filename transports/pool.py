"""Which idle links to close. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

K = TypeVar("K")


def to_close(
    idle_since_s: Mapping[K, float], now_s: float, *, total: int, limit: int, idle_s: float
) -> list[K]:
    """Return the links to close: those idle for ``idle_s``, and the longest idle while more than ``limit`` are open.

    A link in use is never closed, so a process that talks to more peers than ``limit`` at once keeps them all.

    >>> to_close({"a": 0.0, "b": 5.0}, 6.0, total=3, limit=2, idle_s=60.0)
    ['a']
    """
    by_age = sorted(idle_since_s, key=lambda link: idle_since_s[link])
    over = max(0, total - limit)
    return [link for rank, link in enumerate(by_age) if rank < over or now_s - idle_since_s[link] >= idle_s]
