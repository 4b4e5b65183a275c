"""Which way a message takes after it failed: to who has not failed it, and to nobody more often than makes sense."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from .directory import Location
from .errors import ActorError
from .pending import INFINITE
from .target import Route, Target


class Attempts:
    """What has become of one ask or stream so far.

    An incarnation that failed is tried once more, because only the link to it may have broken; that costs no
    try. If it fails again it is left alone until the directory says something new of it: those who may wait
    do so, so that a message outlives the time between a death and its notice.
    """

    __slots__ = ("_failed", "_patient", "_tries", "error")

    def __init__(self, tries: int, *, patient: bool) -> None:
        """``tries`` further ways may be taken; ``patient`` waits for one if there is none."""
        self._tries = tries
        self._patient = patient
        self._failed: list[Location] = []
        self.error: ActorError | None = None
        """What the caller gets if nothing helps: the first that may have run, else the last."""

    def __repr__(self) -> str:
        return f"<Attempts {len(self._failed)} failed, {self._tries} left>"

    def failed(self, location: Location, error: ActorError) -> None:
        """Note that a way failed, in a manner that allows to try again."""
        self._failed.append(location)
        if self.error is None or self.error.retry_is_safe:
            self.error = error
        # It may have run already and is sent again all the same: then it is worth to wait for.
        self._patient = self._patient or not error.retry_is_safe

    async def way(self, target: Target, budget: float, avoid: Sequence[str] = ()) -> Route:
        """Return the way to take next; raises `error` if there is none, or none within ``budget`` seconds.

        Those named in ``avoid`` wait for this very message: asking them again would be a cycle.
        """
        assert self.error is not None
        route = target.pick_beside(self._failed, avoid)
        if route is None and self._patient and self._tries and budget > 0:
            try:
                async with asyncio.timeout(None if budget == INFINITE else budget):
                    await target.up(self._failed, avoid)
            except TimeoutError:
                raise self.error from None
            route = target.pick_beside(self._failed, avoid)
        if route is None:
            raise self.error
        if not is_among(route.location, self._failed):
            if not self._tries:
                raise self.error
            self._tries -= 1
        return route


def is_among(location: Location, others: list[Location]) -> bool:
    """True if this very entry of the directory is there: one that was down in between is another."""
    return any(location is other for other in others)
