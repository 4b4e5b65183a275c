"""What becomes of a letter whose handler did not return."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from .directory import Location
from .envelope import TELL
from .errors import ActorStopped, BadArguments
from .mailbox import Letter
from .policy import Executed, State
from .running import absorb, malformed
from .stash import Stashed


class Failing(Protocol):
    """What this module needs from a cell."""

    failed: int
    host: Any
    inner: Any
    location: Location
    state: State

    def refuse(self, letter: Letter, error: Exception) -> None:
        """Answer a letter that is not handled."""


async def close_failed(
    cell: Failing, letter: Letter, error: BaseException, task: asyncio.Task[None], *, ran: bool
) -> None:
    """Answer a letter whose handler, or what comes before it, raised ``error``; ``ran`` says which.

    Raises ``error`` again if the task that has run it has to end.
    """
    letter.task = None
    if not _answered(cell, letter, error, task, ran=ran):
        raise error
    if letter.cancelled:
        await absorb(task)


def _answered(
    cell: Failing, letter: Letter, error: BaseException, task: asyncio.Task[None], *, ran: bool
) -> bool:
    if letter.cancelled and isinstance(error, asyncio.CancelledError | Stashed):
        letter.origin.forget(letter)
        return True
    if isinstance(error, Stashed):
        if cell.inner is not None and cell.state is State.READY:
            cell.inner.stash.add(letter, cell.refuse)
        else:
            cell.refuse(letter, ActorStopped("it was stopped before the message was handled"))
        return True
    if letter.producer is not None:
        letter.producer.close()
    if isinstance(error, asyncio.CancelledError):
        if task.cancelling():
            letter.origin.fail(letter, ActorStopped("it was stopped", executed=Executed.YES), ran=True)
            return False
    elif not isinstance(error, Exception):
        letter.origin.fail(letter, error, ran=ran)
        return False
    cell.failed += 1
    if not ran:
        cell.refuse(
            letter, error if isinstance(error, BadArguments) else malformed(error, cell.location.name)
        )
    elif letter.kind == TELL:
        cell.host.actor_failed(cell, error)
    else:
        letter.origin.fail(letter, error, ran=ran)
    return True
