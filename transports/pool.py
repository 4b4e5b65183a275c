"""Which idle links of a client to close, and when to look."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from time import monotonic
from typing import TypeVar

from .base import Link
from .settings import NetworkSettings

K = TypeVar("K")

LOOK_S = 5.0
LOOK_OVER_LIMIT_S = 0.25


def to_close(
    idle_since_s: Mapping[K, float], now_s: float, *, total: int, limit: int, idle_s: float
) -> list[K]:
    """Return the links to close: those idle for ``idle_s``, and the longest idle while more than ``limit`` are open.

    A link in use is never closed, so a process that talks to more peers than ``limit`` at once keeps them all. Pure.

    >>> to_close({"a": 0.0, "b": 5.0}, 6.0, total=3, limit=2, idle_s=60.0)
    ['a']
    """
    by_age = sorted(idle_since_s, key=lambda link: idle_since_s[link])
    over = max(0, total - limit)
    return [link for rank, link in enumerate(by_age) if rank < over or now_s - idle_since_s[link] >= idle_s]


class Pool:
    """Looks at the links of one client from time to time, and closes those that have been idle at each look."""

    def __init__(
        self,
        settings: NetworkSettings,
        links: Callable[[], Collection[Link]],
        is_idle: Callable[[Link], bool],
    ) -> None:
        self._settings = settings
        self._links = links
        self._is_idle = is_idle
        self._idle_since_s: dict[Link, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Pool {len(self._links())} links, {len(self._idle_since_s)} idle>"

    def opened(self, link: Link) -> None:
        """There is one link more; it counts as idle from now on, until a look finds it in use."""
        self._idle_since_s[link] = monotonic()
        over = len(self._links()) > self._settings.pool_size
        if over or self._timer is None:
            self._look_after(min(self._settings.idle_close_s / 4, LOOK_OVER_LIMIT_S if over else LOOK_S))

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_after(self, wait_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._look)

    def _look(self) -> None:
        self._timer = None
        now = monotonic()
        idle = [link for link in self._links() if self._is_idle(link)]
        self._idle_since_s = {link: self._idle_since_s.get(link, now) for link in idle}
        for link in to_close(
            self._idle_since_s,
            now,
            total=len(self._links()),
            limit=self._settings.pool_size,
            idle_s=self._settings.idle_close_s,
        ):
            link.close()
        if self._links():
            self._look_after(min(self._settings.idle_close_s / 4, LOOK_S))
