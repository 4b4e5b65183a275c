"""Letters that an actor posts to itself: news of a death, timers, its ready hook."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar


class Inside:
    """Origin of such a letter. It is asked rather than told, so that its end is seen; nobody else drops it for room.

    What its handler raises goes to the supervisor, as with a tell.
    """

    __slots__ = ("cell", "letter")

    urgent: ClassVar[bool] = False
    """It is handled before the messages that wait."""

    def __init__(self, cell: Any) -> None:
        self.cell = cell
        self.letter: Any = None
        """The letter, from when it is posted to the end of its handler."""

    @property
    def waits(self) -> bool:
        """True if a letter is posted, and its handler has not begun."""
        return self.letter is not None and self.letter.task is None

    def post(self, letter: Any) -> None:
        """Give the actor a letter; one that stops takes none."""
        if self.cell.takes_mail:
            self.letter = letter
            self.cell.post(letter)

    def withdraw(self) -> bool:
        """Take a letter that waits out of the mailbox, or of the stash; False if none waits."""
        if not self.waits:
            return False
        letter, self.letter = self.letter, None
        self.cell.cancel(letter)
        return True

    def ended(self) -> None:
        """The letter has left for good."""

    # -- as `Origin`

    def reply(self, letter: Any, value: Any) -> None:
        """Its handler returned."""
        self._end(letter)

    def forget(self, letter: Any) -> None:
        """Its handler was cancelled."""
        self._end(letter)

    def fail(self, letter: Any, error: BaseException, *, ran: bool) -> None:
        """Its handler raised, or could not be run, or the actor stops and takes no mail any more."""
        self._end(letter)
        if isinstance(error, Exception | asyncio.CancelledError):  # anything else ends the process
            self.cell.host.actor_failed(self.cell, error)

    def producer(self, letter: Any) -> Any:
        """Nobody reads a stream of it."""
        raise TypeError(f"{letter.method.name} is a generator: nobody reads what it yields")

    def _end(self, letter: Any) -> None:
        if self.letter is letter:
            self.letter = None
        self.ended()
