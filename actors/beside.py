"""Handlers that run beside the drainers of an actor: those of interleaving methods, each in a task of its own."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from .current import CURRENT
from .envelope import OPEN, TELL
from .errors import ActorStopped
from .failing import Failing, close_failed
from .mailbox import Letter, Mailbox
from .running import open_body, run_handler


class Owner(Failing, Protocol):
    """What this module needs from a cell."""

    actor: Any
    handled: int
    mailbox: Mailbox
    rooms: Any

    def keep(self, task: asyncio.Task[None]) -> None:
        """A task works for the actor beside its drainers."""

    def count_out(self, letter: Letter) -> None:
        """A letter has left the mailbox."""

    def let_in(self) -> None:
        """Admit who waits for room."""


def run_beside(cell: Owner, letter: Letter) -> None:
    """Run the handler of a letter at once."""
    name = f"{cell.location.name} {letter.method.name}"
    context = cell.host.context.copy()  # not that of the sender
    loop = asyncio.get_running_loop()
    task = letter.task = loop.create_task(_handle(cell, letter), name=name, context=context)
    cell.keep(task)

    def done(task: asyncio.Task[None]) -> None:  # a task that is cancelled early never starts
        cell.mailbox.give_back()
        cell.count_out(letter)
        if cell.rooms:
            cell.let_in()
        if letter.task is not None and not letter.cancelled:
            letter.origin.fail(letter, ActorStopped("it was stopped before it was handled"), ran=False)

    task.add_done_callback(done)


async def _handle(cell: Owner, letter: Letter) -> None:
    ran = False
    CURRENT.set(letter)
    task = asyncio.current_task()
    assert task is not None
    try:
        args = letter.method.bind(open_body(letter, cell.host.codec), letter.kwargs)
        ran = True
        result = await run_handler(cell.actor, letter, args, letter.kwargs or {})
    except BaseException as error:
        await close_failed(cell, letter, error, task, ran=ran)
    else:
        letter.task = None
        cell.handled += 1
        if letter.kind != TELL:
            letter.origin.reply(letter, result) if letter.kind != OPEN else letter.origin.forget(letter)
