"""How an actor ends: its tasks are waited for and then cancelled, and its hooks may neither hang nor break a stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from .current import CURRENT
from .directory import Location
from .policy import State
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


async def drain(cell: Ending, grace_s: float) -> None:
    """A stop begins: run ``on_drain`` for at most ``grace_s`` seconds, while mail is still taken."""
    hook = hook_of(cell.cls, "on_drain")
    if hook is not None and grace_s > 0 and cell.state is State.READY:
        work = run_hook(f"{cell.location.name}: on_drain", lambda: hook.function(cell.actor), grace_s)
        task = asyncio.get_running_loop().create_task(work)
        cell.keep(task)  # a stop that comes meanwhile cancels it like a handler
        await asyncio.wait({task}, timeout=grace_s + 0.5)  # one that ignores its end is left to the stop
