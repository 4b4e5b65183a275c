"""How an actor ends: its tasks are waited for and then cancelled, and its hooks may neither hang nor break a stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from .current import CURRENT
from .directory import Location
from .policy import State, StopReason
from .signature import hook_of

log = logging.getLogger("callboard.actors")


class Ending(Protocol):
    """What this module needs from a cell."""

    actor: Any
    cls: type
    location: Location
    state: State

    def keep(self, task: asyncio.Task[None]) -> None:
        """A task works for the actor beside its drainers."""


async def end_tasks(tasks: set[asyncio.Task[Any]], grace_s: float, limit_s: float) -> None:
    """Give tasks ``grace_s`` seconds to end, cancel them, and wait up to ``limit_s`` seconds for that."""
    if tasks and grace_s > 0:
        await asyncio.wait(tasks, timeout=grace_s)
    tasks = {task for task in tasks if not task.done()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=limit_s)


async def run_hook(what: str, hook: Callable[[], Awaitable[Any]], limit_s: float) -> None:
    """Run a hook of a stop for at most ``limit_s`` seconds; what goes wrong in it is logged."""
    current = CURRENT.set(None)
    try:
        async with asyncio.timeout(limit_s):
            await hook()
    except (Exception, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # else nobody asked for it: the hook awaited a task that it had cancelled
        log.exception("%s failed", what)
    finally:
        CURRENT.reset(current)


class Stop:
    """A stop by command, which several may wish for: the reason is that of the first, and so is the drain hook."""

    __slots__ = ("_begun", "_drain", "reason")

    def __init__(self, reason: StopReason) -> None:
        self.reason = reason
        self._begun = False
        self._drain: asyncio.Task[None] | None = None

    async def drain(self, cell: Ending, grace_s: float) -> None:
        """Run ``on_drain`` for at most ``grace_s`` seconds, while mail is still taken; who comes later waits, too."""
        hook = hook_of(cell.cls, "on_drain")
        if not self._begun and hook is not None and grace_s > 0 and cell.state is State.READY:
            work = run_hook(f"{cell.location.name}: on_drain", lambda: hook.function(cell.actor), grace_s)
            self._drain = asyncio.get_running_loop().create_task(work)
            cell.keep(self._drain)  # a stop that comes meanwhile cancels it like a handler
            grace_s += 0.5  # one that ignores its end is left to the stop
        self._begun = True
        if self._drain is not None:
            await asyncio.wait({self._drain}, timeout=grace_s)
