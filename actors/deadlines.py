"""The clock of the pending table: fails asks whose deadline has passed, and cancels their handlers."""

from __future__ import annotations

import asyncio
from time import monotonic

from .errors import DeadlineExceeded
from .pending import PendingTable
from .policy import Executed


class Sweeper:
    """One timer for all open asks of a node."""

    def __init__(self) -> None:
        self.pending = PendingTable(self._arm)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Take the running loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = self._loop or asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, deadline - monotonic()), self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        for call_id, call in self.pending.expired(monotonic()):
            route = call.route
            waiting = route.forget_waiting(call_id)
            if not call.future.done():
                location = route.location
                where = "while it waited for room" if waiting else "before an answer came"
                call.future.set_exception(
                    DeadlineExceeded(
                        f"the deadline of {call.method} passed {where}",
                        actor=location.name,
                        incarnation=location.incarnation,
                        executed=Executed.NEVER if waiting else Executed.MAYBE,
                    )
                )
            route.cancel(call_id)
