"""Closes the idle links of one client, as pool.py decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from time import monotonic

from .base import Link
from .pool import to_close
from .settings import NetworkSettings

LOOK_S = 5.0
LOOK_OVER_LIMIT_S = 0.25


class IdleCloser:
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
        self._due_s = 0.0

    def __repr__(self) -> str:
        return f"<IdleCloser {len(self._links())} links, {len(self._idle_since_s)} idle>"

    def opened(self, link: Link) -> None:
        """There is one link more; it counts as idle from now on, until a look finds it in use."""
        self._idle_since_s[link] = monotonic()
        over = len(self._links()) > self._settings.pool_size
        self._look_after(LOOK_OVER_LIMIT_S if over else LOOK_S)

    def closed(self, link: Link) -> None:
        """A link is down: what it holds must not wait here for the next look."""
        self._idle_since_s.pop(link, None)

    def close(self) -> None:
        """Look no more."""
        self._cancel()
        self._idle_since_s.clear()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look_after(self, wait_s: float) -> None:
        wait_s = min(wait_s, self._settings.idle_close_s / 4)
        due_s = monotonic() + wait_s
        if self._timer is None or due_s < self._due_s:
            self._cancel()
            self._due_s = due_s
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
            self._look_after(LOOK_S)
