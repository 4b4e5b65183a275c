"""Keeps a guardian on guard for as long as the supervisor lives: a killed one is replaced at once."""

from __future__ import annotations

import asyncio
import logging
import os

from .guardian import Guardian

log = logging.getLogger("callboard.supervisor")


class Sentry:
    """The guardian of one tree, and its successors. Needs a running event loop.

    Whoever kills guardian and supervisor in the same instant defeats it; then the next supervisor that
    claims the runtime directory clears away what is left.
    """

    def __init__(self, tree: str) -> None:
        self._tree = tree
        self._pids: set[int] = set()
        self._loop = asyncio.get_running_loop()
        self._descriptor = -1
        self.replaced = 0
        """How many guardians were killed."""
        self._guardian = Guardian(tree)
        self._watch()

    @property
    def pid(self) -> int:
        """Process id of the present guardian."""
        return self._guardian.pid

    def guard(self, pid: int) -> None:
        """Take the session led by ``pid`` under guard."""
        self._pids.add(pid)
        self._guardian.guard(pid)

    def release(self, pid: int) -> None:
        """The leader ``pid`` was reaped and nothing of its session is left."""
        self._pids.discard(pid)
        self._guardian.release(pid)

    def check(self) -> None:
        """Replace a guardian that is gone; where death cannot be watched, this is called now and then."""
        if self._guardian.is_alive:
            return
        self._unwatch()
        self._guardian.close()
        try:
            self._guardian = Guardian(self._tree)
        except OSError as error:  # no more processes: the next check tries again
            log.error("the guardian was killed and cannot be replaced yet: %s", error)
            return
        self.replaced += 1
        for pid in self._pids:
            self._guardian.guard(pid)
        self._watch()

    async def close(self) -> None:
        """Let the guardian look once more and end."""
        self._unwatch()
        await asyncio.to_thread(self._guardian.close)

    def _watch(self) -> None:
        if hasattr(os, "pidfd_open"):
            self._descriptor = os.pidfd_open(self._guardian.pid)
            self._loop.add_reader(self._descriptor, self.check)

    def _unwatch(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def __repr__(self) -> str:
        return f"<Sentry of {self._tree}, {self._guardian!r}, {len(self._pids)} processes>"
