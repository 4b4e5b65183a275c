"""Dropped tells in the log: the first of a second one by one, the rest as a number.

An actor that is flooded drops thousands of tells when it stops. A line for each would hold the event loop for longer
than the stop itself. The exact count is in `Node.statistics`.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

MOST_A_SECOND = 10

log = logging.getLogger("callboard.actors")


class DropLog:
    """Warns of dropped tells, at most `MOST_A_SECOND` lines a second and one with the sum of the others."""

    def __init__(self) -> None:
        self._since = -1.0
        self._lines = self._others = 0

    def __repr__(self) -> str:
        return f"<DropLog {self._others} not written yet>"

    def note(self, method: str, actor: str, why: object) -> None:
        """A tell was dropped; call this on an event loop."""
        now = monotonic()
        if now - self._since >= 1.0:
            self.flush()
            self._since, self._lines = now, 0
        if self._lines < MOST_A_SECOND:
            self._lines += 1
            log.warning("dropped a tell of %s to %s: %s", method, actor, why)
            return
        if not self._others:
            asyncio.get_running_loop().call_later(1.0, self.flush)
        self._others += 1

    def flush(self) -> None:
        """Write how many there were beyond those that have a line."""
        if self._others:
            log.warning("dropped %s more tells", f"{self._others:,}")
        self._others = 0


note_dropped = DropLog().note
"""Of this process."""
