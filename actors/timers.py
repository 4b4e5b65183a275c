"""Timers of one actor: each has a key, and is a message of the actor to itself.

A key that is started again, or cancelled, takes along the message of its timer that waits already. A timer that
repeats keeps to its times, and leaves out those at which a message of it still waits or runs, so that nothing piles
up in a slow actor.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Hashable
from typing import Any

from .envelope import ASK
from .errors import Overloaded, UnknownMethod
from .inside import Inside
from .mailbox import Letter
from .signature import Method, unknown_method

MOST_TIMERS = 1_000
"""Of one actor."""

LEAST_EVERY_S = 0.001


def next_due_s(due_s: float, every_s: float, now_s: float) -> float:
    """Return the next time of a repeating timer; those that have passed meanwhile are left out.

    >>> next_due_s(10.0, 2.0, 10.5), next_due_s(10.0, 2.0, 15.0)
    (12.0, 16.0)
    """
    missed = max(0, math.floor((now_s - due_s) / every_s))
    return due_s + (missed + 1) * every_s


class Timer(Inside):
    """One timer that runs."""

    __slots__ = ("_args", "_due_s", "_every_s", "_handle", "_key", "_kwargs", "_method", "_timers")

    def __init__(
        self,
        timers: Timers,
        key: Hashable,
        after_s: float,
        every_s: float | None,
        call: tuple[Method, list[Any], dict[str, Any]],
    ) -> None:
        super().__init__(timers.cell)
        self._timers, self._key, self._every_s = timers, key, every_s
        self._method, self._args, self._kwargs = call
        loop = asyncio.get_running_loop()
        self._due_s = loop.time() + after_s
        self._handle: asyncio.TimerHandle | None = loop.call_at(self._due_s, self._fire)

    def _fire(self) -> None:
        self._handle = None
        if self._every_s is not None:
            loop = asyncio.get_running_loop()
            self._due_s = next_due_s(self._due_s, self._every_s, loop.time())
            self._handle = loop.call_at(self._due_s, self._fire)
        if self.letter is None:
            args, kwargs = list(self._args), dict(self._kwargs) or None
            self.post(
                Letter(
                    ASK, 0, None, method=self._method, origin=self, args=args, kwargs=kwargs, cell=self.cell
                )
            )

    @property
    def is_over(self) -> bool:
        """True if nothing more will begin."""
        return self._handle is None and not self.waits

    def ended(self) -> None:
        """See `Inside`: a timer that does not repeat is over."""
        if self._handle is None:
            self._timers.over(self._key, self)

    def cancel(self) -> None:
        """Run no more; a message of it that waits is taken out."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self.withdraw()


class Timers:
    """The timers of one actor, by key."""

    __slots__ = ("_by_key", "cell")

    def __init__(self, cell: Any) -> None:
        self.cell = cell
        self._by_key: dict[Hashable, Timer] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def start(
        self,
        key: Hashable,
        after_s: float,
        every_s: float | None,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Start a timer in place of one of the same key.

        Raises `ValueError`, `UnknownMethod`, `BadArguments`, and `Overloaded` beyond `MOST_TIMERS`.
        """
        cell = self.cell
        if not 0 <= after_s < math.inf:
            raise ValueError(f"a timer after {after_s} s; it must be 0 or more, and finite")
        if every_s is not None and not every_s >= LEAST_EVERY_S:
            raise ValueError(f"a timer every {every_s} s; it must be {LEAST_EVERY_S} or more")
        method = cell.methods.get(name)
        if method is None or method.streams:
            raise UnknownMethod(unknown_method(cell.cls, name, streams=False), actor=cell.location.name)
        named = dict(kwargs)
        bound = method.bind(list(args), named or None)
        if key in self._by_key:
            self._by_key.pop(key).cancel()
        elif len(self._by_key) >= MOST_TIMERS:
            raise Overloaded(
                f"it has {MOST_TIMERS:,} timers, and may have no more; cancel some, or use one key for several",
                actor=cell.location.name,
            )
        if cell.takes_mail:  # else it stops, and would cancel it at once
            self._by_key[key] = Timer(self, key, after_s, every_s, (method, bound, named))

    def cancel(self, key: Hashable) -> bool:
        """Cancel a timer; False if there is none of this key, or its only message is being handled."""
        timer = self._by_key.pop(key, None)
        if timer is None:
            return False
        is_over = timer.is_over
        timer.cancel()
        return not is_over

    def over(self, key: Hashable, timer: Timer) -> None:
        """A timer has run for the last time."""
        if self._by_key.get(key) is timer:
            del self._by_key[key]

    def close(self) -> None:
        """Cancel all."""
        timers, self._by_key = self._by_key, {}
        for timer in timers.values():
            timer.cancel()
