"""The stash of one actor: messages that it puts aside until it can handle them.

A stashed message counts as not begun: it runs from its beginning when its turn comes again, and if that never comes
its caller is told ``executed=never``. It holds its place in the mailbox and its sender's credit, so a fast sender
stays bounded. An actor may stash at most half of what one sender may have on the way, else no further message
could reach it, and none would ever take it out of that state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from .current import CURRENT
from .directory import Location
from .envelope import OPEN
from .errors import StashFull
from .mailbox import Letter, Mailbox


class Owner(Protocol):
    """What a stash needs from its cell."""

    cls: Any
    location: Location
    mailbox: Mailbox

    def wake(self) -> None:
        """Something waits in the mailbox."""


class Stashed(BaseException):
    """Leaves the handler of a message that is put aside. Not an `Exception`, so that no handler takes it for one."""


def leave(cell: Owner) -> NoReturn:
    """End the handler that runs now, and put its message aside; raises `RuntimeError` where that cannot be."""
    letter = CURRENT.get()
    if (
        letter is None
        or letter.task is None
        or letter.cell is not cell
        or _task_or(letter.task) is not letter.task
    ):
        raise RuntimeError(
            "no message is being handled: call stash() in a handler, and not in a task of its own"
        )
    name = letter.method.name
    if letter.kind == OPEN:
        raise RuntimeError(
            f"{name} is a stream, which cannot be stashed: its reader has its first items already"
        )
    if letter.method.interleave:
        raise RuntimeError(f"{name} interleaves, so it never waits for its turn and cannot be stashed")
    if letter.delivery is not None:
        raise RuntimeError(f"{name} is a durable message: raise an error, and it is delivered again later")
    raise Stashed(name)


def _task_or(task: Any) -> Any:
    """The task that runs here, or ``task`` in the thread of a blocking method."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return task


class Stash:
    """What one actor has put aside, in the order in which it did."""

    __slots__ = ("_bytes", "_cell", "_letters")

    def __init__(self, cell: Owner) -> None:
        self._cell = cell
        self._letters: list[Letter] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._live())

    def _live(self) -> list[Letter]:
        """Drop what was cancelled meanwhile."""
        self._letters = [letter for letter in self._letters if not letter.cancelled]
        self._bytes = sum(letter.size for letter in self._letters)
        return self._letters

    def add(self, letter: Letter, refuse: Callable[[Letter, Exception], None]) -> None:
        """Put a letter aside that was taken from the mailbox, or refuse it with `StashFull`."""
        cell, window = self._cell, self._cell.location
        half = window.window - max(1, window.window // 2)
        limit, limit_bytes = min(cell.cls.stash_limit, half), window.window_bytes // 2
        if len(self._letters) >= limit or self._bytes + letter.size > limit_bytes:
            self._live()
        if len(self._letters) >= limit:
            why = f"stash_limit of {cell.cls.__name__}"
            if limit == half:
                why = f"half of the messages that one sender may have here, {window.window}"
            refuse(letter, StashFull(f"{len(self._letters)} messages are stashed, and more may not: {why}"))
        elif self._bytes + letter.size > limit_bytes:
            why = f"half of the bytes that one sender may have here, {window.window_bytes:,}"
            refuse(
                letter,
                StashFull(f"{self._bytes:,} bytes are stashed, and {letter.size:,} more may not: {why}"),
            )
        else:
            self._letters.append(letter)
            self._bytes += letter.size
            cell.mailbox.set_aside(letter)
            if letter.inlet is not None:
                letter.inlet.returned(letter.size)

    def put_back(self) -> None:
        """Let everything wait for its turn again, ahead of all other messages and in its order."""
        letters = self.take_all()
        if letters:
            self._cell.mailbox.put_back(letters)
            self._cell.wake()

    def take_all(self) -> list[Letter]:
        """Take out what is still wanted."""
        letters, self._letters, self._bytes = self._live(), [], 0
        return letters
