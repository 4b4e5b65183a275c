"""Connections of a server that have no link: not yet, or no more. Each has a time until which it may stay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from time import monotonic

from .tcp_scissors import Scissors


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

    def __init__(self, take_news: Callable[[], None], scissors: Scissors) -> None:
        self._scissors = scissors
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

    def drop_oldest(self) -> None:
        """Drop who has been here longest without saying hello: this process has hardly any descriptor left."""
        for fd, stranger in self._known.items():
            if stranger.garbage and stranger.until_s < inf:
                self._drop(fd, stranger)
                return

    def drop(self, fd: int) -> None:
        """Drop this one, whatever its time."""
        stranger = self._known.get(fd)
        if stranger is not None:
            self._drop(fd, stranger)

    def _drop(self, fd: int, stranger: Stranger) -> None:
        stranger.until_s = inf

        def is_meant() -> bool:
            self._take_news()
            return self._known.get(fd) is stranger

        self._scissors.cut(fd, is_meant)
