"""Waiting for the next change of a system, and telling listeners of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger("callboard.supervisor")


class Changes:
    """Wakes whoever waits, each time that something has changed."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<Changes, {len(self._waiters)} wait>"

    async def wait(self) -> None:
        """Return after the next change."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(future)
        try:
            await future
        finally:
            self._waiters.discard(future)

    def notify(self) -> None:
        """Something has changed."""
        for future in self._waiters:
            if not future.done():
                future.set_result(None)


def told(listener: Callable[..., None], *args: str) -> None:
    """Tell a listener of the user; its error is its own, supervision goes on."""
    try:
        listener(*args)
    except Exception:
        log.exception("a listener of the system failed")
