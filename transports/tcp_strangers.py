"""Connections of a server that have no link: not yet, or no more. Each has a time until which it may stay.

libzmq has no way to end one connection of a ROUTER. So its descriptor is shut down behind libzmq's back, which then
sees what it would see if the peer had closed. The number of a descriptor is used again as soon as it is closed,
and libzmq closes it in its own thread, after it has reported the end: a duplicate that was made before the report
is the connection that was meant.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from time import monotonic


@dataclass(slots=True)
class Stranger:
    """One such connection."""

    until_s: float
    garbage: bool
    """It has never said a proper hello."""
    answered: bool = False
    """It has been told why it has no link."""


class Strangers:
    """Who is connected without a link, by descriptor; drops those whose time is over."""

    def __init__(self, take_news: Callable[[], None]) -> None:
        self._known: dict[int, Stranger] = {}
        self._take_news = take_news
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = inf

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"<Strangers {sorted(self._known)}>"

    def add(self, fd: int, stay_s: float, *, garbage: bool) -> None:
        """A connection without a link may stay for ``stay_s``; it is ``garbage`` until it has said hello."""
        self._known[fd] = Stranger(monotonic() + stay_s, garbage, answered=not garbage)
        self._arm(monotonic() + stay_s)

    def get(self, fd: int) -> Stranger | None:
        """Return the connection, if it is one without a link."""
        return self._known.get(fd)

    def answered(self, fd: int, stay_s: float) -> None:
        """It was told why; it has ``stay_s`` to read that."""
        stranger = self._known[fd]
        stranger.answered = True
        stranger.until_s = min(stranger.until_s, monotonic() + stay_s)
        self._arm(stranger.until_s)

    def remove(self, fd: int) -> Stranger | None:
        """It has a link now, or is gone."""
        return self._known.pop(fd, None)

    def close(self) -> None:
        """Drop nobody any more."""
        self._known.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, due_s: float) -> None:
        if due_s < self._due_s:
            if self._timer is not None:
                self._timer.cancel()
            self._due_s = due_s
            wait_s = max(0.0, due_s - monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._sweep)

    def _sweep(self) -> None:
        self._timer, self._due_s = None, inf
        now = monotonic()
        for fd, stranger in list(self._known.items()):
            if stranger.until_s <= now and self._known.get(fd) is stranger:
                self._drop(fd, stranger)
        self._arm(min((stranger.until_s for stranger in self._known.values()), default=inf))

    def _drop(self, fd: int, stranger: Stranger) -> None:
        stranger.until_s = inf
        try:
            twin = os.dup(fd)
        except OSError:
            return
        try:
            connection = socket.socket(fileno=twin)
        except OSError:
            os.close(twin)
            return
        with connection, suppress(OSError):
            self._take_news()
            if self._known.get(fd) is stranger:
                connection.shutdown(socket.SHUT_RDWR)
