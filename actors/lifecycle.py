"""Hooks of an actor's life that run like messages, before all that wait."""

from __future__ import annotations

from typing import Any

from .envelope import ASK
from .inside import Inside
from .mailbox import Letter
from .signature import Method


class Hook(Inside):
    """One call of a hook."""

    __slots__ = ()
    urgent = True

    def run(self, hook: Method, *args: Any) -> None:
        """Post its letter."""
        self.post(Letter(ASK, 0, None, method=hook, origin=self, args=list(args), cell=self.cell))
